"""The supervisor's state between decisions: frozen data and values derived from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from math import inf
from typing import TYPE_CHECKING

from flowherd_supervisor.core.events import KEEPER, ZYGOTE
from flowherd_supervisor.core.plan import Preload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd_supervisor.core.plan import Plan


class Phase(Enum):
    """The phase of a process; one that is DYING has been sent SIGKILL, or will be once it exists.

    WAITING → STARTING → RUNNING → DRAINING → STOPPED is the normal life. An exit that was not ordered leads through
    BACKOFF to STARTING again.
    """

    WAITING = "waiting"  # for the first process to show that the app boots, or for a zygote
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    ABORTING = "aborting"  # sent SIGABRT because it hangs or is damaged; writes its stacks
    DYING = "dying"
    BACKOFF = "backoff"
    STOPPED = "stopped"


FORK_WITHIN_S = 3.0  # a zygote forks in milliseconds: one that takes longer is frozen
ALIVE = frozenset({Phase.STARTING, Phase.RUNNING, Phase.DRAINING, Phase.ABORTING, Phase.DYING})


@dataclass(frozen=True, slots=True)
class ProcessState:
    """The current incarnation of the process with index `number`. Times are monotonic seconds.

    `limit` is the number of slots granted last, by order `n`; until the process has applied that order it may
    still use up to `ceiling`. `held` is the number it was last seen to hold. `workers` is the number of threads in
    the process that was ordered last.
    """

    number: int
    limit: int = 0
    phase: Phase = Phase.WAITING
    incarnation: int = 0
    pid: int | None = None  # None while no process exists, also during its fork
    started_at: float = 0.0
    ready_at: float | None = None
    retry_at: float = inf
    kill_at: float = inf  # for a process that ends while the host goes on
    aborted_at: float = -inf  # when an incarnation was last aborted because it hung
    is_damaged: bool = False  # True if it is aborted because its segment was overwritten
    short_in_row: int = 0
    restarts: int = 0
    ceiling: int = 0
    n: int = 0
    applied: int = 0
    held: int = 0
    workers: int = 1
    maker: int = 0  # incarnation of the zygote that forks it, 0 for the supervisor
    killed_for: str = ""  # reason for the SIGKILL

    @property
    def charge(self) -> int:
        """The slots of the budget that it may use; a dead process keeps its share while it restarts."""
        return max(self.ceiling, self.held) if self.alive else self.limit

    @property
    def alive(self) -> bool:
        """True if a process exists or is being forked, and has not been reaped."""
        return self.phase in ALIVE

    @property
    def unanswered(self) -> bool:
        """True if it has been ordered and no answer to that has arrived."""
        return self.alive and self.pid is None

    def boot_deadline(self, timeout_s: float) -> float:
        """Time by which the process must be ready, counted from its fork; infinity if it is not booting."""
        booting = self.phase is Phase.STARTING and self.pid is not None
        return self.started_at + timeout_s if booting else inf

    def with_phase(self, phase: Phase) -> ProcessState:
        """Returns the same process in another phase."""
        return replace(self, phase=phase)


@dataclass(frozen=True, slots=True)
class Zygotes:
    """The zygotes: at most one forks, and a successor may be starting.

    After a reload the one of the old version is kept, DRAINING, until a process of the new version is ready.

    Attributes:
        wanted: True if workers are forked from a zygote, False if each imports the app itself.
        processes: zygotes that exist or are to start; only the last can be STARTING or in BACKOFF.
        reloading: True if the starting one imports a new version for a reload.
        ends: times at which a zygote ended that was still needed.
        failed_in_row: zygotes in a row that did not start or did not fork.
        forked_at: time of the last fork.

    """

    wanted: bool
    processes: tuple[ProcessState, ...] = ()
    reloading: bool = False
    ends: tuple[float, ...] = ()
    failed_in_row: int = 0
    forked_at: float = -inf

    @property
    def ready(self) -> ProcessState | None:
        """The zygote that forks, None if none is ready."""
        return next((process for process in self.processes if process.phase is Phase.RUNNING), None)

    @property
    def kept(self) -> ProcessState | None:
        """The zygote of the old version amid a reload, None if it is not needed any more."""
        return next((process for process in self.processes if process.phase is Phase.DRAINING), None)

    @property
    def awaited(self) -> bool:
        """True if forks must wait for a zygote to be ready."""
        return self.wanted and self.ready is None

    @property
    def coming(self) -> bool:
        """True if a zygote is starting or will start again."""
        return any(process.phase in {Phase.STARTING, Phase.BACKOFF} for process in self.processes)

    def with_process(self, process: ProcessState) -> Zygotes:
        """Returns the same with one zygote replaced or added; drops ended ones, and BACKOFF for a starting one."""
        starts = process.phase is Phase.STARTING
        kept = [
            old
            for old in self.processes
            if old.incarnation != process.incarnation and (old.alive or not starts)
        ]
        return replace(
            self, processes=(*kept, *([process] if process.alive or process.phase is Phase.BACKOFF else []))
        )


@dataclass(frozen=True, slots=True)
class Isolate:
    """A process that works for one worker; it has no index, segment or link of its own.

    WAITING for a zygote → STARTING → RUNNING → DYING. `index` and `incarnation` are its worker's, which calls it `key`.
    """

    index: int
    incarnation: int
    key: int
    phase: Phase = Phase.WAITING
    pid: int | None = None
    maker: int = 0
    asked_at: float = inf
    kill_at: float = inf

    @property
    def names(self) -> tuple[int, int, int]:
        """The three numbers that identify the isolate."""
        return self.index, self.incarnation, self.key

    @property
    def unanswered(self) -> bool:
        """True if it has been ordered and no answer to that has arrived."""
        return self.phase in {Phase.STARTING, Phase.DYING} and self.pid is None


@dataclass(frozen=True, slots=True)
class Blocker:
    """An activity that occupies its loop, as far as workers have reported.

    Attributes:
        runs: that occupied a loop.
        blocks: index and incarnation of the processes that it blocks now.
        longest_s: the longest time in one step.
        place: where that was, `file:line`.
        cpu_share: the largest share of a CPU that it took meanwhile.
        is_moved: True if it runs in isolates.
        is_announced: True once the log says so.

    """

    runs: int = 0
    blocks: frozenset[tuple[int, int]] = frozenset()
    longest_s: float = 0.0
    place: str = ""
    cpu_share: float = 0.0
    is_moved: bool = False
    is_announced: bool = False


class Mode(Enum):
    """The supervisor's state as a whole."""

    SERVING = "running"
    DRAINING = "draining"
    RELEASING = "releasing"
    FINISHING = "finishing"  # only the keeper is left
    ENDED = "ended"  # Exit has been ordered


@dataclass(frozen=True, slots=True)
class State:
    """Everything `decide` knows.

    `deadline` is when the current mode times out, infinity once it has; `stops` counts stop requests. `retiring` are
    processes that have a successor or whose index is no longer wanted; `rolling` are the indexes that a reload has yet
    to replace. `incarnations` has the newest of each index, also of one that is gone, so that no pair repeats. `causes`
    counts replacements by index and cause and never decreases. `blockers` is what is known of activities that block
    their loop, `kept` are those that stay there by order, `moves` counts moves and never decreases. `configured` is the
    number of workers in the settings.
    """

    plan: Plan
    processes: tuple[ProcessState, ...]
    keeper: ProcessState
    mode: Mode = Mode.SERVING
    deadline: float = inf
    stops: int = 0
    exit_code: int = 0
    ever_ready: bool = False
    polling: bool = True
    short_ends: tuple[float, ...] = ()
    keeper_ends: tuple[float, ...] = ()
    retiring: tuple[ProcessState, ...] = ()
    rolling: tuple[int, ...] = ()
    incarnations: Mapping[int, int] = field(default_factory=dict)
    causes: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    zygotes: Zygotes = field(default_factory=lambda: Zygotes(wanted=False))
    isolates: tuple[Isolate, ...] = ()
    blockers: Mapping[str, Blocker] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()
    moves: Mapping[str, int] = field(default_factory=dict)
    configured: int = 0

    @property
    def is_serving(self) -> bool:
        """True if the host is not stopping."""
        return self.mode is Mode.SERVING

    @classmethod
    def new(cls, plan: Plan) -> State:
        """Returns the state before anything has been forked."""
        processes = tuple(
            ProcessState(number, limit, ceiling=limit) for number, limit in enumerate(plan.shares)
        )
        return cls(
            plan,
            processes,
            ProcessState(KEEPER),
            zygotes=Zygotes(wanted=plan.preload is not Preload.NEVER),
            configured=plan.workers,
        )

    def index(self, number: int) -> ProcessState:
        """Returns the process with index `number`, or the keeper."""
        return self.keeper if number == KEEPER else self.processes[number]

    @property
    def workers(self) -> tuple[ProcessState, ...]:
        """All worker processes: the current and the retiring ones."""
        return (*self.processes, *self.retiring)

    def find(self, number: int, incarnation: int) -> ProcessState | None:
        """Returns the live process with this index and incarnation, None if it has ended."""
        known = {KEEPER: (self.keeper,), ZYGOTE: self.zygotes.processes}.get(number, self.workers)
        return next(
            (s for s in known if (s.number, s.incarnation) == (number, incarnation) and s.alive), None
        )

    def isolate(self, index: int, incarnation: int, key: int) -> Isolate | None:
        """Returns the isolate with these numbers, None if it has ended."""
        return next((one for one in self.isolates if one.names == (index, incarnation, key)), None)

    def predecessor(self, process: ProcessState) -> ProcessState | None:
        """Returns the process that still works until this successor is ready, None if there is none."""
        return next(
            (s for s in self.retiring if s.number == process.number and s.phase is Phase.RUNNING), None
        )

    def with_process(self, process: ProcessState) -> State:
        """Returns the same state with one process replaced; a retiring process is dropped once it has ended."""
        if process.number == KEEPER:
            return replace(self, keeper=process)
        if process.number == ZYGOTE:
            return replace(self, zygotes=self.zygotes.with_process(process))
        names = (process.number, process.incarnation)
        if any((old.number, old.incarnation) == names for old in self.retiring):
            kept = (process if (old.number, old.incarnation) == names else old for old in self.retiring)
            return replace(self, retiring=tuple(old for old in kept if old.alive))
        return replace(
            self, processes=tuple(process if old.number == process.number else old for old in self.processes)
        )

    @property
    def ready(self) -> int:
        """The number of running processes."""
        return sum(process.phase is Phase.RUNNING for process in self.processes)

    def answer_due(self, zygote: ProcessState) -> float:
        """Time by which a zygote must have forked the next process ordered from it; infinity if none is ordered."""
        if zygote.phase not in {Phase.RUNNING, Phase.DRAINING}:
            return inf
        asked_at = [s.started_at for s in self.workers if s.unanswered and s.maker == zygote.incarnation]
        asked_at += [i.asked_at for i in self.isolates if i.unanswered and i.maker == zygote.incarnation]
        return max(min(asked_at, default=inf), self.zygotes.forked_at) + FORK_WITHIN_S

    @property
    def next_deadline(self) -> float:
        """The earliest time at which TimePassed changes something; infinity if none."""
        due = [self.deadline, *(self.answer_due(zygote) for zygote in self.zygotes.processes)]
        due += [isolate.kill_at for isolate in self.isolates]
        for process in (*self.workers, self.keeper, *self.zygotes.processes):
            if process.phase is Phase.BACKOFF:
                due.append(process.retry_at)
            elif process.phase in {Phase.DRAINING, Phase.ABORTING}:
                due.append(process.kill_at)
            else:
                due.append(process.boot_deadline(self.plan.boot_timeout_s))
        return min(due)
