"""Facts in the past that the brain decides on; the shell makes them out of signals, messages and exits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd_supervisor.core.plan import Plan

KEEPER, ZYGOTE = -1, -2  # their numbers where workers have their process's


@dataclass(frozen=True, slots=True)
class Started:
    """The supervisor is up; nothing has been forked."""


@dataclass(frozen=True, slots=True)
class ChildForked:
    """A process exists; it has sent no message yet."""

    index: int
    incarnation: int
    pid: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """No process could be made (faults.md P12, P13), or no segment is free."""

    index: int
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class ChildReady:
    """The process is ready; a worker, or the zygote, names the activities it serves.

    `hazards` is what the zygote has found that does not survive a fork, one phrase each.
    """

    index: int
    incarnation: int
    worker_type: str = ""
    activities: Mapping[str, str] = field(default_factory=dict)
    hazards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BootFailed:
    """The process reports that it cannot start."""

    index: int
    incarnation: int
    code: int
    message: str
    report: str


@dataclass(frozen=True, slots=True)
class ChildStopped:
    """A worker's last message, after a drain."""

    index: int
    incarnation: int
    released: int
    undelivered: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChildExited:
    """A child was reaped; `running` is the number of activities that ran when it ended."""

    index: int
    incarnation: int
    status: int
    running: int


@dataclass(frozen=True, slots=True)
class LimitOverdue:
    """An activity has run past its limit and the grace: its loop is blocked, or it would have been reported.

    `seen` is how often the host has been given it.
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
    """A process's shared memory holds values that flowherd cannot have written."""

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
    """A worker has done or grown as much as it may."""

    index: int
    incarnation: int
    reason: str


@dataclass(frozen=True, slots=True)
class IsolateNeeded:
    """A worker wants a process for an activity that it calls `key`."""

    index: int
    incarnation: int
    key: int


@dataclass(frozen=True, slots=True)
class IsolateForked:
    """An isolate was made."""

    index: int
    incarnation: int
    key: int
    pid: int


@dataclass(frozen=True, slots=True)
class IsolateNotForked:
    """An isolate could not be made."""

    index: int
    incarnation: int
    key: int
    reason: str


@dataclass(frozen=True, slots=True)
class IsolateKillWanted:
    """Its worker wants it to be killed."""

    index: int
    incarnation: int
    key: int


@dataclass(frozen=True, slots=True)
class IsolateExited:
    """An isolate was reaped."""

    index: int
    incarnation: int
    key: int
    status: int


@dataclass(frozen=True, slots=True)
class CredentialsRefused:
    """The token endpoint answered 401 for the whole grace, and never granted a token."""

    detail: str


@dataclass(frozen=True, slots=True)
class StopRequested:
    """TERM or INT; `times` is 2 for QUIT, which stands for two of them."""

    times: int = 1


@dataclass(frozen=True, slots=True)
class WorkedOff:
    """With `--burst`: for so long nothing was held, and polls have brought nothing."""

    idle_s: float


@dataclass(frozen=True, slots=True)
class PollingSwitched:
    """TSTP (off) or CONT (on)."""

    on: bool


@dataclass(frozen=True, slots=True)
class ReloadRequested:
    """HUP: `plan` is what the settings say now."""

    plan: Plan


@dataclass(frozen=True, slots=True)
class ReloadRefused:
    """HUP, but the settings are wrong, or ask for what only a restart can do."""

    reason: str


@dataclass(frozen=True, slots=True)
class ScaleRequested:
    """TTIN, TTOU or `scale`: so many processes are wanted from now on."""

    processes: int


@dataclass(frozen=True, slots=True)
class StacksRequested:
    """USR1."""


@dataclass(frozen=True, slots=True)
class SlotsSeen:
    """A worker's cells in the ledger: the last order it has applied, and the slots it holds."""

    index: int
    incarnation: int
    applied: int
    held: int


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A deadline may be due."""


Found = SlotsSeen | LimitOverdue | SegmentDamaged | KeeperLate | WorkerUsedUp
ChildEvent = ChildForked | SpawnFailed | ChildReady | BootFailed | ChildStopped | ChildExited | Found
HostEvent = Started | CredentialsRefused | WorkedOff | StopRequested | PollingSwitched | TimePassed
Request = ReloadRequested | ReloadRefused | ScaleRequested | StacksRequested
IsolateWish = IsolateNeeded | IsolateKillWanted
IsolateEvent = IsolateWish | IsolateForked | IsolateNotForked | IsolateExited
Event = ChildEvent | HostEvent | Request | IsolateEvent
