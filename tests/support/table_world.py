"""A world around an AttemptTable: engine, executors and keeper as the table sees them, with random events."""

from __future__ import annotations

import random
from collections import Counter
from math import inf
from typing import TYPE_CHECKING

from flowherd.activities_and_outcomes import Activity, Completed, Died, Failed
from flowherd.errors import LedgerFull
from flowherd.ledger.states_and_cells import Claim, Handler
from flowherd.worker.admission import Admission
from flowherd.worker.attempt import DETACHED, OVER, PAIRS, RUNNING, Attempt
from flowherd.worker.attempt_table import AttemptTable
from flowherd.worker.attempt_table_types import (
    Command,
    Deliver,
    Ending,
    Reject,
    Rules,
    Start,
    Stop,
    WakePoller,
    WarnNotBegun,
    Withdraw,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

NAMES = ("light", "heavy", "thread", "limited")
LIMIT_S = 5.0
GRACE_S = 2.0


class FakeRecords:
    """Records in a dict, as a crash would leave them."""

    def __init__(self, capacity: int = 12) -> None:
        self.capacity = capacity
        self.sequence = 0
        self.pairs: dict[int, int] = {}
        self.claims = self.endings = 0

    @property
    def free(self) -> int:
        return self.capacity - len(self.pairs)

    def claim(self, activity: Activity, *, now: float, lease_s: float) -> tuple[int, int]:
        del now, lease_s
        if not self.free:
            raise LedgerFull("no room")
        self.claims += 1
        return self._place()

    def _place(self) -> tuple[int, int]:
        index = next(i for i in range(self.capacity) if i not in self.pairs)
        self.sequence += 1
        self.pairs[index] = 0
        return index, self.sequence

    def follow(self, attempt: Attempt) -> None:
        if attempt.pair == OVER:
            self.pairs.pop(attempt.index)
        else:
            self.pairs[attempt.index] = attempt.pair

    def rebind(self, attempt: Attempt, worker_id: str, *, now: float) -> None:
        del now
        activity = attempt.activity
        attempt.activity = activity_of(attempt.id, activity.name, worker_id, activity.timeout_s)
        pair = self.pairs.pop(attempt.index)
        attempt.index, attempt.sequence = self._place()
        self.pairs[attempt.index] = pair

    def keeper_of(self, attempt: Attempt) -> None:
        """Returns no cost."""

    def earlier(self, activity_id: str) -> int:
        del activity_id
        return 0

    def not_completed(self, activity_id: str) -> None:
        """Writes no line."""

    def busy_until(self, names: Collection[str]) -> float:
        return 0.0

    def begun_at(self, name: str) -> float:
        return 100.0 if name == "limited" else 0.0

    def closed(self, attempt: Attempt, ending: Ending, told: Failed | None) -> None:
        self.endings += isinstance(ending, Ending)


class FakeCatalog:
    """A catalog in which all activities but one run on the loop."""

    def __init__(self, *, has_isolates: bool = True, limit_s: float = LIMIT_S) -> None:
        self.has_isolates = has_isolates
        self._limit_s = limit_s

    def limit_s(self, activity: Activity) -> float:
        return self._limit_s if activity.timeout_s is None else activity.timeout_s

    def runs_on_loop(self, name: str) -> bool:
        return name != "thread"

    def rivals(self, name: str) -> tuple[str, ...]:
        return ()


class FakeProfile:
    """A profile in which one activity blocks."""

    busy_mean_s = 0.0


class FakeHistory:
    """Ids of activities with which a process has died."""

    def __init__(self, charged: set[str] | None = None) -> None:
        self.charged = charged or set()

    @property
    def any_suspects(self) -> bool:
        return bool(self.charged)

    @property
    def are_about(self) -> bool:
        return bool(self.charged)

    def is_suspect(self, activity_id: str) -> bool:
        return activity_id in self.charged


def activity_of(
    id_: str, name: str = "light", worker_id: str = "w-1", timeout_s: float | None = None
) -> Activity:
    """Builds an activity as in a poll reply."""
    return Activity(
        activity_id=id_,
        workflow_id="wf",
        key="k",
        name=name,
        worker_type="py",
        worker_id=worker_id,
        parameters={},
        timeout_s=timeout_s,
    )


def a_table(
    limit: int = 4,
    *,
    records: FakeRecords | None = None,
    charged: set[str] | None = None,
    has_isolates: bool = True,
    suspects_at_once: int = 2,
) -> AttemptTable:
    """Builds a table with fakes at its edges."""
    catalog = FakeCatalog(has_isolates=has_isolates)
    records = records or FakeRecords()
    rules = Rules(
        cancel_grace_s=GRACE_S, warn_after_s=2.0, default_lease_s=3.0, suspects_at_once=suspects_at_once
    )
    admission = Admission(rules, records, catalog, FakeProfile(), FakeHistory(charged))
    return AttemptTable(rules, records, admission, limit)


class World:
    """Drives a table through a random history and checks its invariants after every step.

    Attributes:
        started: attempts with a Start whose handler has not ended.
        to_deliver: attempts with a delivery under way.

    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.records = FakeRecords(rng.choice((4, 12)))
        charged = {f"a{n}" for n in range(12) if rng.random() < 0.15} if rng.random() < 0.5 else set()
        self.limit = self.in_use = rng.choice((1, 2, 4))
        self.table = a_table(
            self.limit, records=self.records, charged=charged, has_isolates=rng.random() < 0.5
        )
        self.now = 100.0
        self.polls = 0
        self.seen: set[Attempt] = set()
        self.started: list[Attempt] = []
        self.begun: list[Attempt] = []
        self.told: Counter[Attempt] = Counter()
        self.to_deliver: list[Attempt] = []
        self.delivered: Counter[tuple[Attempt, str]] = Counter()
        self.rejects = 0
        self.successes: dict[Attempt, str] = {}
        self.is_releasing = False
        self.reserved: int | None = None  # slots of the poll under way, if any

    def steps(self) -> list[Callable[[], None]]:
        """Returns the possible steps, some of them several times."""
        return [
            self.poll_begins, self.poll_ends, self.poll_ends, self.first_step, self.first_step,
            self.handler_ends, self.handler_ends, self.handler_ends, self.delivery_ends, self.delivery_ends,
            self.beat_409, self.time_passes, self.time_passes, self.resize, self.reject_ends,
            self.keeper_settles, self.waits_for_permit,
        ]  # fmt: skip

    def run(self, steps: int = 60) -> None:
        """Runs a history that ends with a drain, after which nothing may be owed. Half of them retire first."""
        for _ in range(steps):
            self.rng.choice(self.steps())()
            self.check()
        if self.rng.random() < 0.5:
            self.drain_in_peace()
        self.drain()

    # Facts

    def poll_begins(self) -> None:
        if self.reserved is None and not self.is_releasing:
            self.reserved = self.table.slots.reserve(self.rng.randint(1, 3)) or None

    def poll_ends(self) -> None:
        if self.reserved is None:
            return
        reserved, self.reserved = self.reserved, None
        self.polls += 1
        count = self.rng.choice((0, reserved, reserved, reserved + 1))
        ids = self.rng.sample(range(12), count)
        batch = [
            activity_of(f"a{n}", NAMES[n % 4], f"w-{self.polls}", self.rng.choice((None, 1.0))) for n in ids
        ]
        self.perform(self.table.polled(reserved, batch, asked_at=self.now - 0.1))

    def first_step(self) -> None:
        for attempt in self.started:
            if attempt not in self.begun and self.rng.random() < 0.6:
                legal = attempt.is_held and attempt.handler is Handler.ADMITTED
                assert self.table.begin(attempt, self.now) is legal, attempt
                if legal:
                    self.begun.append(attempt)
                else:
                    self.started.remove(attempt)
                return

    def handler_ends(self) -> None:
        if not self.started:
            return
        attempt = self.rng.choice(self.started)
        if attempt not in self.begun and not (self.rng.random() < 0.1 or not attempt.is_held):
            return
        outcome: Completed | Failed | Died = Completed(b'{"n":%d}' % attempt.sequence)
        if self.rng.random() < 0.3:
            outcome = Failed("EXECUTION_ERROR", "no", retryable=True)
        elif attempt in self.begun and self.rng.random() < 0.1:
            outcome = Died("killed by SIGKILL")
        if attempt not in self.begun and isinstance(outcome, Completed):
            outcome = Failed("UNKNOWN_ACTIVITY", "no", retryable=True)
        self.started.remove(attempt)
        if attempt in self.begun:
            self.begun.remove(attempt)
        was_open = attempt.is_held and attempt.cancel_reason is None
        commands = self.table.finished(attempt, outcome)
        if was_open and isinstance(outcome, Completed):
            assert attempt.outcome is outcome
            self.successes[attempt] = attempt.id
        self.perform(commands)

    def delivery_ends(self) -> None:
        if self.to_deliver:
            attempt = self.to_deliver.pop(self.rng.randrange(len(self.to_deliver)))
            if attempt.claim is Claim.REPORTING:
                self.delivered[attempt, "delivered"] += 1
                self.successes.pop(attempt, None)
            self.perform(self.table.delivered(attempt, Ending.COMPLETED))

    def beat_409(self) -> None:
        owed = self.table.owed()
        if owed:
            attempt = self.rng.choice(owed)
            was = attempt.pair
            self.perform(self.table.lost(attempt, self.now))
            if was & 3 == Claim.REPORTING:
                assert attempt.pair == was, "a beat's 409 must not drop what is being reported"

    def keeper_settles(self) -> None:
        crashed = [one for one in self.table.owed() if one.claim is Claim.CRASHED]
        if crashed:
            self.perform(self.table.settled(self.rng.choice(crashed)))

    def waits_for_permit(self) -> None:
        admitted = [one for one in self.started if one.handler is Handler.ADMITTED]
        if admitted:
            self.table.waits_for_permit(self.rng.choice(admitted))

    def time_passes(self) -> None:
        due = self.table.next_deadline
        self.now = (
            due if due < inf and self.rng.random() < 0.5 else self.now + self.rng.choice((0.01, 0.3, 3.0))
        )
        self.perform(self.table.time_passed(self.now))

    def resize(self) -> None:
        self.resize_to(self.rng.choice((0, 1, 2, 4)))

    def resize_to(self, limit: int) -> None:
        self.limit = limit
        self.in_use = max(self.in_use, limit)  # slots that the host charges this worker from now on
        self.perform(self.table.resized(limit))

    def reject_ends(self) -> None:
        if self.rejects:
            self.rejects -= 1
            self.table.rejected()

    # Commands

    def perform(self, commands: list[Command]) -> None:
        """Performs commands as the shell would."""
        for command in commands:
            match command:
                case Start(attempt):
                    assert attempt.has_slot, attempt
                    self.seen.add(attempt)
                    self.started.append(attempt)
                case Stop(attempt):
                    assert attempt.handler is Handler.STOPPING, attempt
                    self.told[attempt] += 1
                case Withdraw(attempt):
                    assert attempt.handler is Handler.ENDED, attempt
                    assert attempt in self.started
                    assert attempt not in self.begun
                case Deliver(attempt):
                    assert attempt.claim is Claim.REPORTING, attempt
                    assert attempt.outcome is not None
                    self.delivered[attempt, "begun"] += 1
                    self.to_deliver.append(attempt)
                case Reject():
                    self.rejects += 1
                case WarnNotBegun(_, waited_s, reason):
                    assert waited_s >= 0
                    assert reason
                case WakePoller():
                    pass

    def check(self) -> None:
        """Asserts the invariants."""
        table = self.table
        active, owed = list(table.slots.attempts), table.owed()
        everybody = {*active, *owed}
        for attempt in everybody:
            assert attempt.pair in PAIRS, attempt
            assert self.records.pairs[attempt.index] == attempt.pair, attempt
            assert attempt.has_slot == (attempt in active), attempt
            assert attempt.is_owed == (attempt in owed), attempt
            self.check_goes_on(attempt)
        assert len(self.records.pairs) == len(everybody)
        assert all(attempt in active for attempt in self.begun), "a running handler holds its slot"
        assert all(count == 1 for count in self.delivered.values()), "nothing is delivered twice"
        alone = [one for one in active if one.is_alone]
        assert not alone or len(active) == 1, "a suspect without isolates runs alone"
        assert sum(one.is_apart for one in active) <= 2
        assert all(one in owed for one in self.kept_successes())
        assert self.records.claims == self.records.endings + len(owed), "each claim is counted once"
        in_use = max(table.slots.in_use, self.limit)
        assert len(active) + (self.reserved or 0) <= in_use <= max(self.in_use, self.limit), table
        self.in_use = in_use

    def kept_successes(self) -> list[Attempt]:
        """Returns computed successes that are not delivered yet."""
        return [one for one in self.seen if one in self.successes]

    def check_goes_on(self, attempt: Attempt) -> None:
        """Asserts that every unfinished attempt has a deadline or an event on its way."""
        if attempt.is_busy:
            assert attempt in self.started, attempt  # its executor reports its end
            if attempt.pair == RUNNING:
                assert self.table.next_deadline <= attempt.due_at < inf
        elif attempt.claim is Claim.REPORTING:
            assert attempt in self.to_deliver, attempt
        elif attempt.claim is Claim.HELD:
            assert self.table.next_deadline <= attempt.due_at < inf, attempt
        else:
            assert attempt.claim is Claim.CRASHED, attempt  # the keeper reports its settlement
        if attempt.handler is Handler.STOPPING:
            assert self.told[attempt], attempt

    def drain_in_peace(self) -> None:
        """Retires the process: it has no slots any more, but begins and ends what it has claimed."""
        self.resize_to(0)
        for _ in range(400):
            self.check()
            self.poll_ends()
            self.first_step()
            self.handler_ends()
            self.delivery_ends()
            self.reject_ends()
            self.keeper_settles()
            self.now += 0.01  # no limit is reached meanwhile
            self.perform(self.table.time_passed(self.now))
            if self.table.is_clear:
                break
        waiting = self.table.backlog.waiting()
        assert not waiting, [self.table.backlog.reason(one, self.now) for one in waiting]

    def drain(self) -> None:
        """Stops polling and lets everything end; handlers stop when they are cancelled."""
        self.poll_ends()
        self.is_releasing = True
        self.perform(self.table.release(self.now, 0.5))
        for _ in range(400):
            self.check()
            self.first_step()
            self.handler_ends()
            self.delivery_ends()
            self.reject_ends()
            self.keeper_settles()
            self.time_passes()
        self.check()
        assert self.table.is_clear, self.table
        assert not self.table.slots.held, self.table
        assert not self.records.pairs
        assert DETACHED not in self.records.pairs.values()
