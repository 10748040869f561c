"""Output of a process as lines of the log: bounded in length, number and time (faults.md A17)."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from virtual_time import virtual_time

from flowherd.isolates.printed_output import (
    CHUNK_BYTES,
    LINE_S,
    LONGEST_LINE,
    MOST_LINES,
    Lines,
    mark_bytes,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Pipe:
    """A pipe whose lines are collected; `ends` says how many there were at each end of output."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.said: list[str] = []
        self.ends: list[int] = []
        self.lines = Lines(self.reading, self.said.append, lambda: self.ends.append(len(self.said)))

    async def write(self, data: bytes) -> None:
        """Writes, and lets the loop read and log all of it."""
        os.write(self.writing, data)
        await self.rest()

    async def rest(self) -> None:
        """In virtual time: nothing is left to do."""
        await asyncio.sleep(60.0)

    def close(self) -> None:
        with suppress(OSError):  # the test has closed it
            os.close(self.writing)


@asynccontextmanager
async def pipe() -> AsyncIterator[Pipe]:
    made = Pipe()
    try:
        yield made
    finally:
        made.lines.stop()
        os.close(made.reading)
        made.close()


@virtual_time
async def test_lines_are_said_as_they_end_and_the_last_one_at_the_end():
    async with pipe() as it:
        await it.write(b"one\ntw")
        assert it.said == ["one"]
        await it.write(b"o\r\n\n  \nthr\xffee")
        assert it.said == ["one", "two"]
        os.close(it.writing)
        await it.rest()
        assert it.said == ["one", "two", "thr\N{REPLACEMENT CHARACTER}ee"]


@virtual_time
@pytest.mark.parametrize("holds", [True, False])
async def test_output_in_the_pipe_of_an_ended_process_is_logged_even_if_others_hold_it(holds):
    """It is read at once, so that the pipe can be closed, and logged at the pace of everything else."""
    async with pipe() as it:
        it.lines.expect("12ab")
        os.write(it.writing, b"a\n" * 3 * MOST_LINES + b"half")
        if not holds:
            os.close(it.writing)
        it.lines.finish()
        assert it.said == ["a"] * MOST_LINES
        await it.rest()
        assert it.said == ["a"] * 3 * MOST_LINES + ["half"]


@virtual_time
async def test_a_line_without_an_end_is_cut_and_never_kept_whole():
    async with pipe() as it:
        await it.write(b"x" * (2 * LONGEST_LINE + 1))
        assert [len(line) for line in it.said] == [LONGEST_LINE, LONGEST_LINE]
        os.close(it.writing)
        await it.rest()
        assert it.said[2:] == ["x"]


@virtual_time
@pytest.mark.parametrize("line", [b"\n", b"a\n"])
async def test_a_flood_leaves_the_loop_to_others_and_loses_nothing(line):
    """A limited number of lines in one turn of the loop, then a pause; blank ones count, too."""
    async with pipe() as it:
        loop, count = asyncio.get_running_loop(), 20 * MOST_LINES
        begun, most, before = loop.time(), 0, 0
        os.write(it.writing, line * count)
        os.close(it.writing)
        while len(it.lines._rest) or not it.lines._has_all:
            most, before = max(most, len(it.said) - before), len(it.said)
            await asyncio.sleep(LINE_S)
        assert it.said == ["a"] * count * (line == b"a\n")
        assert most <= MOST_LINES
        assert loop.time() - begun >= (count - MOST_LINES) * LINE_S


@virtual_time
async def test_a_process_that_prints_more_than_is_logged_fills_its_pipe_and_waits():
    """Only one piece of what was read is kept here."""
    async with pipe() as it:
        os.write(it.writing, b"a\n" * (CHUNK_BYTES - 1))
        while not it.said:  # noqa: ASYNC110 - the loop reads by itself
            await asyncio.sleep(0)
        assert len(it.lines._rest) == CHUNK_BYTES - 2 * MOST_LINES


@virtual_time
@pytest.mark.parametrize(
    "before", [b"", b"half a line", b"whole\n", b"x" * (LONGEST_LINE - 1), b"x" * LONGEST_LINE]
)
@pytest.mark.parametrize("cut", range(1, 12))
async def test_a_mark_ends_the_output_wherever_it_stands_and_is_no_line_itself(before, cut):
    async with pipe() as it:
        it.lines.expect("12ab")
        text = before + mark_bytes("12ab") + b"after\n"
        at = len(before) + cut - 2
        for piece in (text[: max(at, 0)], text[max(at, 0) :]):
            await it.write(piece)
        expected = [before.decode().rstrip("\n")] if before else []
        assert it.ends == [len(expected)]
        assert it.said == [*expected, "after"]
        assert not it.lines.is_awaited


@virtual_time
@pytest.mark.parametrize("text", [b"\0other\0\n", b"12ab\n", b"\x0012ab\0 \n"])
async def test_nothing_but_the_mark_is_the_mark(text):
    async with pipe() as it:
        it.lines.expect("12ab")
        await it.write(text)
        assert not it.ends
        assert it.lines.is_awaited
        await it.write(2 * mark_bytes("12ab"))
        assert len(it.ends) == 1, "it ends one output, not two"


@virtual_time
async def test_nothing_is_read_after_it_was_stopped():
    async with pipe() as it:
        os.write(it.writing, b"x\n" * (MOST_LINES + 1))
        while not it.said:  # noqa: ASYNC110 - the loop reads by itself
            await asyncio.sleep(0)
        it.lines.stop()
        it.lines.stop()
        await it.rest()
        assert it.said == ["x"] * MOST_LINES
