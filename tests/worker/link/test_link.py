"""Links: whole messages, descriptors with their message, and a reliable end."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from flowherd.link.link import Link, LinkClosed
from flowherd.link.messages import Drain, Quiet, WatchChild, decode_downward, encode

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    left, right = Link.pair()
    yield left, right
    left.close()
    right.close()


def test_messages_arrive_whole_and_in_order(ends: tuple[Link, Link]) -> None:
    left, right = ends
    left.send(Drain(30.0))
    left.send(Quiet())
    received = [right.receive(), right.receive()]
    assert [decode_downward(data) for data, _ in received if data] == [Drain(30.0), Quiet()]


def test_a_default_timeout_that_the_app_has_set_does_not_reach_a_link() -> None:
    """Otherwise a preload that nobody asks for anything would take the supervisor for dead."""
    socket.setdefaulttimeout(0.001)
    try:
        for link in Link.pair():
            assert link._sock.gettimeout() is None
            link.close()
    finally:
        socket.setdefaulttimeout(None)


def test_a_descriptor_comes_with_the_message_that_names_it(ends: tuple[Link, Link]) -> None:
    """A pidfd must never be taken for another process's."""
    left, right = ends
    reader, writer = os.pipe()
    left.send(WatchChild(segment=3, pid=4711), [writer])
    left.send(Quiet())
    os.close(writer)
    received = right.receive()
    assert received is not None
    data, (copy,) = received
    assert decode_downward(data) == WatchChild(3, 4711)
    os.write(copy, b"!")
    os.close(copy)
    assert os.read(reader, 1) == b"!"
    os.close(reader)
    assert right.receive() == (encode(Quiet()), [])


def test_a_nonblocking_read_of_a_silent_link_returns_nothing(ends: tuple[Link, Link]) -> None:
    _, right = ends
    right.set_blocking(blocking=False)
    assert right.receive() is None


def test_the_end_of_the_other_process_comes_after_its_last_message(ends: tuple[Link, Link]) -> None:
    """Faults P1: end of file means that the other process has ended."""
    left, right = ends
    left.send(Quiet())
    left.close()
    assert right.receive() == (encode(Quiet()), [])
    with pytest.raises(LinkClosed):
        right.receive()


def test_a_killed_process_closes_its_end(ends: tuple[Link, Link]) -> None:
    left, right = ends
    pid = os.fork()
    if not pid:
        right.close()
        left.send(Quiet())
        os.kill(os.getpid(), 9)
    left.close()
    os.waitpid(pid, 0)
    assert right.receive() == (encode(Quiet()), [])
    with pytest.raises(LinkClosed):
        right.receive()


def test_sending_without_a_receiver_is_the_end_of_the_link(ends: tuple[Link, Link]) -> None:
    left, right = ends
    right.close()
    with pytest.raises(LinkClosed):
        left.send(Quiet())
    with pytest.raises(LinkClosed):
        left.send(Quiet(), [0])


def test_a_receiver_that_never_reads_does_not_block_a_sender_that_must_not_wait(
    ends: tuple[Link, Link],
) -> None:
    """A stopped child must not stop its supervisor."""
    left, _ = ends
    left.set_blocking(blocking=False)

    def send_for_ever() -> None:
        while True:
            left.send(Drain(30.0))

    with pytest.raises(LinkClosed):
        send_for_ever()


def test_a_descriptor_that_user_code_has_closed_is_the_end_of_the_link(ends: tuple[Link, Link]) -> None:
    """Faults A14: a handler that closes every descriptor."""
    left, _ = ends
    os.close(left.fileno())
    with pytest.raises(LinkClosed):
        left.receive()
    with pytest.raises(LinkClosed):
        left.send(Quiet())
    left.close()
    left.close()


def test_a_message_keeps_its_borders_at_any_size() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sender, receiver = Link(left), Link(right)
    for name in ("x", "y" * 60_000, "z"):
        sender._sock.send(name.encode())
        received = receiver.receive()
        assert received == (name.encode(), [])
    sender.close()
    receiver.close()
