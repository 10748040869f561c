"""Events, past facts on which `decide` decides; the shell makes them from signals, messages and exits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd_supervisor.core.plan import Plan

KEEPER, ZYGOTE = -1, -2  # stand in for the process index


@dataclass(frozen=True, slots=True)
class Started:
    """The supervisor is up; nothing has been forked."""


@dataclass(frozen=True, slots=True)
class ChildForked:
    """A process exists; it has not sent a message yet."""

    index: int
    incarnation: int
    pid: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """The process could not be created (faults.md P12, P13), or no segment is free."""

    index: int
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class ChildReady:
    """The process is ready; a worker or the zygote has sent what it serves.

    `hazards` describes what the zygote has found that does not survive a fork, one phrase each.
    """

    index: int
    incarnation: int
    worker_type: str = ""
    activities: Mapping[str, str] = field(default_factory=dict)
    hazards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BootFailed:
    """The process has reported that it cannot start."""

    index: int
    incarnation: int
    code: int
    message: str
    report: str


@dataclass(frozen=True, slots=True)
class ChildStopped:
    """A worker's last message after a drain."""

    index: int
    incarnation: int
    released: int
    undelivered: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChildExited:
    """The process has been reaped; `running` is the number of activities that ran when it ended."""

    index: int
    incarnation: int
    status: int
    running: int


@dataclass(frozen=True, slots=True)
class LimitOverdue:
    """An activity is past its limit and the grace without a report: its loop is blocked.

    `seen` is the number of times that this host has claimed it.
    """

    index: int
    incarnation: int
    sequence: int
    name: str
    activity_id: str
    limit_s: float
    workflow_id: str = ""
    key: str = ""
    seen: int = 1


@dataclass(frozen=True, slots=True)
class SegmentDamaged:
    """A process's shared memory holds something that no flowherd code can have written."""

    index: int
    incarnation: int
    found: str


@dataclass(frozen=True, slots=True)
class KeeperLate:
    """The keeper has not scanned for so long that leases are in danger."""

    index: int
    incarnation: int
    late_s: float


@dataclass(frozen=True, slots=True)
class WorkerUsedUp:
    """A worker has reached one of its limits, such as the number of tasks or its memory."""

    index: int
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class IsolateNeeded:
    """A worker wants an isolate, which it calls `key`."""

    index: int
    incarnation: int
    key: int


@dataclass(frozen=True, slots=True)
class IsolateForked:
    """The isolate exists."""

    index: int
    incarnation: int
    key: int
    pid: int


@dataclass(frozen=True, slots=True)
class IsolateNotForked:
    """The isolate could not be created."""

    index: int
    incarnation: int
    key: int
    reason: str


@dataclass(frozen=True, slots=True)
class IsolateKillWanted:
    """The worker wants the isolate to be killed."""

    index: int
    incarnation: int
    key: int


@dataclass(frozen=True, slots=True)
class IsolateExited:
    """The isolate has been reaped."""

    index: int
    incarnation: int
    key: int
    status: int


@dataclass(frozen=True, slots=True)
class LoopBlocked:
    """A run of an activity occupies a worker's loop, or has done so when `is_over`; see `messages.LoopBlocked`."""

    index: int
    incarnation: int
    name: str
    place: str
    seconds: float
    cpu_share: float
    is_over: bool


@dataclass(frozen=True, slots=True)
class MoveFailed:
    """A worker can get no isolate for a moved activity."""

    index: int
    incarnation: int
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class KeepRequested:
    """`keep` over the admin socket: an activity stays on the loop."""

    name: str


@dataclass(frozen=True, slots=True)
class CredentialsRefused:
    """The token endpoint answered 401 for the whole grace and has never granted a token."""

    detail: str


@dataclass(frozen=True, slots=True)
class DrainOrdered:
    """`drain` over the admin socket: the same as the first TERM; a repeated one changes nothing."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """TERM or INT; `times` is 2 for QUIT, which counts as two."""

    times: int = 1


@dataclass(frozen=True, slots=True)
class WorkedOff:
    """With `--burst`: nothing was held for `idle_s` seconds, and a poll in that time returned nothing."""

    idle_s: float


@dataclass(frozen=True, slots=True)
class PollingSwitched:
    """TSTP (off) or CONT (on)."""

    on: bool


@dataclass(frozen=True, slots=True)
class ReloadRequested:
    """HUP: `plan` follows from the settings as they are now."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class ReloadRefused:
    """HUP, but the settings are wrong or need a restart."""

    reason: str


@dataclass(frozen=True, slots=True)
class ScaleRequested:
    """TTIN, TTOU or `scale`: `processes` processes are wanted."""

    processes: int


@dataclass(frozen=True, slots=True)
class StacksRequested:
    """USR1."""


@dataclass(frozen=True, slots=True)
class SlotsSeen:
    """A worker's cells in the ledger: the last SetSlots it has applied, and the slots it holds."""

    index: int
    incarnation: int
    applied: int
    held: int


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A deadline may be due."""


Found = SlotsSeen | LimitOverdue | SegmentDamaged | KeeperLate | WorkerUsedUp
ChildEvent = ChildForked | SpawnFailed | ChildReady | BootFailed | ChildStopped | ChildExited | Found
StopEvent = StopRequested | DrainOrdered | WorkedOff | CredentialsRefused
HostEvent = Started | StopEvent | PollingSwitched | TimePassed
Request = ReloadRequested | ReloadRefused | ScaleRequested | StacksRequested
IsolateWish = IsolateNeeded | IsolateKillWanted
BlockerEvent = LoopBlocked | MoveFailed | KeepRequested
IsolateEvent = IsolateWish | IsolateForked | IsolateNotForked | IsolateExited
Event = ChildEvent | HostEvent | Request | IsolateEvent | BlockerEvent
