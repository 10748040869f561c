"""The lease rules against a model: any order of claims, reports, time, sweeps and restarts (faults.md M15).

`FLOWHERD_LEASE_HISTORIES=300` makes it the long run of the figures.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from flowherd_engine.clock import Clock
from flowherd_engine.database import _connect, _in_transaction
from flowherd_engine.definitions import parse
from flowherd_engine.deployed_definitions import DeployedDefinitions
from flowherd_engine.queue import NO_COST, Failure, Queue, Verdict
from flowherd_engine.scheduling import Scheduler
from flowherd_engine.submit_and_signal import Submission, Workflows

HISTORIES = int(os.environ.get("FLOWHERD_LEASE_HISTORIES", "60"))
LEASE_S = 10.0
# retry block of the definition -> (attempts in all, backoff after the first failure in seconds)
KINDS = {
    "none": ("", 4, 2),
    "once": ("settings: {retry: {}}", 1, 2),
    "twice": ("settings: {retry: {max_attempts: 2, base_seconds: 5, strategy: fixed}}", 2, 5),
}
WORKERS = st.sampled_from(["w1", "w2", "w3"])


def output_of(worker: str) -> str:
    return f'{{"by":"{worker}"}}'


class FixedClock(Clock):
    """A clock that moves only when it is set."""

    def __init__(self) -> None:
        self.at_s = 1_800_000_000.0

    def now_s(self) -> float:
        return self.at_s


@dataclass
class Row:
    """The model's state of one activity."""

    kind: str
    seq: int
    ready_s: float
    status: str = "pending"
    holder: str | None = None
    lease_ends_s: float = 0.0
    failures: int = 0

    @property
    def retries_left(self) -> bool:
        return self.failures + 1 < KINDS[self.kind][1]

    def requeue(self, ready_s: float) -> None:
        self.status, self.holder, self.ready_s = "pending", None, ready_s
        self.failures += 1


class Leases(RuleBasedStateMachine):
    """Every verdict of the queue must be the model's."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = FixedClock()
        self.rows: dict[str, Row] = {}
        self.connection = None
        self.start()
        for kind, (extra, _, _) in KINDS.items():
            text = f"name: {kind}\nactivities:\n- key: a\n  worker: py\n  {extra}\n"
            self.do(self.catalog.deploy, parse(text), self.clock.now_s())

    def start(self) -> None:
        self.connection = _connect(str(Path(self.folder.name) / "x.db"))
        self.catalog = DeployedDefinitions()
        scheduler = Scheduler(self.catalog)
        self.queue = Queue(self.clock, self.catalog, scheduler, 1e9)
        self.workflows = Workflows(self.clock, self.catalog, scheduler, LEASE_S, 3)

    def do(self, work, *arguments):
        return _in_transaction(self.connection, work, *arguments)

    @rule(target=ids, kind=st.sampled_from(sorted(KINDS)), many=st.integers(1, 3))
    def submit(self, kind, many):
        made = []
        for _ in range(many):
            self.do(self.workflows.submit, Submission(kind, None, "{}", None))
            seq, id_ = self.connection.execute(
                "SELECT seq, id FROM activities ORDER BY seq DESC LIMIT 1"
            ).fetchone()
            self.rows[id_] = Row(kind, seq, self.clock.now_s())
            made.append(id_)
        return multiple(*made)

    @rule(worker=WORKERS, most=st.integers(1, 4))
    def poll(self, worker, most):
        now_s = self.clock.now_s()
        free = [
            (row.ready_s, row.seq, id_)
            for id_, row in self.rows.items()
            if (row.status == "pending" and row.ready_s <= now_s)
            or (row.status == "running" and row.lease_ends_s < now_s and row.retries_left)
        ]
        expected = [id_ for _, _, id_ in sorted(free)[:most]]
        assert [claim.activity_id for claim in self.do(self.queue.claim, "py", worker, most)] == expected
        for id_ in expected:
            row = self.rows[id_]
            row.failures += row.status == "running"
            row.status, row.holder, row.lease_ends_s = "running", worker, now_s + LEASE_S

    @rule(worker=WORKERS, most=st.integers(1, 4))
    def take_over(self, worker, most):
        """Polls after the end of a lease, which random steps rarely do."""
        self.clock.at_s += LEASE_S + 0.5
        self.poll(worker, most)

    @rule(id_=ids, worker=WORKERS)
    def beat(self, id_, worker):
        row = self.rows[id_]
        verdict = self.do(self.queue.heartbeat, id_, worker)
        if row.status in {"completed", "failed"}:
            assert verdict is Verdict.ACCEPTED
        elif row.holder == worker:
            assert verdict is Verdict.ACCEPTED
            row.lease_ends_s = self.clock.now_s() + LEASE_S
        else:
            assert verdict is Verdict.OTHER_WORKER

    @rule(id_=ids, worker=WORKERS)
    def complete(self, id_, worker):
        row = self.rows[id_]
        verdict = self.do(self.queue.complete, id_, worker, output_of(worker), NO_COST)
        if row.holder != worker:
            assert verdict is Verdict.OTHER_WORKER
        elif row.status == "failed":
            assert verdict is Verdict.SETTLED
        else:
            assert verdict is Verdict.ACCEPTED
            row.status = "completed"

    @rule(id_=ids, worker=WORKERS, retryable=st.booleans())
    def fail(self, id_, worker, retryable):
        row = self.rows[id_]
        verdict = self.do(self.queue.fail, id_, worker, Failure("E", "m", retryable), NO_COST)
        if row.holder != worker:
            assert verdict is Verdict.OTHER_WORKER
        elif row.status != "running":
            assert verdict is Verdict.SETTLED
        elif retryable and row.retries_left:
            assert verdict is Verdict.WILL_RETRY
            base_s = KINDS[row.kind][2]
            backoff_s = base_s if row.kind == "twice" else base_s * 2**row.failures
            row.requeue(self.clock.now_s() + backoff_s)
        else:
            assert verdict is Verdict.ACCEPTED
            row.status = "failed"

    @rule(seconds=st.sampled_from([1.0, 3.0, 9.0, 10.5, 25.0]))
    def advance(self, seconds):
        self.clock.at_s += seconds

    @rule()
    def sweep(self):
        self.do(self.queue.sweep)
        for row in self.rows.values():
            if row.status == "running" and row.lease_ends_s < self.clock.now_s():
                if row.retries_left:
                    row.requeue(row.ready_s)
                else:
                    row.status = "failed"

    @rule()
    def restart(self):
        self.connection.close()
        self.start()

    @rule(id_=consumes(ids))
    def forget(self, id_):
        """Forgets a row, so that histories with old rows occur, too."""

    @invariant()
    def the_rows_are_the_models(self):
        stored = {
            id_: (status, holder, retries)
            for id_, status, holder, retries in self.connection.execute(
                "SELECT id, status, claimed_by, retry_count FROM activities"
            )
        }
        assert stored == {id_: (row.status, row.holder, row.failures) for id_, row in self.rows.items()}

    @invariant()
    def each_workflow_ends_with_its_activity_and_keeps_the_first_output(self):
        for id_, status, holder, outputs in self.connection.execute(
            "SELECT a.id, w.status, a.claimed_by, a.outputs FROM activities a"
            " JOIN workflows w ON w.seq = a.workflow_seq"
        ):
            expected = self.rows[id_].status
            assert status == (expected if expected in {"completed", "failed"} else "running")
            assert outputs == (output_of(holder) if expected == "completed" else None)

    def teardown(self):
        with contextlib.closing(self.connection):
            assert self.connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
        self.folder.cleanup()


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=HISTORIES, stateful_step_count=40, deadline=None)
