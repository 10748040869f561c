"""An operator cancels one activity: first at the engine, then at its worker; a fake engine, a real ledger."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs
from worker_kit import open_segment

from flowherd.client.engine_protocol import Answer, Verdict
from flowherd.errors import EngineUnavailable
from flowherd.leases.adoption import Adoptions
from flowherd.leases.cancellation import Canceller, NotCancelled
from flowherd.ledger import Cause, Ledger, RecordWriter, Standing
from flowherd.ledger.adoption_cells import FAIL
from flowherd.ledger.attempt_history import decoded
from flowherd.testing import FakeEngine


class Host:
    """A worker that holds one activity, and what cancels it."""

    def __init__(self, *, is_kept: bool = False) -> None:
        self.engine = FakeEngine()
        self.ledger = Ledger(processes=1, records=4)
        self.segment = open_segment(self.ledger)
        self.writer = RecordWriter(self.segment)
        kept = self.writer.replies.keep(b"{}") if is_kept else None
        self.index, self.sequence = self.writer.claim(
            "a-1", "w-1", "resize", now=10.0, lease_s=60.0, reply=kept
        )
        self.woken: list[int] = []
        self.canceller = Canceller(self.engine, self.ledger, self.woken.append, deadline_s=1.0)

    async def cancel(self, activity_id: str = "a-1", *, requeue: bool = False) -> str:
        return await self.canceller.cancel(activity_id, requeue=requeue)

    @property
    def standing(self) -> Standing:
        return self.segment.standing(self.index, self.sequence)


@pytest.mark.parametrize(
    ("requeue", "said"),
    [(False, "resize a-1 has failed for good (CANCELLED)"), (True, "resize a-1 goes back to the engine")],
)
async def test_the_engine_is_told_and_then_the_worker(*, requeue: bool, said: str) -> None:
    """In this order, since a worker that stops first would let the lease lapse."""
    host = Host()
    with capture_logs() as logs:
        assert (await host.cancel(requeue=requeue)).startswith(said)
    [line] = [line for line in logs if line["event"] == "activity_cancelled"]
    names = {"name", "workflow_id", "activity_key", "process", "seen"}
    assert (line["activity_id"], line["requeued"], names - line.keys()) == ("a-1", requeue, set())
    [call] = host.engine.of("fail")
    error = call.body["error"]
    assert (call.activity_id, error["code"], error["retryable"]) == ("a-1", "CANCELLED", requeue)
    assert (host.standing, host.woken) == (Standing.GONE, [host.segment.number])
    (remembered,) = decoded(host.ledger.history.failures.entries())
    assert (remembered.code, remembered.is_retryable) == ("CANCELLED", requeue)


async def test_what_is_told_of_it_is_as_it_was_decided_and_as_the_engine_answered() -> None:
    """The worker counts the lost lease as soon as it is woken, and the engine may have no attempt left."""
    host = Host()
    host.engine.script("fail", Answer(Verdict.ACCEPTED, will_retry=False))
    times = iter([10.0, 20.0])
    host.canceller = Canceller(
        host.engine,
        host.ledger,
        lambda _: host.ledger.seen.keeper.add("a-1"),
        deadline_s=1.0,
        clock=lambda: next(times),
    )
    with capture_logs() as logs:
        said = await host.cancel(requeue=True)
    assert "has failed for good (CANCELLED): it had no attempt left" in said
    [line] = logs
    assert (line["event"], line["seen"], line["requeued"]) == ("activity_cancelled", 1, False)
    (remembered,) = decoded(host.ledger.history.failures.entries())
    assert (remembered.ended_at, remembered.closed_at, remembered.is_retryable) == (10.0, 20.0, False)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (EngineUnavailable("refused"), "the engine has not answered, so nothing was stopped: refused"),
        (
            EngineUnavailable("reset", in_doubt=True),
            "nothing was stopped: reset; it may have taken it: try again",
        ),
        (Answer(Verdict.UNKNOWN, "no such row"), "the engine has not taken it: no such row"),
    ],
)
async def test_what_the_engine_does_not_take_is_not_stopped(step: Answer | Exception, said: str) -> None:
    """Else the handler would be ended, and the activity run again after its lease."""
    host = Host()
    host.engine.script("fail", step)
    with pytest.raises(NotCancelled, match=said):
        await host.cancel()
    assert (host.standing, host.woken) == (Standing.UNKNOWN, [])


async def test_an_activity_claimed_by_another_worker_is_stopped_here() -> None:
    """Also the second try after an answer that was lost."""
    host = Host()
    host.engine.script("fail", Answer(Verdict.GONE, "already completed"))
    assert (
        "is not this host's any more (already completed); its handler is told to stop" in await host.cancel()
    )
    assert (host.standing, host.woken) == (Standing.GONE, [host.segment.number])


async def test_an_activity_that_is_not_held_or_has_a_result_is_refused() -> None:
    """A result that is being delivered takes precedence."""
    host = Host()
    with pytest.raises(
        NotCancelled, match="no process of this host holds an activity a-2, and none of a workflow of"
    ):
        await host.cancel("a-2")
    host.writer.reporting(host.index, None)
    with pytest.raises(NotCancelled, match="a-1 has ended: its result is on its way"):
        await host.cancel()
    assert host.engine.of("fail") == []


class Flow(Host):
    """A host with two activities of the workflow `flow` and one of another workflow."""

    def __init__(self) -> None:
        super().__init__()
        self.places = {
            name: self.writer.claim(name, "w-1", "resize", now=10.0, lease_s=60.0, workflow_id=flow)
            for name, flow in (("b-1", "flow"), ("b-2", "flow"), ("c-1", "other"))
        }

    def stopped(self) -> list[str]:
        standings = {name: self.segment.standing(*place) for name, place in self.places.items()}
        return [name for name, standing in standings.items() if standing is Standing.GONE]


async def test_a_workflow_s_id_cancels_all_its_activities_on_this_host() -> None:
    """`flowherd status` and `submit` show that id, and no other."""
    host = Flow()
    assert await host.cancel("flow", requeue=True) == (
        "resize b-1 goes back to the engine; its handler is told to stop. "
        "resize b-2 goes back to the engine; its handler is told to stop"
    )
    assert host.stopped() == ["b-1", "b-2"]


async def test_an_activity_of_a_workflow_that_has_ended_keeps_its_result() -> None:
    host = Flow()
    host.writer.reporting(host.places["b-1"][0], None)
    await host.cancel("flow")
    assert host.stopped() == ["b-2"]
    host.writer.reporting(host.places["b-2"][0], None)
    with pytest.raises(NotCancelled, match="flow has ended: its result is on its way"):
        await host.cancel("flow")


@pytest.mark.parametrize(
    ("step", "words", "stopped"),
    [
        (
            Answer(Verdict.UNKNOWN, "no row"),
            "the engine has not taken it: no row. resize b-2 has failed",
            ["b-2"],
        ),
        (
            EngineUnavailable("no"),
            "the engine has not answered, so nothing was stopped: no. 1 more not tried",
            [],
        ),
    ],
)
async def test_what_of_a_workflow_is_not_cancelled_is_named(
    step: Answer | Exception, words: str, stopped: list[str]
) -> None:
    """An engine that does not answer is not asked again for each activity: every call would wait as long."""
    host = Flow()
    host.engine.script("fail", step)
    with pytest.raises(NotCancelled, match=f"b-1: {words}"):
        await host.cancel("flow")
    assert host.stopped() == stopped


async def test_a_claim_that_was_adopted_while_the_engine_was_asked_is_stopped_where_it_is() -> None:
    """Its process has died meanwhile: else the one that goes on would run it to its next heartbeat."""
    host = Host()
    record = host.segment.record(host.index)
    assert record is not None
    adopter = open_segment(host.ledger)
    places: list[tuple[int, int]] = []

    async def die() -> Verdict:
        host.segment.end(Cause.SIGNAL, 9)
        place = RecordWriter(adopter).claim(
            "a-1", record.worker_id, "resize", now=10.0, lease_s=60.0, adopted=(record, 0)
        )
        host.segment.adoption.decide(record, place[1])
        adopting = next(adopter.adopting())
        adopter.judge(adopting, Standing.GOOD, 10.0)
        host.segment.judge(record, Standing.SETTLED, 10.0)
        places.append(place)
        return Verdict.ACCEPTED

    host.engine.script("fail", die)
    await host.cancel()
    assert adopter.standing(*places[0]) is Standing.GONE
    assert host.woken == [adopter.number]
    assert host.standing is Standing.SETTLED


async def test_what_a_dead_process_had_not_begun_is_cancelled_and_not_adopted() -> None:
    """It may wait for a free slot for seconds: meanwhile the operator would be told that nobody holds it."""
    host = Host(is_kept=True)
    host.segment.end(Cause.SIGNAL, 9)
    adoptions = Adoptions(host.ledger, host.woken.append, lambda: 20.0)
    record = host.segment.record(host.index)
    assert record is not None
    adoptions.open([(host.segment, record)])
    assert (await host.cancel()).startswith("resize a-1 has failed for good (CANCELLED)")
    adoptions.attend()
    assert host.segment.adoption.decision(record) == FAIL
    assert host.standing is Standing.SETTLED
    with pytest.raises(NotCancelled, match="no process of this host holds"):
        await host.cancel()
