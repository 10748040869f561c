"""A host's history of workflows and failures, from a ledger that the test fills as workers and keeper do."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from flowherd.activities_and_outcomes import Failed, Raised
from flowherd.leases.adoption import Adoptions
from flowherd.ledger import Cause, Cell, Ledger, Life, RecordWriter, Segment, Standing
from flowherd.ledger.attempt_history import End
from flowherd.ledger.states_and_cells import Claim, Handler, pair_of
from flowherd_supervisor.keeper.activity_rows import by_activity
from flowherd_supervisor.keeper.history import MOST_TOLD, SHOWN_FAILURES, History

if TYPE_CHECKING:
    from flowherd.ledger.adoption_cells import KeptReply

EPOCH = 1_000_000.0
LINE = "/srv/shop.py:7 in resize"
FAILURE = Failed(
    "EXECUTION_ERROR", "no such size", retryable=True, raised=Raised("ValueError", "", ""), at=LINE
)
CRASH = Failed("WORKER_CRASHED", "worker process 0 was killed by SIGKILL", retryable=True)


class Remembered:
    """A host of one process at second 1000 of its clock."""

    def __init__(self) -> None:
        self.ledger = Ledger(processes=2, records=20)
        self.now = 1000.0
        self.claims = 0
        self.history = History(self.ledger, lambda: self.now, lambda: EPOCH + self.now)
        self.segment, self.writer = self.process(0)

    def process(self, index: int) -> tuple[Segment, RecordWriter]:
        segment = self.ledger.free_segment()
        assert segment is not None
        segment.open(index=index, incarnation=1, now=0.0)
        return segment, RecordWriter(segment)

    def claim(
        self,
        activity_id: str = "a-1",
        *,
        at: float,
        flow: str = "flow-1",
        key: str = "step",
        reply: KeptReply | None = None,
    ) -> int:
        index, self.sequence = self.writer.claim(
            activity_id,
            f"w-{self.claims}",
            "resize",
            now=at,
            lease_s=60.0,
            workflow_id=flow,
            key=key,
            reply=reply,
        )
        self.claims += 1
        return index

    def live(
        self,
        activity_id: str,
        at: float,
        end: End = End.COMPLETED,
        failure: Failed | None = None,
        *,
        isolated: bool = False,
        **more: Any,
    ) -> None:
        index = self.claim(activity_id, at=at, **more)
        self.writer.clear(index)
        self.writer.remember(index, self.sequence, at + 1, at + 2, at + 3, end, failure, isolated=isolated)

    def events(self, wanted: str = "flow-1") -> list[tuple[float, str, int]]:
        """Returns time, event and attempt of each event, on the test's clock."""
        found = self.history.explain(wanted)["events"]
        return [(event["at"] - EPOCH, event["event"], event["seen"]) for event in found]


@pytest.fixture
def host() -> Remembered:
    return Remembered()


def test_an_attempt_in_an_isolate_is_remembered_as_one(host: Remembered) -> None:
    """While it runs, after its end, and after the end of its process."""
    host.live("a-1", 10.0, End.FAILED, FAILURE)
    host.live("a-1", 20.0, isolated=True)
    host.ledger.remember(0.0)
    index = host.claim("a-2", at=30.0)
    host.writer.running(index, now=31.0, limit_s=60.0, apart=True)
    found = host.history.explain("flow-1")["events"]
    assert [event["isolate"] for event in found if event["event"] == "begun"] == [False, True, True]


def test_a_workflow_is_shown_in_order_of_time_over_all_its_attempts(host: Remembered) -> None:
    host.live("a-1", 10.0, End.FAILED, FAILURE)
    host.live("other", 11.0, flow="flow-2")
    host.live("a-1", 20.0)
    host.ledger.remember(0.0)
    host.live("a-2", 30.0, key="next")
    assert host.events() == [
        (10.0, "claimed", 1), (11.0, "begun", 1), (12.0, "failed", 1), (13.0, "requeued", 1),
        (20.0, "retried", 2), (21.0, "begun", 2), (22.0, "returned", 2), (23.0, "completed", 2),
        (30.0, "claimed", 1), (31.0, "begun", 1), (32.0, "returned", 1), (33.0, "completed", 1),
    ]  # fmt: skip
    failed = host.history.explain("flow-1")["events"][2]
    assert (failed["type"], failed["message"], failed["code"]) == ("ValueError", "no such size", FAILURE.code)
    assert failed["line"] == LINE
    assert (failed["activity_id"], failed["key"], failed["name"]) == ("a-1", "step", "resize")
    assert failed["process"] == 0


def test_an_activity_s_id_leads_to_its_workflow(host: Remembered) -> None:
    """A log line contains the activity's id."""
    host.live("a-1", 10.0)
    host.live("a-2", 20.0)
    found = host.history.explain("a-2")
    assert found["workflow_id"] == "flow-1"
    assert {event["activity_id"] for event in found["events"]} == {"a-1", "a-2"}


def test_an_unknown_id_has_no_events(host: Remembered) -> None:
    host.live("a-1", 10.0)
    assert host.history.explain("flow-9") == {
        "workflow_id": "flow-9", "events": [], "present": [], "left_out": 0,
    }  # fmt: skip


def test_a_workflow_of_thousands_shows_its_newest_attempts_and_counts_the_others(
    host: Remembered,
) -> None:
    """The reply is bounded, too."""
    for number in range(MOST_TOLD + 7):
        host.live(f"a-{number}", float(number))
        host.ledger.remember(0.0)
    found = host.history.explain("flow-1")
    assert found["left_out"] == 7
    assert len(found["events"]) == 4 * MOST_TOLD
    assert found["events"][0]["activity_id"] == "a-7"


@pytest.mark.parametrize(
    ("wanted", "first", "left_out"), [("flow-1", "a-3", 0), ("flow-1", "step-3", 0), ("a-3", "", 7)]
)
def test_the_activity_that_is_asked_for_is_never_among_those_left_out(
    host: Remembered, wanted: str, first: str, left_out: int
) -> None:
    """Only its own attempts may then be left out."""
    for number in range(MOST_TOLD + 7):
        host.live(f"a-{number}", float(number), key=f"step-{number}")
        host.ledger.remember(0.0)
    found = host.history.explain(wanted, first)
    told = [event for event in found["events"] if event["activity_id"] == "a-3"]
    assert [event["event"] for event in told] == ["claimed", "begun", "returned", "completed"]
    assert (len(found["events"]), found["left_out"]) == (4 * MOST_TOLD, left_out)


def test_a_running_attempt_is_shown_with_its_last_heartbeat_and_its_limit(host: Remembered) -> None:
    index = host.claim(at=900.0)
    host.writer.running(index, now=901.0, limit_s=300.0)
    record = host.segment.record(index)
    assert record is not None
    host.segment.judge(record, Standing.GOOD, 980.0)
    assert host.events() == [(900.0, "claimed", 1), (901.0, "begun", 1), (980.0, "beat", 1)]
    (present,) = host.history.explain("flow-1")["present"]
    assert (present["state"], present["for_s"], present["limit_s"], present["waits_for"]) == (
        "running", 99.0, 300.0, None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("pair", "state", "reason"),
    [
        (pair_of(Handler.WAITING, Claim.HELD), "waiting", "a slot"),
        (pair_of(Handler.ADMITTED, Claim.HELD), "waiting", "a permit, an isolate or the loop"),
        (pair_of(Handler.STOPPING, Claim.HELD), "stopping", None),
        (pair_of(Handler.ENDED, Claim.REPORTING), "reporting", None),
        (pair_of(Handler.ENDED, Claim.CRASHED), "settling", None),
        (pair_of(Handler.STOPPING, Claim.CLOSED), "detached", None),
    ],
)
def test_each_state_has_a_word_and_what_waits_a_reason(
    host: Remembered, pair: int, state: str, reason: str | None
) -> None:
    host.writer.stands(host.claim(at=900.0), pair)
    (present,) = host.history.explain("flow-1")["present"]
    assert (present["state"], present["waits_for"]) == (state, reason)


@pytest.mark.parametrize(("completion", "has_result"), [(b"{}", True), (None, False)])
def test_in_an_outage_a_result_that_waits_for_the_engine_is_known(
    host: Remembered, completion: bytes | None, *, has_result: bool
) -> None:
    """It answers whether the work is done. A failure, and a large result, are only in the log."""
    index = host.claim(at=900.0)
    host.writer.running(index, now=901.0, limit_s=300.0)
    (present,) = host.history.explain("flow-1")["present"]
    assert present["has_result"] is False
    host.writer.reporting(index, completion)
    (present,) = host.history.explain("flow-1")["present"]
    assert (present["state"], present["has_result"]) == ("reporting", has_result)


def test_a_crash_is_shown_with_its_message_and_its_requeue(host: Remembered) -> None:
    """Also before its segment is freed, and each event once."""
    index = host.claim(at=900.0)
    host.writer.running(index, now=901.0, limit_s=300.0)
    record = host.segment.record(index)
    assert record is not None
    host.segment.end(Cause.SIGNAL, 9)
    (present,) = host.history.explain("flow-1")["present"]
    assert present["state"] == "settling"
    host.ledger.history.add(record, (901.0, 950.0, 951.0, 940.0), 0, CRASH, End.SETTLED)
    crashed = [
        (900.0, "claimed", 1), (901.0, "begun", 1), (940.0, "beat", 1), (950.0, "crashed", 1), (951.0, "requeued", 1),
    ]  # fmt: skip
    assert host.events() == crashed
    assert host.history.explain("flow-1")["present"] == []
    host.ledger.absorb(host.segment)
    assert host.events() == crashed
    assert host.history.explain("flow-1")["events"][3]["message"] == CRASH.message


@pytest.mark.parametrize(
    ("failure", "events"),
    [
        (Failed("CANCELLED", "by an operator", retryable=False), ["cancelled", "given_up"]),
        (Failed("TIMEOUT", "blocked", retryable=True), ["hung", "requeued"]),
        (Failed("WORKER_SHUTDOWN", "stopped", retryable=True), ["stopped", "requeued"]),
        (Failed("POISON", "given up", retryable=False), ["crashed", "given_up"]),
        (None, ["crashed", "delivered"]),
    ],
)
def test_what_the_keeper_has_settled_is_named_for_its_reason(
    host: Remembered, failure: Failed | None, events: list[str]
) -> None:
    """A lease that the worker loses afterwards adds nothing."""
    index = host.claim(at=900.0)
    record = host.segment.record(index)
    assert record is not None
    host.ledger.history.add(
        record, (0.0, 950.0, 951.0, 0.0), 0, failure, End.SETTLED if failure else End.DELIVERED
    )
    host.writer.clear(index)
    host.writer.remember(index, record.sequence, 0.0, 951.5, 952.0, End.LOST, None)
    assert [event for _, event, _ in host.events()] == ["claimed", *events]


def test_a_crash_in_an_isolate_says_that_the_handler_ran_in_one(host: Remembered) -> None:
    index = host.claim(at=900.0)
    host.writer.running(index, now=901.0, limit_s=300.0, apart=True)
    host.writer.crashed(index, "was killed by SIGSEGV")
    record = host.segment.record(index)
    assert record is not None
    host.ledger.history.add(record, (901.0, 950.0, 951.0, 0.0), 0, CRASH, End.SETTLED)
    begun = [event for event in host.history.explain("flow-1")["events"] if event["event"] == "begun"]
    assert [event["isolate"] for event in begun] == [True]


def test_what_another_process_goes_on_with_is_one_claim_that_was_adopted(host: Remembered) -> None:
    """As long as the dead process's segment is not freed, and afterwards; what may yet be adopted is shown once."""
    dead, dead_writer, (adopter, writer) = host.segment, host.writer, host.process(1)
    adopter.put(Cell.LIMIT, 1)
    adopter.put(Cell.ADOPTS, 1)
    host.claim(at=900.0, reply=dead_writer.replies.keep(b"{}"))
    host.claim("b-1", at=900.0, flow="flow-2")
    dead.end(Cause.SIGNAL, 9)
    record, other = dead.records()
    place = writer.claim(
        "a-1", record.worker_id, "resize", now=900.0, lease_s=60.0, workflow_id="flow-1", key="step",
        adopted=(record, 0),
    )  # fmt: skip
    assert host.events() == [(900.0, "claimed", 1)]
    (present,) = host.history.explain("flow-1")["present"]
    assert (present["process"], present["state"], present["waits_for"]) == (0, "settling", "a slot")

    asyncio.run(_adopt(host, dead))
    writer.stands(place[0], pair_of(Handler.WAITING, Claim.HELD))
    assert dead_writer.segment.life is Life.ENDED
    assert host.events() == [(900.0, "claimed", 1), (950.0, "adopted", 1)]
    (present,) = host.history.explain("flow-1")["present"]
    assert (present["process"], present["state"]) == (1, "waiting")

    writer.running(place[0], now=951.0, limit_s=300.0)
    writer.clear(place[0])
    writer.remember(*place, 951.0, 952.0, 953.0, End.COMPLETED, None)
    dead.judge(other, Standing.SETTLED, 0.0)
    host.ledger.absorb(dead)
    expected = [
        (900.0, "claimed", 1), (950.0, "adopted", 1), (951.0, "begun", 1), (952.0, "returned", 1),
        (953.0, "completed", 1),
    ]  # fmt: skip
    assert host.events() == expected
    host.ledger.remember(0.0)
    assert host.events() == expected
    assert [one["process"] for one in host.history.explain("flow-1")["events"]] == [0, 0, 1, 1, 1]


async def _adopt(host: Remembered, dead: Segment) -> None:
    """What the keeper does at 950 with an offer of an earlier keeper that was taken."""
    keeper = Adoptions(host.ledger, lambda _: None, lambda: 950.0)
    keeper.open([(dead, record) for record in dead.records()])


def test_a_lease_lost_while_its_handler_runs_on_is_one_event(host: Remembered) -> None:
    index = host.claim(at=900.0)
    host.writer.running(index, now=901.0, limit_s=300.0)
    host.writer.stands(index, pair_of(Handler.STOPPING, Claim.CLOSED))
    host.writer.remember(index, host.sequence, 901.0, 950.0, 950.0, End.LOST, None)
    assert [event for _, event, _ in host.events()] == ["claimed", "begun", "lost"]
    (present,) = host.history.explain("flow-1")["present"]
    assert present["state"] == "detached"


def test_the_newest_failures_come_first_and_are_at_most_fifty(host: Remembered) -> None:
    for number in range(SHOWN_FAILURES + 10):
        host.live(f"a-{number}", 10.0 * number, End.FAILED, FAILURE)
        if number == 30:
            host.ledger.remember(0.0)
    found = host.history.failures()["failures"]
    assert len(found) == SHOWN_FAILURES
    assert found[0] == {
        "at": EPOCH + 592.0, "activity": "resize", "key": "step", "activity_id": "a-59", "workflow_id": "flow-1",
        "process": 0, "code": "EXECUTION_ERROR", "type": "ValueError", "message": "no such size", "line": LINE,
        "retryable": True,
    }  # fmt: skip
    assert found[-1]["activity_id"] == "a-10"
    assert host.history.failures_so_far == SHOWN_FAILURES + 10


def test_a_failure_without_an_exception_is_named_by_its_code(host: Remembered) -> None:
    host.live("a-1", 10.0, End.FAILED, CRASH)
    assert host.history.failures()["failures"][0]["type"] == "WORKER_CRASHED"


def test_the_trend_has_times_and_milliseconds(host: Remembered) -> None:
    host.ledger.remember(980.0)
    host.writer.segment.work.counts.ended(64, 0)
    assert host.history.lately() is None
    host.ledger.remember(995.0)
    assert host.history.lately() == {
        "seconds": 15.0, "completed": 0.067, "failed": 0.0, "lost": 0.0,
        "run_ms_p50": None, "run_ms_p95": None, "wait_ms_p95": None,
    }  # fmt: skip
    (interval,) = host.history.trend()["intervals"]
    assert interval == {
        "at": EPOCH + 995.0, "completed": 0.067, "failed": 0.0, "lost": 0.0,
        "run_ms_p50": None, "run_ms_p95": None, "wait_ms_p95": None,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_whatever_user_code_writes_over_the_history_the_keeper_goes_on(seed: int) -> None:
    """User code shares the host's memory; impossible entries are left out."""
    rng = random.Random(seed)
    host = Remembered()
    host.live("a-1", 10.0, End.FAILED, FAILURE)
    host.ledger.remember(0.0)
    segment = host.segment
    work, history = segment.offset + segment.layout.work, segment.offset + segment.layout.history
    end = segment.offset + segment.layout.size
    for now in range(1, 60):
        for _ in range(rng.randint(1, 20)):
            at = rng.choice(
                [rng.randrange(work, end), history + rng.randrange(64), rng.randrange(work, history)]
            )
            garbage = rng.choice([rng.randbytes(40), b"\xff" * 40, bytes(40)])[: end - at]
            segment.map[at : at + len(garbage)] = garbage
        host.now = 1000.0 + 10.0 * now
        host.ledger.remember(host.now)
        for document in (host.history.failures(), host.history.trend(), host.history.explain("flow-1")):
            json.dumps(document, allow_nan=False)
        assert by_activity(host.ledger, []) is not None
        assert host.history.failures_so_far >= 0
