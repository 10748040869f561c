"""Messages on a link: what is sent is what arrives, and everything fits."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowherd.link.bounded_messages import boot_failed, ready, serves, stopped
from flowherd.link.messages import (
    MAX_BYTES,
    BootFailed,
    CredentialsRefused,
    Drain,
    Finish,
    Fork,
    Forked,
    ForkFailed,
    IsolateEnded,
    IsolateStarted,
    KillIsolate,
    Message,
    NeedIsolate,
    Quiet,
    Ready,
    Release,
    Resume,
    SetSlots,
    Stopped,
    decode_downward,
    decode_upward,
    encode,
)

UP = [
    Ready("py", {"resize": "loop"}),
    BootFailed(3, "it broke", "Traceback"),
    Stopped(2, ("a-1",)),
    CredentialsRefused("401"),
    NeedIsolate(3),
    KillIsolate(3),
    Forked(2, 1, 4711),
    ForkFailed(2, 1, "no memory", key=3),
]
DOWN = [
    SetSlots(4, 7),
    Quiet(),
    Resume(),
    Drain(30.0),
    Drain(1.0, others_go_on=True),
    Release(0.5),
    Finish(1.0),
]
DOWN += [IsolateStarted(3, 4711), IsolateEnded(3, 9, "no memory"), Fork(2, 1, (5,), 4, 8, key=3)]


@pytest.mark.parametrize("message", UP, ids=lambda message: type(message).__name__)
def test_what_goes_up_arrives_as_it_was(message: Message) -> None:
    assert decode_upward(encode(message)) == message


@pytest.mark.parametrize("message", DOWN, ids=lambda message: type(message).__name__)
def test_what_goes_down_arrives_as_it_was(message: Message) -> None:
    assert decode_downward(encode(message)) == message


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"type":"Explode"}', b"[]", encode(UP[0]), b'{"type":"Drain"}']
)
def test_what_is_no_order_is_refused(data: bytes) -> None:
    """Also a message that only a child may send."""
    with pytest.raises(msgspec.DecodeError):
        decode_downward(data)


@pytest.mark.parametrize("data", [b'{"type":"Read\xcf"}', b'{"type":"\xff"}', b'{"type":' + b"[" * 5000])
def test_bytes_that_are_no_text_are_refused_like_anything_else(data: bytes) -> None:
    """A child's garbage must not raise an unexpected exception in the supervisor."""
    for decode in (decode_upward, decode_downward):
        with pytest.raises(msgspec.DecodeError):
            decode(data)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_boot_failure_can_be_sent(message: str, report: str) -> None:
    """Its texts come from user code: control characters, astral ones, lone surrogates of odd file names."""
    for times in (1, 2000):
        sent = boot_failed(3, message * times, report * times)
        assert len(encode(sent)) <= MAX_BYTES
        assert decode_upward(encode(sent)) == sent


@pytest.mark.parametrize("character", ["\0", "\U0001f600", "\udcff", '"', "\n", "a"])
def test_the_end_of_a_long_traceback_is_kept_and_fits(character: str) -> None:
    """The end of a traceback matters most."""
    sent = boot_failed(3, character * 10_000, character * 100_000 + "ValueError: the end")
    assert len(encode(sent)) <= MAX_BYTES
    assert sent.report.endswith("ValueError: the end")


def test_an_app_of_thousands_of_activities_can_say_that_it_is_ready() -> None:
    names = {f"an_activity_with_a_rather_long_name_{number}\udcff": "thread" for number in range(5000)}
    sent = ready("py\udcff", names)
    assert len(encode(sent)) <= MAX_BYTES
    assert 500 < len(sent.activities) < 5000
    assert ready("py", {"a": "loop"}) == Ready("py", {"a": "loop"})


def test_what_thousands_of_activities_take_is_said_as_far_as_it_fits() -> None:
    """The rest is missing, not wrong: an activity that is not in it is unknown."""
    takes = {
        f"activity-{number}": [f"parameter-{number}-{one}" for one in range(20)] for number in range(5000)
    }
    said = serves("\ud800", takes)
    assert len(encode(said)) <= MAX_BYTES
    assert 10 < len(said.takes) < 5000
    assert said.takes["activity-7"] == tuple(sorted(takes["activity-7"]))
    assert decode_upward(encode(said)) == decode_downward(encode(said)) == said
    assert serves("py", {"any": None}).takes == {"any": None}


def test_thousands_of_undelivered_results_fit_into_the_last_message() -> None:
    sent = stopped(7, [f"0193a1b2-0000-7000-8000-{number:012x}" for number in range(5000)])
    assert len(encode(sent)) <= MAX_BYTES
    assert sent.released == 7
    assert len(sent.undelivered) > 500
