"""The isolate's side, part by part: interruption by SIGTERM, and messages to the worker."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from worker_kit import open_segment

from flowherd import CancelReason, LeaseLost, SyncActivityContext
from flowherd.errors import StorageFailed
from flowherd.execution.run_environment import RunEnvironment
from flowherd.files.scratch_folders import GivenFolder
from flowherd.isolates.channel import Channel, Ends, connect
from flowherd.isolates.inside.isolate_engine import UsageKeeper
from flowherd.isolates.inside.worker_connection import WorkerConnection
from flowherd.isolates.isolate_protocol import Begin, Stop, UsagePlace
from flowherd.ledger import Cause, Cell, Ledger
from flowherd.sdk.run_state import RunState
from flowherd.sdk.spending import Costs
from flowherd.testing import make_activity

if TYPE_CHECKING:
    from collections.abc import Iterator

LONG_S = 10.0  # ceiling for a failing test


class Wire:
    """A connection, and the worker's end of it."""

    def __init__(self) -> None:
        self.worker: Ends
        self.worker, (channel, *self.others) = connect()
        self.loop = asyncio.new_event_loop()
        self.channel = Channel.inherited(channel)
        self.connection = WorkerConnection(self.channel, self.loop)

    def close(self) -> None:
        self.loop.close()
        self.worker.close()
        self.channel.close()
        for fd in self.others:
            os.close(fd)


@contextmanager
def wire() -> Iterator[Wire]:
    made = Wire()
    with closing(made):
        yield made


@pytest.fixture
def connection() -> Iterator[WorkerConnection]:
    before = signal.getsignal(signal.SIGTERM)
    with wire() as made:
        made.connection.take_sigterm()
        yield made.connection
    signal.signal(signal.SIGTERM, before)


def state_of(reason: CancelReason | None = None) -> RunState:
    state = RunState(make_activity("x"), RunEnvironment())
    state.cancel_reason = reason
    return state


def strike() -> None:
    signal.raise_signal(signal.SIGTERM)


def interrupted(connection: WorkerConnection, state: RunState, handler: Any) -> BaseException:
    """What a handler is ended with."""
    with pytest.raises(asyncio.CancelledError) as raised, connection.around(state):
        handler()
    return raised.value


# SIGTERM


def test_a_signal_without_a_running_handler_interrupts_nothing(connection):
    """Such as between two activities: the signal is not for the next one."""
    strike()
    with connection.around(state_of()):
        reached = True
    strike()
    assert reached


@pytest.mark.parametrize(
    ("reason", "error"),
    [(CancelReason.TIMEOUT, asyncio.CancelledError), (CancelReason.LEASE_LOST, LeaseLost)],
)
def test_a_def_is_interrupted_with_the_reason_as_its_error(connection, reason, error):
    def handler() -> None:
        strike()

    assert type(interrupted(connection, state_of(reason), handler)) is error


def test_a_signal_without_a_reason_is_a_cancellation_too(connection):
    assert str(interrupted(connection, state_of(), strike)) == "the isolate was told to stop"


def test_a_def_that_has_stopped_by_itself_is_not_interrupted_while_it_cleans_up(connection):
    """It may have looked at `ctx.cancelled` before the signal came, as it would in a thread."""
    state = state_of(CancelReason.LEASE_LOST)
    cleaned_up = []

    def handler() -> None:
        try:
            SyncActivityContext(state).raise_if_cancelled()
        finally:
            strike()
            cleaned_up.append(1)

    with pytest.raises(LeaseLost), connection.around(state):
        handler()
    assert cleaned_up == [1]


def test_the_transfers_of_other_threads_end_with_the_handler(connection):
    state, ended = state_of(CancelReason.TIMEOUT), []
    state.files = SimpleNamespace(cancel=lambda: ended.append(1))

    def handler() -> None:
        strike()

    interrupted(connection, state, handler)
    assert ended == [1]


async def test_an_async_def_is_cancelled_once(connection):
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
    with connection.around(state_of(CancelReason.TIMEOUT), task):
        await asyncio.sleep(0)
        strike()
        await asyncio.wait({task}, timeout=LONG_S)
    assert seen == ["cancelled", "cleaned up"]


# What is kept


def keeper_in(ledger: Ledger) -> UsageKeeper:
    segment = open_segment(ledger)
    return UsageKeeper(ledger, UsagePlace(segment.number, segment.get(Cell.STARTED), 0, 7))


def test_what_is_spent_is_on_the_attempts_page_until_the_attempt_has_ended():
    """A thread that goes on must not write where the next attempt's sums are."""
    ledger = Ledger(processes=1, records=2)
    keeper = keeper_in(ledger)
    costs, page = Costs(keeper), ledger.segments[0].usage(0, 7)
    costs.add_cost("0.25")
    kept = page.read()
    assert kept is not None
    keeper.end()
    costs.add_cost("9")
    assert page.read() == kept


def test_nothing_is_spent_in_the_name_of_a_worker_that_has_ended():
    """Its segment may be reused at once, and an isolate outlives its worker by a moment."""
    ledger = Ledger(processes=1, records=2)
    keeper = keeper_in(ledger)
    segment = ledger.segments[0]
    segment.end(Cause.SIGNAL)
    Costs(keeper).add_cost("9")
    segment.settled()
    segment.open(index=0, incarnation=2, now=0.0)
    Costs(keeper).add_cost("9")
    assert segment.usage(0, 7).read() is None


def test_an_attempt_without_a_folder_says_so_at_its_first_file(tmp_path):
    folder = GivenFolder()
    with pytest.raises(StorageFailed, match="the worker has none"):
        folder.folder()
    folder.path = tmp_path / "given"
    assert folder.folder().is_dir()


# What comes


def test_an_activity_whose_cancellation_has_come_before_it_does_not_begin():
    """The worker says both in one breath; the main thread may be slower than the one that listens."""
    with wire() as it:
        begin = Begin(make_activity("x", activity_id="a-1"), 5.0, "mark", UsagePlace(0, 1, 0, 1))
        it.worker.channel.send(begin, b"{}")
        it.worker.channel.send(Stop("shutdown"))
        it.worker.channel.end()
        it.connection._listen()
        assert it.loop.run_until_complete(it.connection.next_job()) == (begin, b"{}")
        state = RunState(make_activity("x", activity_id="a-1"), RunEnvironment())
        with pytest.raises(asyncio.CancelledError), it.connection.around(state):
            pytest.fail("it has begun")
        assert state.cancel_reason is CancelReason.SHUTDOWN
        assert it.loop.run_until_complete(it.connection.next_job()) is None
