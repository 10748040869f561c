"""Frames, however the stream cuts them, and whatever else comes (faults.md A17, A18)."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolate_pool_kit import frame_of

from flowherd.activities_and_outcomes import Failed
from flowherd.isolates import isolate_protocol
from flowherd.isolates.frames import HEAD, FrameError, FrameReader, StreamEnded
from flowherd.testing import make_activity


class Scripted:
    """A socket that gives out a stream in pieces of given sizes."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        self.data = data
        self.sizes = sizes

    def recv_into(self, view: memoryview) -> int:
        most = len(view)
        size = min(most, self.sizes.pop(0) if self.sizes else most)
        piece, self.data = self.data[:size], self.data[size:]
        view[: len(piece)] = piece
        return len(piece)


def read_all(sock: Scripted, *limits: int) -> list[tuple[bytes, bytes]]:
    reader, found = FrameReader(*limits or (1 << 20, 1 << 20)), []
    try:
        while True:
            if (frame := reader.read(sock)) is not None:
                found.append((bytes(frame[0]), bytes(frame[1])))
    except StreamEnded:
        return found


PARTS = st.binary(max_size=300) | st.integers(60_000, 200_000).map(lambda n: b"x" * n)


@given(
    st.lists(st.tuples(PARTS, PARTS), max_size=4),
    st.lists(st.integers(1, 70_000), max_size=30),
)
def test_frames_come_out_as_they_went_in_however_the_stream_is_cut(frames, sizes):
    stream = b"".join(frame_of(*frame) for frame in frames)
    assert read_all(Scripted(stream, sizes)) == frames


@pytest.mark.parametrize("cut", [1, 7, 8, 10, 70_000, 130_008])
def test_a17_a_stream_that_ends_within_a_frame_is_broken(cut):
    whole = frame_of(b"y" * 130_000, b"z")
    with pytest.raises(FrameError, match="middle of a frame"):
        read_all(Scripted(whole[:cut], []))


def test_a17_a_length_beyond_the_limit_is_refused_before_there_is_memory_for_it():
    with pytest.raises(FrameError, match="announced 4294967295 bytes"):
        read_all(Scripted(HEAD.pack(2**32 - 1, 0), []))
    for parts in ((b"z" * 101, b""), (b"", b"z" * 1001)):
        with pytest.raises(FrameError, match="announced"):
            read_all(Scripted(frame_of(*parts), []), 100, 1000)
    assert len(read_all(Scripted(frame_of(b"z" * 100, b"z" * 1000), []), 100, 1000)) == 1


def test_a_large_frame_is_received_right_into_its_place():
    """One copy from the kernel, and none after it: what `read` returns is what was received into."""
    left, right = socket.socketpair()
    with closing(left), closing(right):
        reader = FrameReader(10, 1 << 20)
        right.sendall(HEAD.pack(2, 100_000) + b"{}" + b"x" * 10)
        assert reader.read(left) is None
        assert reader._frame is not None
        place = reader._frame[1]
        right.sendall(b"x" * 99_990)
        while (frame := reader.read(left)) is None:
            pass
        assert frame[1] is place
        assert len(place) == 100_000


SAMPLES = {"int": 7, "str": "s", "bytes": b"\xff/x", "bool": True, "float": 1.5}
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
