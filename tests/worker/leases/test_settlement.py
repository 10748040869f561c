"""Settlement: records of an ended process are requeued or delivered; its segment is freed last."""

from __future__ import annotations

import asyncio
import signal

import pytest
from structlog.testing import capture_logs
from virtual_time import now, virtual_time
from worker_kit import open_segment

from flowherd.activities_and_outcomes import Completed
from flowherd.client.engine_protocol import Answer, Verdict
from flowherd.errors import EngineUnavailable, ForeignReply
from flowherd.leases.lease_scan import LeaseKeeper
from flowherd.ledger import Cause, Cell, Host, Ledger, Life, ProcessTotal, RecordWriter, Segment
from flowherd.ledger.activity_counts import OTHER, Ended
from flowherd.ledger.attempt_history import End, decoded
from flowherd.ledger.states_and_cells import TAKEN
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import FakeEngine
from flowherd.wait_status import NOT_OUT_OF_MEMORY
from flowherd.worker.attempt import DETACHED, OVERRUN, STOPPING

KEPT = FakeEngine().encode_completion("w-1", Completed(b'{"n":1}'))


class DeadWorker:
    """A segment with one record in each state, whose process has not ended yet, and a keeper."""

    def __init__(self, *states: str) -> None:
        self.engine = FakeEngine()
        self.ledger = Ledger(processes=1, records=20)
        self.segment = open_segment(self.ledger)
        self.segment.put(Cell.PID, 4711)
        self.writer = RecordWriter(self.segment)
        for state in states:
            self.hold(state)
        self.start_keeper()

    def hold(self, state: str) -> None:
        index, _ = self.writer.claim(state, "w-1", "resize", now=now(), lease_s=60.0)
        match state:
            case "running":
                self.writer.running(index, now=now(), limit_s=300.0)
            case "kept":
                self.writer.reporting(index, KEPT)
            case "failing" | "too large to keep":
                self.writer.reporting(index, None)
            case "detached":
                self.writer.stands(index, DETACHED)
            case "overrun":
                self.writer.running(index, now=now(), limit_s=300.0)
                self.writer.reporting(index, None, TAKEN | OVERRUN)
            case "isolated":
                self.writer.running(index, now=now(), limit_s=300.0, apart=True)

    def start_keeper(self) -> None:
        loop = asyncio.get_running_loop()
        config = WorkerConfig()
        self.keeper = LeaseKeeper(self.engine, self.engine, self.ledger, config, lambda _: None, loop.time)
        self.running = loop.create_task(self.keeper.run())

    def end(self, cause: Cause = Cause.CRASH, status: int = signal.SIGKILL) -> None:
        self.segment.end(cause, status)

    def said(self, verb: str) -> dict[str, dict[str, object]]:
        return {call.activity_id: call.body for call in self.engine.of(verb)}


@virtual_time
async def test_each_record_is_settled_by_its_state() -> None:
    """Waiting and running work is handed back, a kept result delivered."""
    dead = DeadWorker("claimed", "running", "kept", "failing", "detached")
    dead.end()
    await asyncio.sleep(1.0)
    assert set(dead.said("complete")) == {"kept"}
    assert set(dead.said("fail")) == {"claimed", "running", "failing"}
    assert dead.segment.life is Life.FREE
    assert dead.ledger.get(Host.SETTLED) == 4
    counts = dead.ledger.activity_counts()[OTHER]
    assert (counts[Ended.COMPLETED], counts[Ended.CRASHED]) == (1, 3)


@virtual_time
async def test_the_last_happenings_of_a_dead_process_are_in_the_history_of_the_host() -> None:
    """With the messages sent to the engine; another keeper finds them there."""
    dead = DeadWorker("claimed", "running", "kept")
    index, sequence = dead.writer.claim(
        "ended", "w-1", "resize", now=now(), lease_s=60.0, workflow_id="flow-1"
    )
    dead.writer.clear(index)
    dead.writer.remember(index, sequence, 1.0, 2.0, 3.0, End.COMPLETED, None)
    dead.end()
    await asyncio.sleep(1.0)
    dead.running.cancel()
    dead.start_keeper()
    await asyncio.sleep(1.0)
    attempts = {one.activity_id: one for one in decoded(dead.ledger.history.attempts.entries())}
    assert {name: one.end for name, one in attempts.items()} == {
        "ended": End.COMPLETED,
        "claimed": End.SETTLED,
        "running": End.SETTLED,
        "kept": End.DELIVERED,
    }
    assert attempts["running"].begun_at > 0
    failures = {one.activity_id: one for one in decoded(dead.ledger.history.failures.entries())}
    assert set(failures) == {"claimed", "running"}
    assert failures["running"].code == "WORKER_CRASHED"
    assert "was killed by SIGKILL" in failures["running"].message
    assert failures["running"].is_retryable


@virtual_time
async def test_a_death_that_was_the_last_attempt_is_final_in_the_history() -> None:
    dead = DeadWorker("running")
    dead.engine.script("fail", Answer(Verdict.ACCEPTED, will_retry=False))
    dead.end()
    await asyncio.sleep(1.0)
    (failure,) = decoded(dead.ledger.history.failures.entries())
    assert not failure.is_retryable


@virtual_time
async def test_an_answer_that_says_it_was_settled_before_is_in_the_history_too() -> None:
    dead = DeadWorker("running")
    dead.engine.script("fail", Answer(Verdict.GONE, "already completed"))
    dead.end()
    await asyncio.sleep(1.0)
    (failure,) = decoded(dead.ledger.history.failures.entries())
    assert failure.message.endswith("(had been settled before)")


@virtual_time
async def test_a_kept_result_is_resent_with_the_bytes_and_the_worker_id_of_the_dead() -> None:
    """Faults C6: `complete` is idempotent for the same worker_id, so it heals whatever was half done."""
    dead = DeadWorker("kept")
    dead.end()
    await asyncio.sleep(1.0)
    assert dead.said("complete") == {
        "kept": {"worker_id": "w-1", "output": {"n": 1}, "cost_usd": None, "usage": []}
    }
    assert dead.engine.of("fail") == []


@pytest.mark.parametrize(
    ("state", "cause", "status", "code", "words"),
    [
        ("running", Cause.CRASH, signal.SIGKILL, "WORKER_CRASHED", "was killed by SIGKILL (out of memory?)"),
        (
            "running",
            Cause.CRASH,
            signal.SIGSEGV,
            "WORKER_CRASHED",
            "was killed by SIGSEGV while the activity ran, with no handler on the loop or in a thread",
        ),
        (
            "claimed",
            Cause.CRASH,
            3 << 8,
            "WORKER_CRASHED",
            "exited with code 3 while the activity waited to begin",
        ),
        (
            "failing",
            Cause.CRASH,
            0,
            "WORKER_CRASHED",
            "exited with code 0 while the activity was being reported",
        ),
        ("running", Cause.STOPPED, signal.SIGKILL, "WORKER_SHUTDOWN", "was stopped while the activity ran"),
        ("claimed", Cause.CLEAN, 0, "WORKER_CRASHED", "exited with code 0"),
    ],
)
@virtual_time
async def test_the_cause_decides_what_the_users_of_the_engine_read(
    state: str, cause: Cause, status: int, code: str, words: str
) -> None:
    """Faults C4, C7, C8, C10: the message names the signal and the process; always retryable."""
    dead = DeadWorker(state)
    dead.end(cause, status)
    await asyncio.sleep(1.0)
    error = dead.said("fail")[state]["error"]
    assert isinstance(error, dict)
    assert (error["code"], error["retryable"]) == (code, True)
    assert error["message"].startswith("worker process 0 (pid 4711) ")
    assert words in error["message"]


@virtual_time
async def test_c22_the_message_says_why_an_activity_is_a_suspect_or_none() -> None:
    """The ledger knows who was on the loop or in a thread; the place of a thread outlives the handler's limit."""
    dead = DeadWorker("running", "kept")
    for name in ("waits", "in a thread", "overrun in a thread"):
        index, _ = dead.writer.claim(name, "w-1", "resize", now=now(), lease_s=60.0)
        dead.writer.running(index, now=now(), limit_s=300.0)
        if "thread" in name:
            dead.writer.in_thread(index)
    dead.writer.stands(index, STOPPING)
    dead.writer.move(index, "w-2", now=now(), completion=None)
    dead.segment.put(Cell.ON_LOOP, 1)
    dead.end(status=signal.SIGSEGV)
    await dead.keeper.all_settled()
    said = {id_: body["error"]["message"] for id_, body in dead.said("fail").items()}  # type: ignore[index]
    doing = {id_: text.split("while the activity ")[1].split(" beside")[0] for id_, text in said.items()}
    assert doing == {
        "running": "was on the loop",
        "waits": "ran and waited",
        "in a thread": "ran in a thread",
        "overrun in a thread": "ran in a thread",
    }
    history = dead.ledger.crash_history
    assert {name for name in doing if not history.is_suspect(name)} == {"waits"}


@virtual_time
async def test_a_death_names_what_ran_beside_and_how_large_the_process_was() -> None:
    """C10: one of them may have done it, or have taken the memory that the kernel took back."""
    dead = DeadWorker("claimed", "running", "kept")
    for number in range(2):
        index, _ = dead.writer.claim(f"b-{number}", "w-1", "render", now=now(), lease_s=60.0)
        dead.writer.running(index, now=now(), limit_s=300.0)
    dead.segment.put(Cell.RESIDENT_BYTES, 812_000_000)
    dead.end()
    await asyncio.sleep(1.0)
    said = {id_: body["error"]["message"] for id_, body in dead.said("fail").items()}  # type: ignore[index]
    size = "was killed by SIGKILL (out of memory?), last seen with 812 MB in memory, while the activity"
    assert said["running"].endswith(f"{size} ran and waited beside 2 x 'render'")
    assert said["claimed"].endswith(f"{size} waited to begin beside 2 x 'render', 1 x 'resize'")
    assert said["b-0"].endswith(f"{size} ran and waited beside 1 x 'resize', 1 x 'render'")


@pytest.mark.parametrize("status", [signal.SIGSEGV, signal.SIGKILL | NOT_OUT_OF_MEMORY])
@virtual_time
async def test_the_size_of_a_process_is_no_matter_when_memory_was_none(status: int) -> None:
    """The kernel counts its out-of-memory kills, and this was none."""
    dead = DeadWorker("running")
    dead.segment.put(Cell.RESIDENT_BYTES, 812_000_000)
    dead.end(status=status)
    await asyncio.sleep(1.0)
    assert "MB" not in str(dead.said("fail"))


@virtual_time
async def test_a_settlement_is_tried_through_an_outage_and_the_segment_stays_taken_meanwhile() -> None:
    dead = DeadWorker("running", "kept")
    for verb in ("fail", "complete"):
        dead.engine.script(verb, *[EngineUnavailable("connection refused")] * 12)
    dead.end()
    await asyncio.sleep(5.0)
    assert dead.segment.life is Life.ENDED
    assert not dead.keeper.settled
    await asyncio.sleep(120.0)
    assert dead.keeper.settled
    assert len(dead.engine.of("fail")) == 13
    assert len({str(call.body) for call in dead.engine.of("complete")}) == 1


@virtual_time
async def test_a_settlement_is_given_up_in_the_end_so_that_the_segment_is_not_taken_for_ever() -> None:
    dead = DeadWorker("running")
    dead.engine.script("fail", *[EngineUnavailable("connection refused")] * 10_000)
    dead.end()
    with capture_logs() as logs:
        await asyncio.sleep(290.0)
        assert dead.segment.life is Life.ENDED
        await asyncio.sleep(30.0)
    assert dead.segment.life is Life.FREE
    said = [entry["event"] for entry in logs if "polls" not in entry["event"]]
    assert said == ["settlement_delayed", "settlement_given_up"]
    assert dead.ledger.get(Host.SETTLED) == 0


@virtual_time
async def test_a_keeper_that_dies_amid_a_settlement_leaves_the_segment_to_the_next_one() -> None:
    """What is owed is the ledger's state, not a message: the new keeper finds the ended segment by itself."""
    dead = DeadWorker("running")
    dead.engine.script("fail", asyncio.Event().wait)
    dead.end()
    await asyncio.sleep(1.0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)
    assert dead.segment.life is Life.ENDED
    dead.start_keeper()
    await asyncio.sleep(1.0)
    assert dead.segment.life is Life.FREE
    assert len(dead.engine.of("fail")) == 2


@virtual_time
async def test_the_next_keeper_says_and_counts_nothing_again_that_was_settled() -> None:
    """One activity was told and counted, the other's call never came back."""
    dead = DeadWorker("running", "claimed")
    dead.engine.script("fail", Verdict.ACCEPTED, asyncio.Event().wait)
    dead.end()
    await asyncio.sleep(1.0)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    await asyncio.sleep(0)
    assert dead.ledger.get(Host.SETTLED) == 1
    dead.start_keeper()
    await dead.keeper.all_settled()
    assert [call.activity_id for call in dead.engine.of("fail")] == ["running", "claimed", "claimed"]
    assert dead.ledger.get(Host.SETTLED) == 2


@virtual_time
async def test_two_scans_do_not_settle_a_segment_twice() -> None:
    dead = DeadWorker("running")
    asked = asyncio.Event()
    dead.engine.script("fail", asked.wait)
    dead.end()
    for _ in range(20):
        dead.keeper.scan()
        await asyncio.sleep(0)
    asked.set()
    await asyncio.sleep(1.0)
    assert len(dead.engine.of("fail")) == 1


@virtual_time
async def test_a_refused_kept_result_becomes_a_failure() -> None:
    dead = DeadWorker("kept")
    dead.engine.script("complete", Verdict.REFUSED)
    dead.end()
    await asyncio.sleep(1.0)
    assert set(dead.said("fail")) == {"kept"}


@pytest.mark.parametrize("status", [404, 409, 413])
@virtual_time
async def test_a_proxys_answer_settles_nothing(status: int) -> None:
    """N7: a kept result is delivered, and work handed back, once the engine itself answers."""
    dead = DeadWorker("running", "kept")
    foreign = ForeignReply(f"status {status}: <html>")
    dead.engine.script("complete", *[foreign] * 5)
    dead.engine.script("fail", *[foreign] * 5)
    dead.end()
    await asyncio.sleep(60.0)
    assert [call.activity_id for call in dead.engine.of("complete")] == ["kept"] * 6
    assert [call.activity_id for call in dead.engine.of("fail")] == ["running"] * 6
    assert dead.ledger.get(Host.SETTLED) == 2


@pytest.mark.parametrize("verdict", [Verdict.GONE, Verdict.UNKNOWN])
@virtual_time
async def test_a_conflict_means_that_it_had_been_settled(verdict: Verdict) -> None:
    """409 to a settlement means it had arrived; nothing more is said about it."""
    dead = DeadWorker("running", "kept")
    dead.engine.script("fail", Answer(verdict, "already completed"))
    dead.engine.script("complete", Answer(verdict, "already completed"))
    dead.end()
    await asyncio.sleep(1.0)
    assert dead.segment.life is Life.FREE
    assert len(dead.engine.calls) == 2
    ends = {one.activity_id: one.end for one in decoded(dead.ledger.history.attempts.entries())}
    assert ends == {"running": End.SETTLED, "kept": End.LOST}, "the result was not taken"
    counts = dead.ledger.activity_counts()[OTHER]
    assert (counts[Ended.COMPLETED], counts[Ended.CRASHED], counts[Ended.LOST]) == (0, 1, 1)


@virtual_time
async def test_the_dead_are_not_beaten_any_more() -> None:
    dead = DeadWorker("running")
    dead.engine.script("fail", *[EngineUnavailable("connection refused")] * 30)
    dead.end()
    await asyncio.sleep(100.0)
    assert dead.engine.of("heartbeat") == []


@virtual_time
async def test_the_counts_of_the_dead_go_to_their_process_once() -> None:
    dead = DeadWorker("running")
    dead.segment.add(Cell.COMPLETED, 7)
    dead.end()
    await asyncio.sleep(1.0)
    assert dead.ledger.process_total(0, ProcessTotal.COMPLETED) == 7


@virtual_time
async def test_a_bug_in_one_settlement_does_not_keep_the_others_from_theirs() -> None:
    dead = DeadWorker("running", "claimed")
    dead.engine.script("fail", ZeroDivisionError("a bug"))
    dead.end()
    with capture_logs() as logs:
        await asyncio.sleep(1.0)
    assert len(dead.engine.of("fail")) == 2
    assert dead.segment.life is Life.FREE
    assert "internal_error" in {entry["event"] for entry in logs}


@virtual_time
async def test_what_is_settled_is_said_in_one_line_with_its_id_and_cause() -> None:
    dead = DeadWorker("running")
    dead.end()
    with capture_logs() as logs:
        await asyncio.sleep(1.0)
    (entry,) = logs
    assert (entry["event"], entry["log_level"]) == ("activity_failed", "warning")
    assert (entry["activity_id"], entry["name"], entry["process"], entry["pid"]) == (
        "running",
        "resize",
        0,
        4711,
    )
    assert (entry["code"], entry["retryable"], entry["seen"]) == ("WORKER_CRASHED", True, 1)
    assert "was killed by SIGKILL" in entry["reason"]
    assert {"workflow_id", "activity_key"} <= set(entry)


@virtual_time
async def test_what_died_in_an_isolate_says_how_long_it_ran_and_not_the_pid_of_its_worker() -> None:
    """The worker lives, so its pid beside a crash would mislead."""
    dead = DeadWorker("isolated", "claimed")
    await asyncio.sleep(3.0)
    dead.writer.crashed(0, "its isolate was killed by SIGSEGV")
    with capture_logs() as logs:
        await asyncio.sleep(1.0)
        (entry,) = logs
        assert (entry["event"], entry["reason"]) == ("activity_failed", "its isolate was killed by SIGSEGV")
        assert "pid" not in entry
        assert entry["took_s"] == pytest.approx(3.0, abs=0.5)
        assert entry["waited_s"] == 0.0
        dead.end()
        await asyncio.sleep(1.0)
    (_, waited) = [entry for entry in logs if entry["event"] == "activity_failed"]
    assert (waited["activity_id"], waited["pid"], "took_s" in waited) == ("claimed", 4711, False)


@virtual_time
async def test_a_crash_that_used_up_the_last_attempt_is_an_error() -> None:
    """Only the engine counts attempts, and it says so in its answer."""
    dead = DeadWorker("running")
    dead.engine.script("fail", Answer(Verdict.ACCEPTED, will_retry=False))
    dead.end()
    with capture_logs() as logs:
        await dead.keeper.all_settled()
    [line] = [line for line in logs if line["event"] == "activity_failed"]
    assert (line["log_level"], line["retryable"], line["attempts_left"]) == ("error", False, 0)


@virtual_time
async def test_what_a_dead_process_held_counts_as_seen_by_this_host() -> None:
    """The next attempt counts it; an attempt that was reporting is counted by its worker."""
    dead = DeadWorker("running", "kept")
    dead.end()
    await dead.keeper.all_settled()
    assert [dead.ledger.seen.earlier(name) for name in ("running", "kept")] == [1, 0]


@pytest.mark.parametrize(
    ("state", "verdict", "outcome"),
    [
        ("kept", Verdict.ACCEPTED, "completed from the kept result"),
        ("running", Verdict.GONE, "had been settled before"),
        ("kept", Verdict.GONE, "had been settled before"),
        ("running", Verdict.UNKNOWN, "unknown to the engine"),
        ("running", Verdict.REFUSED, "refused by the engine"),
    ],
)
@virtual_time
async def test_the_outcome_of_a_settlement_is_from_a_closed_list(
    state: str, verdict: Verdict, outcome: str
) -> None:
    """Alerts and scripts read them."""
    dead = DeadWorker(state)
    for verb in ("fail", "complete"):
        dead.engine.script(verb, Answer(verdict, "details that change"))
    dead.end()
    with capture_logs() as logs:
        await dead.keeper.all_settled()
    [line] = [line for line in logs if line["event"] == "activity_settled"]
    assert line["outcome"] == outcome


@virtual_time
async def test_an_activity_that_is_given_up_has_failed_for_good() -> None:
    """It died alone, and for the third time."""
    dead = DeadWorker("running")
    for sequence in (1, 2):
        dead.ledger.crash_history.charge("running", "died", sequence)
    dead.segment.put(Cell.ON_LOOP, 1)
    dead.end()
    with capture_logs() as logs:
        await dead.keeper.all_settled()
    [line] = [line for line in logs if line["event"] == "activity_failed"]
    assert (line["log_level"], line["code"], line["retryable"]) == ("error", "POISON", False)
    assert line["reason"].startswith("given up after 3 processes died with it")


class DeadThreads(DeadWorker):
    """A process of two workers, each with a segment of its own, that has run one activity in each."""

    def __init__(self, *states: str) -> None:
        super().__init__(*states)
        self.other = open_segment(self.ledger, index=1)
        self.other.put(Cell.PID, 4711)
        self.other_writer = RecordWriter(self.other)
        index, self.other_sequence = self.other_writer.claim("b-1", "w-2", "parse", now=now(), lease_s=60.0)
        self.other_writer.running(index, now=now(), limit_s=5.0)


@virtual_time
async def test_a_process_of_several_segments_is_settled_when_all_of_them_have_ended() -> None:
    """What ran in another thread is part of the cause: it must not be forgotten before it has been read."""
    dead = DeadThreads("running")
    dead.end()
    await asyncio.sleep(1)
    assert not dead.said("fail")
    dead.other.end(Cause.CRASH, signal.SIGKILL)
    await dead.keeper.all_settled()
    failures = dead.said("fail")
    assert "beside 1 x 'parse'" in str(failures["running"])
    assert "beside 1 x 'resize'" in str(failures["b-1"])
    assert "worker process 1 (pid 4711)" in str(failures["b-1"])


@virtual_time
@pytest.mark.parametrize("beside", [True, False])
async def test_a_death_beside_another_thread_was_not_alone(*, beside: bool) -> None:
    """A poison is identified by a death alone in its process, whatever thread it ran in."""
    dead = DeadThreads(*(["running"] if beside else []))
    for sequence in (1, 2):
        dead.ledger.crash_history.charge("b-1", "died", sequence)
    dead.other.put(Cell.ON_LOOP, 1)
    dead.end()
    dead.other.end(Cause.CRASH, signal.SIGKILL)
    await dead.keeper.all_settled()
    assert ("POISON" in str(dead.said("fail")["b-1"])) is not beside


@virtual_time
async def test_the_one_that_hung_the_process_is_named_to_those_in_its_other_threads() -> None:
    """The one that hung has timed out, the others have lost their process."""
    dead = DeadThreads("running")
    for segment in (dead.segment, dead.other):
        segment.put(Cell.GUILTY, dead.other_sequence)
        segment.end(Cause.HUNG, signal.SIGABRT)
    await dead.keeper.all_settled()
    failures = dead.said("fail")
    assert "TIMEOUT" in str(failures["b-1"])
    assert "ended because activity 'parse' blocked it" in str(failures["running"])


def test_a_worker_that_never_opened_its_segment_owes_nothing() -> None:
    """Faults C1: killed before its first poll."""
    ledger = Ledger(processes=1, records=4)
    segment: Segment = open_segment(ledger)

    @virtual_time
    async def settle() -> None:
        keeper = LeaseKeeper(FakeEngine(), FakeEngine(), ledger, WorkerConfig(), lambda _: None)
        segment.end(Cause.CRASH, signal.SIGKILL)
        keeper.scan()
        await asyncio.sleep(0.1)
        assert keeper.settled

    settle()


@pytest.mark.parametrize(
    ("neighbour", "is_alone"), [("kept", True), ("isolated", True), ("detached", False), ("overrun", False)]
)
@virtual_time
async def test_a_neighbour_whose_handler_still_runs_is_company_whatever_its_claim_says(
    neighbour: str, *, is_alone: bool
) -> None:
    """Redesign 3: what reports while its handler still runs may be the culprit; what is in an isolate is not."""
    dead = DeadWorker("running", neighbour)
    for death in (1, 2):
        dead.ledger.crash_history.charge("running", f"death {death}", death)
    dead.segment.put(Cell.ON_LOOP, 1)
    dead.end()
    await dead.keeper.all_settled()
    error = dead.said("fail")["running"]["error"]
    assert isinstance(error, dict)
    assert (error["code"] == "POISON") is is_alone
    assert ("beside 1 x" in str(error["message"])) is not is_alone


@virtual_time
async def test_what_reports_while_its_handler_still_runs_is_charged_for_the_crash() -> None:
    dead = DeadWorker("overrun", "kept")
    dead.end()
    await dead.keeper.all_settled()
    assert dead.ledger.crash_history.charges("overrun").count == 1
    assert dead.ledger.crash_history.charges("kept").count == 0


@virtual_time
async def test_a_beat_that_meets_the_end_of_its_claim_is_no_lost_lease() -> None:
    """It was on its way when the keeper failed the claim of the dead process, so the engine answered it with 409."""
    dead = DeadWorker("running")
    asked, failed = asyncio.Event(), asyncio.Event()

    async def overtaken() -> Verdict:
        asked.set()
        await failed.wait()
        return Verdict.GONE

    async def fail() -> Verdict:
        failed.set()
        await asyncio.sleep(0.1)
        return Verdict.ACCEPTED

    dead.engine.script("heartbeat", overtaken)
    dead.engine.script("fail", fail)
    await asked.wait()
    with capture_logs() as logs:
        dead.end()
        await asyncio.sleep(1.0)
    assert "lease_lost" not in [line["event"] for line in logs]
    assert dead.ledger.get(Host.LEASES_LOST) == 0
    assert dead.segment.life is Life.FREE
