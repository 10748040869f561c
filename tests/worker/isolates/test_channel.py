"""Messages between a worker and an isolate: each comes as it went, and whatever else comes is an error (A17, A18)."""

from __future__ import annotations

import itertools
import mmap
import os
import resource
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowherd.activities_and_outcomes import Failed
from flowherd.isolates import isolate_protocol
from flowherd.isolates.channel import MAX_BYTES, Channel, ChannelBroken, ChannelEnded, connect
from flowherd.isolates.isolate_protocol import MAX_UP_BYTES, Draining, Ended, LeftBehind
from flowherd.sdk.output import MAX_OUTPUT_BYTES
from flowherd.testing import make_activity

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def channels() -> Iterator[tuple[Channel, Channel]]:
    """A worker's end and its isolate's."""
    ends, fds = connect()
    isolate = Channel.inherited(fds[0])
    try:
        yield ends.channel, isolate
    finally:
        isolate.close()
        ends.close()
        for fd in fds[1:]:
            os.close(fd)


SOFT, HARD = resource.getrlimit(resource.RLIMIT_NOFILE)
PARTS = st.binary(max_size=300) | st.integers(60_000, 200_000).map(lambda n: b"x" * n)


@given(st.lists(st.tuples(st.text(max_size=300), PARTS), max_size=4))
def test_messages_come_out_as_they_went_in_with_what_belongs_to_them(messages):
    """By turns, and so what was there before never shows."""
    with channels() as (worker, isolate):
        for text, body in messages:
            for sender, receiver in ((worker, isolate), (isolate, worker)):
                sender.send(LeftBehind(text), body)
                sender.send(Draining())
                got, belongs = receiver.receive()
                assert isolate_protocol.decode_upward(got) == LeftBehind(text)
                assert belongs == body
                assert isolate_protocol.decode_downward(receiver.receive()[0]) == Draining()


def test_a_worker_waits_for_nobody():
    """The isolate may be frozen, or compute: its parameters are in the file, and its orders in the socket."""
    with channels() as (worker, _):
        worker.send(Draining(), b"x" * 20_000_000)
        worker.send(Draining())
        with pytest.raises(BlockingIOError):
            worker.receive()


def test_what_was_received_takes_no_memory_any_more():
    with channels() as (worker, isolate):
        isolate.send(Ended(None), b"x" * 1_000_000)
        assert os.fstat(worker._file).st_size > 1_000_000
        worker.receive()
        assert os.fstat(worker._file).st_size == 0


def test_a_message_that_no_file_may_hold_is_refused_before_anything_is_sent():
    with channels() as (worker, isolate):
        with mmap.mmap(-1, MAX_BYTES) as zeros, pytest.raises(OverflowError, match="a message of"):
            worker.send(Draining(), zeros)
        worker.send(Draining())
        assert isolate_protocol.decode_downward(isolate.receive()[0]) == Draining()


def test_an_isolate_sends_no_more_than_its_worker_takes():
    with channels() as (worker, isolate):
        isolate.send(LeftBehind("x" * MAX_UP_BYTES), b"")
        with pytest.raises(ChannelBroken, match="announced"):
            worker.receive()
        isolate.send(Ended(None), bytes(MAX_OUTPUT_BYTES + 1))
        with pytest.raises(ChannelBroken, match=f"and {MAX_OUTPUT_BYTES + 1} that belong"):
            worker.receive()


def test_a_default_timeout_that_the_app_has_set_does_not_reach_the_channel():
    """Otherwise no handler could take longer than that, and its worker would wait for it."""
    socket.setdefaulttimeout(0.001)
    try:
        with channels() as (worker, isolate):
            assert isolate._sock.gettimeout() is None
            assert os.get_blocking(isolate.fileno())
            with pytest.raises(BlockingIOError):
                worker.receive()
    finally:
        socket.setdefaulttimeout(None)


def test_a_file_that_a_handler_has_opened_in_the_place_of_ours_is_not_written(tmp_path):
    """It has closed all descriptors, and the next `open` takes their numbers."""
    (tmp_path / "mine").write_text("precious")
    with channels() as (_, isolate), (tmp_path / "mine").open("r+b") as mine:
        os.dup2(mine.fileno(), isolate._file)
        with pytest.raises(OSError, match="another one"):
            isolate.send(Ended(None), b"{}")
    assert (tmp_path / "mine").read_text() == "precious"


def test_what_was_sent_before_the_end_comes_before_it():
    """Also where the other end has not read what it was sent."""
    with channels() as (worker, isolate):
        worker.send(Draining())
        isolate.send(Ended(None), b"{}")
        isolate.close()
        assert worker.receive()[1] == b"{}"
        with pytest.raises(ChannelEnded):
            worker.receive()


def test_an_end_that_sends_nothing_any_more_still_hears():
    with channels() as (worker, isolate):
        worker.end()
        with pytest.raises(ChannelEnded):
            isolate.receive()
        isolate.send(LeftBehind("a task"))
        assert isolate_protocol.decode_upward(worker.receive()[0]) == LeftBehind("a task")


def test_messages_of_several_threads_do_not_mix():
    with channels() as (worker, isolate):
        os.set_blocking(worker.fileno(), True)
        texts = ["a" * 50_000, "b" * 50_000, "c" * 50_000]
        threads = [
            threading.Thread(target=lambda text=text: [isolate.send(LeftBehind(text)) for _ in range(10)])
            for text in texts
        ]
        for thread in threads:
            thread.start()
        got = [isolate_protocol.decode_upward(worker.receive()[0]).reason for _ in range(30)]
        assert sorted(got) == sorted(texts * 10)
        for thread in threads:
            thread.join()


def test_no_descriptor_is_left_open_where_there_are_not_enough():
    """Each that was opened before is closed again."""
    before = set(os.listdir("/proc/self/fd"))
    numbers = (number for number in itertools.count() if str(number) not in before)
    limit = next(
        itertools.islice(numbers, 7, None)
    )  # seven are free below, wherever those of other tests lie
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, HARD))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            connect()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (SOFT, HARD))
    assert set(os.listdir("/proc/self/fd")) == before


SAMPLES = {"int": 7, "str": "s", "bytes": b"\xff/x", "bool": True, "float": 1.5}
SAMPLES |= {"Version": 7, "Seconds": 1.5, "Growth": 7}
SAMPLES["Activity"] = make_activity("n", settings={"a": 1}, signal_data=[1])
SAMPLES["UsagePlace"] = isolate_protocol.UsagePlace(0, 1, 2, 3)
SAMPLES["Failed | None"] = Failed("C", "m", retryable=True)


def sample_of(kind):
    """A message with a value wherever it has no default."""
    count = len(kind.__struct_fields__) - len(kind.__struct_defaults__)
    return kind(**{name: SAMPLES[kind.__annotations__[name]] for name in kind.__struct_fields__[:count]})


@pytest.mark.parametrize("kind", isolate_protocol.Downward.__args__)
def test_every_message_to_an_isolate_comes_back_as_it_was_said(kind):
    made = sample_of(kind)
    assert isolate_protocol.decode_downward(isolate_protocol.encode(made)) == made


@pytest.mark.parametrize("kind", isolate_protocol.Upward.__args__)
def test_every_message_of_an_isolate_comes_back_as_it_was_said(kind):
    made = sample_of(kind)
    assert isolate_protocol.decode_upward(isolate_protocol.encode(made)) == made
