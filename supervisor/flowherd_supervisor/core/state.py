"""The supervisor's memory between decisions: frozen data, and what follows from it by looking."""

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
    """The phase of a process; DYING has been sent SIGKILL, or will be once it exists, and waits for its exit.

    WAITING → STARTING → RUNNING → DRAINING → STOPPED is the normal life. An end that nobody ordered leads
    through BACKOFF to STARTING again.
    """

    WAITING = "waiting"  # until the first process has shown that the app boots, or for a zygote
    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    ABORTING = "aborting"  # it hangs: it has been sent SIGABRT, to write its stacks
    DYING = "dying"
    BACKOFF = "backoff"
    STOPPED = "stopped"


FORK_WITHIN_S = 3.0  # a zygote forks in milliseconds: one that has not by then is frozen
ALIVE = frozenset({Phase.STARTING, Phase.RUNNING, Phase.DRAINING, Phase.ABORTING, Phase.DYING})


@dataclass(frozen=True, slots=True)
class ProcessState:
    """A place for one process at a time; its incarnations follow each other. Times are monotonic seconds.

    `limit` is the number of slots granted last, by order `n`; until the process has applied that order it may
    still use up to `ceiling`. `held` is how many it was last seen to hold. `workers` are threads of the process
    that was ordered last.
    """

    number: int
    limit: int = 0
    phase: Phase = Phase.WAITING
    incarnation: int = 0
    pid: int | None = None  # None while no process exists, also while it is being made
    started_at: float = 0.0
    ready_at: float | None = None
    retry_at: float = inf
    kill_at: float = inf  # for a process that ends while the others go on
    aborted_at: float = -inf  # when a process of this process was last ended because it hung
    is_damaged: bool = False  # whether it is ended because somebody has scribbled in its memory
    short_in_row: int = 0
    restarts: int = 0
    ceiling: int = 0
    n: int = 0
    applied: int = 0
    held: int = 0
    workers: int = 1
    maker: int = 0  # the incarnation of the zygote that was asked to fork it, 0 for the supervisor
    killed_for: str = ""  # why it was sent SIGKILL

    @property
    def charge(self) -> int:
        """The slots it may be using of the budget; a dead process's share is not moved while it restarts."""
        return max(self.ceiling, self.held) if self.alive else self.limit

    @property
    def alive(self) -> bool:
        """True when a process exists for this number, or is being made, and has not been reaped."""
        return self.phase in ALIVE

    @property
    def unanswered(self) -> bool:
        """True when it has been ordered and does not exist yet, as far as is known."""
        return self.alive and self.pid is None

    def boot_deadline(self, timeout_s: float) -> float:
        """When the process should have been ready, counted from its fork; infinity once it is."""
        booting = self.phase is Phase.STARTING and self.pid is not None
        return self.started_at + timeout_s if booting else inf

    def with_phase(self, phase: Phase) -> ProcessState:
        """The same process in another phase."""
        return replace(self, phase=phase)


@dataclass(frozen=True, slots=True)
class Zygotes:
    """The processes that have imported the app and do nothing but fork: one forks, another may be coming.

    Attributes:
        wanted: whether workers are forked from one; else each imports the app itself.
        processes: those that exist or are waited for; only the last can be STARTING or in BACKOFF.
        reloading: whether the one that starts imports a new version, which all workers shall have then.
        ends: when one ended that was still needed.
        failed_in_row: how many did not come up or did not fork, since one has.
        forked_at: when one last made what it was asked for.

    """

    wanted: bool
    processes: tuple[ProcessState, ...] = ()
    reloading: bool = False
    ends: tuple[float, ...] = ()
    failed_in_row: int = 0
    forked_at: float = -inf

    @property
    def ready(self) -> ProcessState | None:
        """The one that forks."""
        return next((process for process in self.processes if process.phase is Phase.RUNNING), None)

    @property
    def awaited(self) -> bool:
        """True when nothing can be forked until a zygote is ready."""
        return self.wanted and self.ready is None

    @property
    def coming(self) -> bool:
        """True when a zygote will be ready, if all goes well."""
        return any(process.phase in {Phase.STARTING, Phase.BACKOFF} for process in self.processes)

    def with_process(self, process: ProcessState) -> Zygotes:
        """The same with one replaced or added; what has ended is forgotten, and a new one waits for no other."""
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
    """A process that works for one worker; it has no process, no segment and no link.

    WAITING for a zygote → STARTING → RUNNING → DYING. `process` and `incarnation` are its worker's, who calls it `key`.
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
        """The three numbers that identify it."""
        return self.index, self.incarnation, self.key

    @property
    def unanswered(self) -> bool:
        """True when it has been ordered and does not exist yet, as far as is known."""
        return self.phase in {Phase.STARTING, Phase.DYING} and self.pid is None


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

    `deadline` is when the present mode's patience ends, infinity once it has; `stops` counts requests.
    `retiring` are processes that have a successor or whose process is gone; `rolling` are the processes that a
    reload has yet to replace. `incarnations` are
    the newest of each process, also of one that is gone: no name comes twice. `causes` counts, by process, why
    processes were replaced; it never falls. `configured` is how many workers the settings ask for.
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
    configured: int = 0

    @property
    def is_serving(self) -> bool:
        """True until the host is asked to stop."""
        return self.mode is Mode.SERVING

    @classmethod
    def new(cls, plan: Plan) -> State:
        """Before anything has been forked."""
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
        """The index, or the keeper's."""
        return self.keeper if number == KEEPER else self.processes[number]

    @property
    def workers(self) -> tuple[ProcessState, ...]:
        """All of them: the processes as they are now, and what retires."""
        return (*self.processes, *self.retiring)

    def find(self, number: int, incarnation: int) -> ProcessState | None:
        """The process that goes by these names, None if it belongs to the past."""
        known = {KEEPER: (self.keeper,), ZYGOTE: self.zygotes.processes}.get(number, self.workers)
        return next(
            (s for s in known if (s.number, s.incarnation) == (number, incarnation) and s.alive), None
        )

    def isolate(self, index: int, incarnation: int, key: int) -> Isolate | None:
        """The isolate that goes by these names, None if it belongs to the past."""
        return next((one for one in self.isolates if one.names == (index, incarnation, key)), None)

    def predecessor(self, process: ProcessState) -> ProcessState | None:
        """The process that still does the process's work until its successor is ready."""
        return next(
            (s for s in self.retiring if s.number == process.number and s.phase is Phase.RUNNING), None
        )

    def with_process(self, process: ProcessState) -> State:
        """The same state with one process replaced; what retires is forgotten once it has ended."""
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
        """The number of workers that do their work."""
        return sum(process.phase is Phase.RUNNING for process in self.processes)

    def answer_due(self, zygote: ProcessState) -> float:
        """When a zygote should have made the next process it was asked for; infinity while it owes nothing."""
        if zygote.phase is not Phase.RUNNING:
            return inf
        asked_at = [s.started_at for s in self.workers if s.unanswered and s.maker == zygote.incarnation]
        asked_at += [i.asked_at for i in self.isolates if i.unanswered and i.maker == zygote.incarnation]
        return max(min(asked_at, default=inf), self.zygotes.forked_at) + FORK_WITHIN_S

    @property
    def next_deadline(self) -> float:
        """When time alone changes something; infinity if never."""
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
