"""What a process prints, as lines of the log: bounded in length, number and time (faults.md A17)."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager

import pytest

from flowherd.isolates.printed_output import (
    CHUNK_BYTES,
    LONGEST_LINE,
    PAUSE_S,
    Lines,
    Share,
    mark_bytes,
)


@contextmanager
def pipe(*, most=50, marked=lambda: None):
    """A pipe whose lines are collected; its clock stands still until it is set."""
    clock = [100.0]
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    said = []
    lines = Lines(reading, Share(most, lambda: clock[0]), said.append, marked)
    try:
        yield lines, writing, said, clock
    finally:
        lines.stop()
        os.close(reading)
        try:
            os.close(writing)
        except OSError:
            assert True  # the test has closed it


async def test_lines_are_said_as_they_end_and_the_last_one_at_the_end():
    with pipe() as (lines, writing, said, _):
        os.write(writing, b"one\ntw")
        lines._read()
        assert said == ["one"]
        os.write(writing, b"o\r\n\n  \nthr\xffee")
        lines._read()
        assert said == ["one", "two"]
        os.close(writing)
        assert not lines._is_over
        lines._read()
        assert lines._is_over
        assert said == ["one", "two", "thr\N{REPLACEMENT CHARACTER}ee"]


async def test_a_line_without_an_end_is_cut_and_never_kept_whole():
    with pipe() as (lines, writing, said, _):
        os.write(writing, b"x" * (2 * LONGEST_LINE + 1))
        lines._read()
        assert [len(line) for line in said] == [LONGEST_LINE, LONGEST_LINE]
        assert lines.settle()
        assert said[2:] == ["x"]


async def test_whoever_prints_more_than_its_share_waits_for_the_next_one():
    """What it has written beyond that stays in the pipe, which is full soon: then it waits, and nobody else."""
    with pipe(most=3) as (lines, writing, said, clock):
        os.write(writing, b"a\n" * 5)
        lines._read()
        assert not lines.settle()
        assert len(said) == 3
        clock[0] += 2 * PAUSE_S
        assert lines.settle()
        assert len(said) == 5


async def test_blank_lines_cost_their_share_too():
    with pipe(most=3) as (lines, writing, said, _):
        os.write(writing, b"\n" * CHUNK_BYTES)
        lines._read()
        assert said == []


@pytest.mark.parametrize(
    "before", [b"", b"half a line", b"whole\n", b"x" * (LONGEST_LINE - 1), b"x" * LONGEST_LINE]
)
@pytest.mark.parametrize("cut", range(1, 12))
async def test_a_mark_ends_the_output_wherever_it_stands_and_is_no_line_itself(before, cut):
    marked, mark = [], mark_bytes("12ab")
    with pipe(marked=lambda: marked.append(list(said))) as (lines, writing, said, _):
        lines.expect("12ab")
        text = before + mark + b"after\n"
        at = len(before) + cut - 2
        for piece in (text[: max(at, 0)], text[max(at, 0) :]):
            os.write(writing, piece)
            lines._read()
        expected = [before.decode().rstrip("\n")] if before else []
        assert marked == [expected]
        assert said == [*expected, "after"]


@pytest.mark.parametrize("text", [b"\0other\0\n", b"12ab\n", b"\x0012ab\0 \n"])
async def test_nothing_but_the_mark_is_the_mark(text):
    marked = []
    with pipe(marked=lambda: marked.append(1)) as (lines, writing, _, _):
        lines.expect("12ab")
        os.write(writing, text)
        lines._read()
        assert not marked
        os.write(writing, 2 * mark_bytes("12ab"))
        lines._read()
        assert marked == [1], "it ends one output, not two"


async def test_a_flood_leaves_the_loop_to_others_and_loses_nothing():
    """The pauses are real time: at most one share in each."""
    said = []
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    share = Share(most=10)
    loop = asyncio.get_running_loop()
    lines = Lines(reading, share, said.append)
    begun = loop.time()
    os.write(writing, b"".join(b"%d\n" % n for n in range(95)))
    os.close(writing)
    async with asyncio.timeout(10):
        while not lines._is_over:  # noqa: ASYNC110 - the loop reads by itself
            await asyncio.sleep(0)
    assert said == [str(n) for n in range(95)]
    assert loop.time() - begun >= 8 * PAUSE_S
    os.close(reading)


async def test_nothing_is_read_after_it_was_stopped():
    with pipe(most=1) as (lines, writing, said, clock):
        os.write(writing, b"x\ny\n")
        while not said:  # noqa: ASYNC110 - the loop reads by itself
            await asyncio.sleep(0)
        lines.stop()
        lines.stop()
        clock[0] += 1.0
        await asyncio.sleep(2 * PAUSE_S)  # a pause would have ended
        assert said == ["x"]


@pytest.mark.parametrize("taken", [0, 50, 51])
def test_a_share_is_whole_again_after_a_pause(taken):
    clock = [5.0]
    share = Share(50, lambda: clock[0])
    assert share.left == 50
    for _ in range(taken):
        share.take()
    assert share.left == 50 - taken
    clock[0] += 2 * PAUSE_S
    assert share.left == 50
