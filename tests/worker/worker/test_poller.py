"""The poller: slots first, one poll at a time, never cancelled by itself, paced by work and by the circuit."""

from __future__ import annotations

import asyncio

import pytest
from attempts_kit import State, Table, an_activity
from msgspec.structs import replace
from structlog.testing import capture_logs
from virtual_time import now, virtual_time

from flowherd.client.engine_protocol import Batch, Undecodable
from flowherd.errors import EngineError, EngineMisconfigured, EngineUnavailable, ForeignReply, ReplyTooLarge
from flowherd.ledger import Cell, Clock
from flowherd.settings.worker_config import WorkerConfig
from flowherd.worker.next_step import SOON_S
from flowherd.worker.poll_batch_size import LEAST
from flowherd.worker.poller import Poller, PollMode
from flowherd.worker.sibling_processes import Siblings


class Polling:
    """A poller with a real table of attempts; polls are noted with their time."""

    def __init__(self, *, slots: int = 4, records: int = 50, **settings: object) -> None:
        self.table = Table(slots=slots, records=records)
        self.engine = self.table.engine
        config = WorkerConfig(worker_id="host-1", concurrency=slots, **settings)
        self.claims: list[int] = []
        self.must_wait = False
        self.poller = Poller(
            config,
            self.engine,
            self.table.segment,
            self.table.meter,
            self.table.circuit,
            self.table.attempts,
            Siblings.none(self.table.segment),
            self.claims_seen,
            lambda: self.must_wait,
        )
        self.table.attempts._slots_changed = self.poller.slots_changed
        self.table.attempts._acknowledged = self.poller.acknowledged
        self.task = asyncio.get_running_loop().create_task(self.poller.run())

    def claims_seen(self, _: float) -> None:
        """How many records there were when the poller said that claims had come."""
        self.claims.append(len(list(self.table.segment.records())))

    @property
    def polls(self):
        return self.engine.of("poll")


def bringing(*activities) -> object:
    """A poll step that brings these whatever was asked for."""

    async def step(count: list[int] = [0]) -> Batch:  # noqa: B006 - one number for each step
        count[0] += 1
        return Batch([replace(activity, worker_id=f"p-{id(step)}-{count[0]}") for activity in activities])

    return step


@virtual_time
async def test_a_poll_asks_for_the_free_slots_and_at_most_for_poll_max() -> None:
    """protocol.md R1, faults P19."""
    for slots, poll_max, expected in ((4, 10, 4), (64, 10, 10), (300, 100, 100)):
        polling = Polling(slots=slots, records=2000, poll_max=poll_max)
        await asyncio.sleep(0.01)
        assert polling.polls[0].limit == expected
        polling.task.cancel()


@virtual_time
async def test_a_poll_asks_for_no_more_than_can_begin_soon() -> None:
    """See test_poll_batch_size.py."""
    polling = Polling(slots=64, records=500, poll_max=100)
    polling.poller._policy._batch_size.most = LEAST
    polling.engine.offer(*(an_activity(f"a-{number}") for number in range(40)))
    await asyncio.sleep(0.01)
    assert polling.polls[0].limit == LEAST


@virtual_time
async def test_a_poll_asks_for_no_more_than_there_are_records() -> None:
    polling = Polling(slots=8, records=3)
    await asyncio.sleep(0.01)
    assert polling.polls[0].limit == 3


@virtual_time
async def test_slots_are_taken_while_a_poll_is_under_way_and_given_back_when_it_brings_less() -> None:
    polling = Polling(slots=4)
    asked = asyncio.Event()
    polling.engine.script("poll", asked.wait)
    await asyncio.sleep(0.01)
    assert polling.table.slots.held == 4
    polling.engine.offer(an_activity())
    asked.set()
    await asyncio.sleep(0.01)
    assert polling.table.slots.held == 1


@virtual_time
async def test_a_lease_is_as_old_as_the_poll_that_brought_it() -> None:
    """The engine may have claimed at once: after a slow reply, or when this process stood still, a beat is due."""
    polling = Polling(slots=4)
    polling.engine.offer(an_activity())
    polling.engine.script("poll", lambda: asyncio.sleep(2.5))
    asked_at = now()
    await asyncio.sleep(3.0)
    [record] = polling.table.segment.records()
    assert record.claimed_at == pytest.approx(asked_at, abs=0.1)


@virtual_time
async def test_there_is_never_more_than_one_poll_in_flight() -> None:
    """Every slot change and acknowledgement wakes the poller; none may start a second poll."""
    polling = Polling(slots=4)
    under_way, most = 0, 0

    async def count() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.5)
        under_way -= 1

    polling.engine.script("poll", *[count] * 1000)
    for _ in range(50):
        polling.poller.acknowledged("wf-1")
        polling.poller.slots_changed()
        await asyncio.sleep(0.1)
    assert most == 1
    assert 9 <= len(polling.polls) <= 11


@virtual_time
async def test_nothing_is_polled_without_a_free_slot_and_a_freed_slot_polls_at_once() -> None:
    polling = Polling(slots=1)
    polling.engine.offer(an_activity("a-1"), an_activity("a-2"))
    await asyncio.sleep(10.0)
    before = len(polling.polls)
    await asyncio.sleep(10.0)
    assert len(polling.polls) == before
    polling.table.handlers.end("a-1")
    await asyncio.sleep(0.01)
    assert polling.table.handlers.running["a-2"] == 1


@virtual_time
async def test_no_poll_is_made_while_polls_have_to_wait_and_the_next_one_comes_soon_after() -> None:
    """N6: it could take what another process of the host still holds; also while the circuit lets calls wait."""
    polling = Polling(slots=4)
    await asyncio.sleep(1.0)
    polling.must_wait = True
    before = len(polling.polls)
    await asyncio.sleep(10.0)
    assert len(polling.polls) == before
    assert polling.table.segment.clock(Clock.NEXT_POLL_AT) == 0, "siblings would leave their polls to it"
    polling.must_wait = False
    await asyncio.sleep(0.15)
    assert before < len(polling.polls) <= before + 2
    polling.engine.script("poll", *[EngineUnavailable("connection refused")] * 12)
    await asyncio.sleep(5.0)
    polling.must_wait = True
    before = len(polling.polls)
    await asyncio.sleep(30.0)
    assert len(polling.polls) == before
    polling.must_wait = False
    await asyncio.sleep(15.0)
    assert len(polling.polls) > before


@virtual_time
async def test_every_poll_has_a_worker_id_of_its_own() -> None:
    """protocol.md R2 and fact 8: the only fence, used as a fencing token."""
    first, second = Polling(), Polling()
    await asyncio.sleep(3.0)
    ids = [call.worker_id for polling in (first, second) for call in polling.polls]
    assert len(set(ids)) == len(ids) > 20
    assert all(id_.startswith("host-1-") and len(id_) <= 200 for id_ in ids)


@virtual_time
async def test_idle_polls_slow_down_and_work_or_a_completion_makes_them_quick_again() -> None:
    polling = Polling()
    await asyncio.sleep(900.0)
    begun = len(polling.polls)
    await asyncio.sleep(10.0)
    assert 3 <= len(polling.polls) - begun <= 8
    before = len(polling.polls)
    polling.poller.acknowledged("wf-1")
    await asyncio.sleep(0.02)
    assert len(polling.polls) > before + 1


@virtual_time
async def test_a_receipt_puts_the_next_poll_off_without_a_look_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is cold in the processor's caches costs most: a tenth of what an activity takes where they are few."""
    polling = Polling()
    await asyncio.sleep(1.0)
    steps: list[str] = []

    def note(name: str) -> None:
        step = getattr(polling.poller._policy, name)
        monkeypatch.setattr(
            polling.poller._policy, name, lambda *args, **kw: (steps.append(name), step(*args, **kw))[1]
        )

    for name in ("next_at", "began", "found", "acknowledged"):
        note(name)
    polling.engine.offer(an_activity())
    polling.table.handlers.end("a-1")
    await asyncio.sleep(0.2)
    receipt = steps.index("acknowledged")
    claim = receipt - steps[receipt::-1].index("found")
    assert steps[claim : receipt + 4] == ["found", "next_at", "acknowledged", "next_at", "began", "found"]


@virtual_time
async def test_a_receipt_while_polls_have_to_wait_does_not_say_that_one_comes() -> None:
    """Siblings would leave it to this process."""
    polling = Polling()
    polling.must_wait = True
    await asyncio.sleep(0.2)
    polling.poller.acknowledged("wf-1")
    assert polling.table.segment.clock(Clock.NEXT_POLL_AT) == 0


@virtual_time
async def test_a_call_of_a_sibling_is_answered_with_one_poll_at_once() -> None:
    """It has more work than it can start, or leaves its turn: an empty queue needs no second look."""
    polling = Polling()
    await asyncio.sleep(60.03)
    before = len(polling.polls)
    polling.poller.called()
    await asyncio.sleep(0.05)
    assert len(polling.polls) == before + 1


@virtual_time
async def test_a_full_batch_of_light_work_is_followed_by_a_poll_at_once() -> None:
    """There is probably more, and a pause after each batch would be lost to a queue that is never empty."""
    polling = Polling(slots=4)
    meter = polling.poller._meter
    meter.enter_isolate()  # one begins …
    meter.ended("work", 0.0001, 0.0001)  # … and has ended
    polling.engine.offer(*(an_activity(f"a-{number}") for number in range(12)))
    polling.table.handlers.end(*(f"a-{number}" for number in range(12)))
    await asyncio.sleep(SOON_S * 1.5)
    assert polling.table.count(Cell.CLAIMED) == 12


# Outages


@virtual_time
async def test_an_outage_is_probed_with_growing_delays_and_the_slots_stay_free_for_waiting_work() -> None:
    """Faults E1, E5."""
    polling = Polling(slots=2)
    polling.engine.script("poll", *[EngineUnavailable("connection refused")] * 1000)
    await asyncio.sleep(60.0)
    assert len(polling.polls) <= 30
    assert polling.table.slots.held == 0
    assert polling.table.count(Cell.POLL_ERRORS) == len(polling.polls)
    assert polling.table.count(Cell.POLLS) == 0


@virtual_time
async def test_work_that_waits_for_a_slot_starts_amid_an_outage() -> None:
    polling = Polling(slots=1)
    polling.engine.script(
        "poll",
        bringing(an_activity("a-1"), an_activity("a-2")),
        *[EngineUnavailable("connection refused")] * 1000,
    )
    await asyncio.sleep(1.0)
    polling.table.handlers.end("a-1")
    await asyncio.sleep(5.0)
    assert polling.table.handlers.running["a-2"] == 1


@pytest.mark.parametrize("in_doubt", [True, False])
@virtual_time
async def test_a_poll_whose_fate_is_unknown_is_named_with_its_worker_id(*, in_doubt: bool) -> None:
    """Faults E2: the engine may have claimed activities for it that no process knows."""
    polling = Polling()
    polling.engine.script("poll", EngineUnavailable("ReadError", in_doubt=in_doubt))
    with capture_logs() as logs:
        await asyncio.sleep(1.0)
    said = [entry for entry in logs if entry["event"] == "poll_in_doubt"]
    assert [entry["worker_id"] for entry in said] == ([polling.polls[0].worker_id] if in_doubt else [])
    assert polling.polls[1].worker_id != polling.polls[0].worker_id


@virtual_time
async def test_polls_whose_fate_is_unknown_are_named_once_until_one_is_answered() -> None:
    """A foreign server at the engine's address would otherwise fill the log."""
    polling = Polling()
    lost = EngineUnavailable("status 501: <!DOCTYPE HTML>", in_doubt=True)
    polling.engine.script("poll", *[lost] * 5, bringing(), *[lost] * 5)
    with capture_logs() as logs:
        await asyncio.sleep(60.0)
    said = [entry for entry in logs if entry["event"] == "poll_in_doubt"]
    ids = [entry["worker_id"] for entry in said if entry["log_level"] == "warning"]
    assert ids == [polling.polls[0].worker_id, polling.polls[6].worker_id]
    assert [entry["log_level"] for entry in said].count("debug") == 8, "each is still in a debug log"


@virtual_time
async def test_an_engine_that_is_misconfigured_is_polled_again_every_few_seconds_and_named_once() -> None:
    """Faults E10."""
    polling = Polling()
    polling.engine.script("poll", *[EngineMisconfigured("POST http://x/api: status 302")] * 1000)
    with capture_logs() as logs:
        await asyncio.sleep(301.0)
    assert 40 <= len(polling.polls) <= 90
    assert [entry["event"] for entry in logs] == ["engine_misconfigured"]


@virtual_time
async def test_after_a_reply_that_is_too_large_one_activity_is_asked_for_until_one_fits() -> None:
    """Faults E15."""
    polling = Polling(slots=8)
    polling.engine.script("poll", ReplyTooLarge("more than 256 MB", in_doubt=True), Batch())
    await asyncio.sleep(1.0)
    polling.engine.offer(an_activity("a-1"))
    await asyncio.sleep(1.0)
    limits = [call.limit for call in polling.polls]
    assert limits[:3] == [8, 1, 1]
    assert limits[-1] == 7


@virtual_time
async def test_a_bug_while_accepting_ends_the_poller_with_its_slots_given_back() -> None:
    """A worker that cannot take what it claims must not go on claiming."""
    polling = Polling()
    polling.engine.script("poll", ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        await polling.task
    assert polling.table.slots.held == 0


# Modes


@virtual_time
async def test_quiet_stops_polling_until_it_is_resumed() -> None:
    """Faults P7."""
    polling = Polling()
    await asyncio.sleep(1.0)
    polling.poller.set_mode(PollMode.QUIET)
    before = len(polling.polls)
    await asyncio.sleep(60.0)
    polling.poller.acknowledged("wf-1")
    await asyncio.sleep(60.0)
    assert len(polling.polls) == before
    assert polling.table.segment.clock(Clock.NEXT_POLL_AT) == 0
    polling.poller.set_mode(PollMode.POLLING)
    await asyncio.sleep(5.0)
    assert len(polling.polls) > before


@virtual_time
async def test_a_poll_in_flight_is_awaited_at_a_stop_and_what_it_brings_is_taken() -> None:
    """protocol.md R3: a cancelled poll may have claimed."""
    polling = Polling()
    polling.engine.offer(an_activity())
    asked = asyncio.Event()
    polling.engine.script("poll", asked.wait)
    await asyncio.sleep(0.01)
    polling.poller.set_mode(PollMode.STOPPING)
    await asyncio.sleep(5.0)
    assert not polling.task.done()
    assert polling.poller.in_flight == polling.polls[0].worker_id
    asked.set()
    await polling.task
    assert polling.table.states() == {"a-1": State.RUNNING}
    assert polling.poller.in_flight is None
    assert len(polling.polls) == 1


@pytest.mark.parametrize("mode", [PollMode.STOPPING, PollMode.QUIET])
@pytest.mark.parametrize("error", [EngineUnavailable("status 503", retry_after_s=60.0)])
@virtual_time
async def test_a_poll_that_waits_for_the_gate_is_not_made_any_more(
    error: EngineError, mode: PollMode
) -> None:
    """It would claim work amid the drain, and the drain would wait for it."""
    polling = Polling()
    polling.engine.script("poll", error)
    await asyncio.sleep(1.0)
    polling.poller.set_mode(mode)
    await asyncio.sleep(0.01)
    assert polling.task.done() == (mode is PollMode.STOPPING)
    await asyncio.sleep(120.0)
    assert len(polling.polls) == 1
    assert polling.table.slots.held == 0


@virtual_time
async def test_the_keeper_is_told_of_claims_once_they_stand_in_the_ledger_and_of_nothing_else() -> None:
    """It rests while nothing is held; what it is woken for it must see."""
    polling = Polling()
    await asyncio.sleep(10.0)
    assert polling.claims == []
    polling.engine.offer(an_activity(), an_activity("a-2"))
    await asyncio.sleep(10.0)
    assert polling.claims == [2]
    polling.task.cancel()


@virtual_time
async def test_a_poll_of_an_idle_process_is_no_task_of_its_own_unless_it_waits_for_the_circuit() -> None:
    """There it can be called back, which a poll under way must not be."""
    polling = Polling()
    others = asyncio.all_tasks() - {polling.task}
    seen = []

    async def look() -> None:
        seen.append(len(asyncio.all_tasks() - others - {polling.task}))

    polling.engine.script("poll", look, EngineUnavailable("status 503"), look, look)
    await asyncio.sleep(5.0)
    assert seen == [0, 1, 0]
    polling.task.cancel()


@virtual_time
async def test_what_has_just_begun_takes_its_first_step_before_the_next_poll() -> None:
    """If it takes the process down, what that poll had claimed would wait for the end of its lease."""
    polling = Polling(slots=2)
    handlers, begun = polling.table.handlers, []

    async def look() -> None:
        begun.append(sorted(handlers.begun))

    polling.engine.script("poll", bringing(*(an_activity(f"a-{number}") for number in range(3))), look)
    await asyncio.sleep(1.0)
    assert sorted(handlers.begun) == ["a-0", "a-1"]
    handlers.end("a-0", "a-1")
    await asyncio.sleep(1.0)
    assert begun == [["a-0", "a-1", "a-2"]]
    polling.task.cancel()


@virtual_time
async def test_a_poll_that_gives_way_to_what_has_begun_is_not_made_once_there_is_a_pause() -> None:
    polling = Polling(slots=2)
    polling.engine.offer(an_activity())
    await asyncio.sleep(1.0)
    policy, before = polling.poller._policy, len(polling.polls)
    next_at = policy.next_at

    def pausing(now: float, *, is_roomy: bool) -> float:
        at = next_at(now, is_roomy=is_roomy)
        if at <= now:
            asyncio.get_running_loop().call_soon(polling.poller.set_mode, PollMode.QUIET)
        return at

    policy.next_at = pausing  # type: ignore[method-assign]
    await asyncio.sleep(60.0)
    assert polling.poller._mode is PollMode.QUIET
    assert len(polling.polls) == before
    polling.task.cancel()


@virtual_time
async def test_stopping_is_final() -> None:
    polling = Polling()
    polling.poller.set_mode(PollMode.STOPPING)
    polling.poller.set_mode(PollMode.POLLING)
    await polling.task
    assert polling.polls == []


@virtual_time
async def test_a_good_poll_leaves_its_time_and_counts_in_the_segment() -> None:
    polling = Polling()
    polling.engine.offer(an_activity())
    await asyncio.sleep(0.05)
    table = polling.table
    assert table.count(Cell.POLLS) == len(polling.polls)
    assert table.count(Cell.EMPTY_POLLS) == len(polling.polls) - 1
    assert table.segment.clock(Clock.LAST_GOOD_POLL) > 0


@virtual_time
async def test_the_fill_ratio_follows_how_much_of_what_was_asked_for_came() -> None:
    """What scaling by demand goes by: 1 while polls come back full, 0 again when there is nothing."""
    polling = Polling(slots=2)
    fill = [polling.table.segment.clock(Clock.FILL)]
    for _ in range(30):
        polling.engine.offer(an_activity(), an_activity())
    await asyncio.sleep(1.0)
    fill.append(polling.table.segment.clock(Clock.FILL))
    await asyncio.sleep(60.0)
    fill.append(polling.table.segment.clock(Clock.FILL))
    assert fill[0] == 0.0
    assert fill[1] > 0.0
    assert fill[2] < fill[1]
    polling.task.cancel()


@virtual_time
async def test_no_acknowledgement_is_missed_where_two_rounds_of_the_loop_have_the_same_time() -> None:
    """As on uvloop, whose clock counts milliseconds; a poller without another event used to sleep forever."""
    polling = Polling(slots=1, records=1)
    answered = asyncio.Event()
    polling.engine.script("complete", answered.wait)
    polling.engine.offer(an_activity("a-1"))
    polling.table.handlers.end("a-1")
    await asyncio.sleep(1.0)
    polling.engine.offer(an_activity("a-2"))
    polling.poller.acknowledged("wf-1")
    await polling.table.rest()
    answered.set()
    await asyncio.sleep(10.0)
    assert polling.table.handlers.running["a-2"] == 1


@virtual_time
async def test_activities_that_cannot_be_run_fill_the_memory_no_more_than_others_do() -> None:
    """A broken queue that is handed out as fast as it is asked for, while a proxy takes no failure."""
    polling = Polling(slots=2)
    polling.engine.offer(*(Undecodable(f"bad-{n}", "", "activity_name is not a string") for n in range(200)))
    polling.engine.script("fail", *[ForeignReply("status 404: no")] * 400)
    await asyncio.sleep(60.0)
    assert 8 <= polling.table.attempts._table._rejecting <= 10
    polling.engine._scripts.clear()
    await asyncio.sleep(60.0)
    assert len({call.activity_id for call in polling.engine.of("fail")}) == 200
    assert polling.table.attempts._table.is_clear
