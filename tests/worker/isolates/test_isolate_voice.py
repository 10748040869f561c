"""The isolate's own side, piece by piece: what SIGTERM interrupts, what is told to the worker, and in which words."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from flowherd import CancelReason, LeaseLost
from flowherd.errors import FileTooLarge, InvalidFile
from flowherd.execution.environment import RunEnvironment
from flowherd.isolates.frames import FrameReader, StreamEnded
from flowherd.isolates.inside.desk import Desk
from flowherd.isolates.inside.remote import Calls, RemoteState, RemoteTransfers, file_error
from flowherd.isolates.inside.voice import Interruption, UpwardHandler, Voice
from flowherd.isolates.isolate_protocol import Answered, Begin, Cancel, Logged, Refused, decode_upward, encode
from flowherd.sdk.run_state import RunState
from flowherd.testing import make_activity

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG_S = 10.0  # a broken test waits so long


@pytest.fixture
def interruption() -> Iterator[Interruption]:
    before = signal.getsignal(signal.SIGTERM)
    made = Interruption()
    made.install()
    yield made
    signal.signal(signal.SIGTERM, before)


def state_of(reason: CancelReason | None = None) -> RunState:
    state = RunState(make_activity("x"), RunEnvironment())
    state.cancel_reason = reason
    return state


def strike() -> None:
    signal.raise_signal(signal.SIGTERM)


def interrupted(interruption: Interruption, state: RunState, handler: Any) -> BaseException:
    """What a handler is ended with."""
    with pytest.raises(asyncio.CancelledError) as raised, interruption.around(state):
        handler()
    return raised.value


# SIGTERM


def test_nobody_is_interrupted_where_no_handler_is_at_work(interruption):
    """Such as between two activities: the next one is not meant."""
    strike()
    with interruption.around(state_of()):
        reached = True
    strike()
    assert reached


@pytest.mark.parametrize(
    ("reason", "error"),
    [(CancelReason.TIMEOUT, asyncio.CancelledError), (CancelReason.LEASE_LOST, LeaseLost)],
)
def test_a_def_is_interrupted_with_the_reason_as_its_error(interruption, reason, error):
    def handler() -> None:
        interruption.reason_known.set()
        strike()

    assert type(interrupted(interruption, state_of(reason), handler)) is error


def test_the_reason_is_waited_for_where_the_signal_was_faster(interruption):
    """It comes by another way, and the handler shall see why it must stop."""
    state = state_of()

    def say_why() -> None:
        state.cancel_reason = CancelReason.LEASE_LOST
        interruption.reason_known.set()

    def handler() -> None:
        timer = threading.Timer(0.03, say_why)
        timer.start()
        try:
            strike()
        finally:
            timer.join()

    assert type(interrupted(interruption, state, handler)) is LeaseLost


def test_a_signal_that_nobody_explains_is_a_cancellation_all_the_same(interruption):
    assert str(interrupted(interruption, state_of(), strike)) == "the isolate was told to stop"


def test_a_message_is_sent_whole_before_the_handler_is_interrupted(interruption):
    sent = []

    def handler() -> None:
        interruption.reason_known.set()
        with interruption.shield():
            with interruption.shield():
                strike()
                sent.append("inner")
            sent.append("outer")
        sent.append("never")

    interrupted(interruption, state_of(CancelReason.TIMEOUT), handler)
    assert sent == ["inner", "outer"]


def test_other_threads_have_no_need_of_a_shield(interruption):
    """The signal is for the main thread, whoever is in the middle of a message elsewhere."""
    inside, leave = threading.Event(), threading.Event()

    def speak() -> None:
        with interruption.shield():
            inside.set()
            leave.wait(LONG_S)

    thread = threading.Thread(target=speak)

    def handler() -> None:
        interruption.reason_known.set()
        thread.start()
        inside.wait(LONG_S)
        strike()

    interrupted(interruption, state_of(CancelReason.TIMEOUT), handler)
    leave.set()
    thread.join()


async def test_an_async_def_is_cancelled_once(interruption):
    """A second signal must not hit it while it cleans up."""
    seen = []

    async def handler() -> None:
        try:
            await asyncio.sleep(LONG_S)
        except asyncio.CancelledError:
            seen.append("cancelled")
            strike()
            await asyncio.sleep(0.01)
            seen.append("cleaned up")
            raise

    task = asyncio.create_task(handler())
    with interruption.around(state_of(CancelReason.TIMEOUT), task):
        await asyncio.sleep(0)
        strike()
        await asyncio.wait({task}, timeout=LONG_S)
    assert seen == ["cancelled", "cleaned up"]


# What is said


class Wire:
    """A voice, and the worker's end of it."""

    def __init__(self) -> None:
        self.worker, ours = socket.socketpair()
        self.voice = Voice(ours, Interruption())
        self._reader = FrameReader(1 << 20)
        self._frames: list[Any] = []

    def frame(self) -> Any:
        self.worker.settimeout(LONG_S)
        while not self._frames:
            self._frames += self._reader.read(self.worker)
        return self._frames.pop(0)

    def heard(self) -> Any:
        return decode_upward(self.frame())


@contextmanager
def wire() -> Iterator[Wire]:
    made = Wire()
    with closing(made.worker), closing(made.voice):
        yield made


@contextmanager
def logger_to(it: Wire) -> Iterator[logging.Logger]:
    """A logger of the isolate's kind."""
    logger, handler = logging.getLogger("app.part"), UpwardHandler(it.voice)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield logger
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


def logged(logger_call: Any) -> Logged:
    with wire() as it, logger_to(it) as logger:
        logger_call(logger)
        return it.heard()


def test_a_record_keeps_its_logger_level_words_and_fields():
    record = logged(
        lambda log: log.warning("%s of %d", "one", 2, extra={"shelf": "B", "rows": [1, {"a": None}]})
    )
    assert record == Logged("app.part", 30, "one of 2", {"shelf": "B", "rows": [1, {"a": None}]})


def test_what_is_no_json_is_logged_in_its_own_words():
    record = logged(
        lambda log: log.info("x\ud800", extra={"odd": {1}.union, "half": "\ud800", "big": "y" * 9000})
    )
    assert record.message == "x?"
    assert record.fields["half"] == "?"
    assert "union" in record.fields["odd"]
    assert len(record.fields["big"]) == 4000


def test_an_exception_is_logged_with_its_traceback():
    def call(log: logging.Logger) -> None:
        try:
            {}["shelf"]
        except KeyError:
            log.exception("failed")

    assert logged(call).fields["exception"].endswith("KeyError: 'shelf'")


def test_an_event_of_structlog_is_a_record_like_any_other():
    """Where it comes replayed out of the worker's log it is no event of structlog any more."""
    extra = {"_logger": object(), "_name": "info"}  # as structlog hands them over for its formatter
    record = logged(lambda log: log.info({"event": "moved", "rows": 3}, extra=extra))
    assert (record.message, record.fields) == ("moved", {"rows": 3})


def test_logging_goes_on_when_the_worker_has_gone():
    with wire() as it, logger_to(it) as logger:
        it.worker.close()
        logger.error("nobody hears this")


def test_a_destructor_that_logs_within_a_message_waits_for_nobody():
    """Its thread holds the lock already: it would wait for itself."""
    with wire() as it, logger_to(it) as logger:
        send = it.voice._send_all
        it.voice._send_all = lambda buffers: (logger.error("within"), send(buffers))
        logger.error("around")
        assert it.heard().message == "around"


# Calls


def test_answers_find_their_call_whatever_their_order():
    with wire() as it:
        calls = Calls(it.voice)
        transfers = RemoteTransfers(calls)
        first, second = transfers.download("w/k/a"), transfers.download("w/k/b")
        numbers = [it.heard().call for _ in range(2)]
        calls.heed(Refused(numbers[1], "FILE_TOO_LARGE", "9 MB"))
        calls.heed(Answered(numbers[0], b"/x/\xff"))
        calls.heed(Answered(99, b"of nobody"))
        assert str(first.result(0)) == "/x/\udcff"
        with pytest.raises(FileTooLarge, match="9 MB"):
            second.result(0)


def test_whoever_gives_a_call_up_tells_the_worker():
    with wire() as it:
        calls = Calls(it.voice)
        future = RemoteTransfers(calls).download("w/k/a")
        number = it.heard().call
        future.cancel()
        assert (type(it.heard()).__name__, number) == ("Abandoned", number)
        calls.heed(Answered(number, b"too late"))


def test_a_name_that_is_no_text_is_refused_before_it_is_sent():
    with wire() as it, pytest.raises(InvalidFile):
        RemoteTransfers(Calls(it.voice)).download("w/k/\ud800")


def test_an_unknown_code_is_a_file_error_with_its_words():
    error = file_error("NEW_CODE", "words")
    assert (type(error).__name__, str(error)) == ("FileError", "words")


async def test_a_cancellation_that_comes_before_its_activity_has_begun_is_kept_for_it():
    """The worker says both in one breath; the main thread may be slower than the one that listens."""
    with wire() as it:
        desk = Desk(it.voice, Interruption(), asyncio.get_running_loop())
        begin = Begin("a-1", "w", "k", "x", "py", "w-1", 5.0)
        for frame in (
            encode(begin),
            b"{}",
            encode(Cancel("other", "timeout")),
            encode(Cancel("a-1", "shutdown")),
        ):
            desk._heed(frame)
        job = await asyncio.wait_for(desk.next_job(), LONG_S)
        assert (job.begin, job.parameters) == (begin, b"{}")
        state = RemoteState(make_activity("x", activity_id="a-1"), RunEnvironment(), it.voice)
        desk.open(state)
        assert state.cancel_reason is CancelReason.SHUTDOWN
        desk.close()
        assert state.has_ended


def test_a_heartbeat_is_told_now_and_then():
    with wire() as it:
        state = RemoteState(make_activity("x"), RunEnvironment(), it.voice)
        for now in (10.0, 10.1, 10.2, 10.3, 20.0):
            state.heartbeat_at = now
        it.voice.sock.shutdown(socket.SHUT_WR)
        assert [type(it.heard()).__name__ for _ in range(3)] == ["Progressed"] * 3
        with pytest.raises(StreamEnded):
            it.heard()
        assert state.heartbeat_at == 20.0


def test_frames_are_whole_although_the_worker_reads_in_small_pieces():
    with wire() as it:
        it.voice.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        thread = threading.Thread(target=it.voice.say, args=(Cancel("a", "b"), b"z" * 300_000))
        thread.start()
        assert (it.frame(), len(it.frame())) == (encode(Cancel("a", "b")), 300_000)
        thread.join()
