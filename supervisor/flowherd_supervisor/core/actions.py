"""Actions that `decide` returns and the shell performs; most name a process and an incarnation."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from flowherd_supervisor.core.events import KEEPER

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Spawn:
    """Create a process; ChildForked or SpawnFailed follows, or the exit of the zygote that was asked.

    `limit` is its number of slots, `zygote` the incarnation of the zygote to fork it from (0 for a direct fork),
    `workers` the number of workers in it.
    """

    index: int
    incarnation: int
    limit: int
    zygote: int = 0
    workers: int = 1


@dataclass(frozen=True, slots=True)
class SetSlots:
    """Let the worker run at most `limit` activities; it confirms with `n` in the ledger."""

    index: int
    incarnation: int
    limit: int
    n: int


@dataclass(frozen=True, slots=True)
class DumpStacks:
    """Let every process log the stacks of its threads."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Let the worker finish within `within_s` seconds; `others_go_on` is True if the host does not stop."""

    index: int
    incarnation: int
    within_s: float
    others_go_on: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """Let the worker release everything within `within_s` seconds."""

    index: int
    incarnation: int
    within_s: float


@dataclass(frozen=True, slots=True)
class SwitchPolling:
    """Stop or resume polling."""

    index: int
    incarnation: int
    on: bool


@dataclass(frozen=True, slots=True)
class TellMoved:
    """Tell the worker which activities run in isolates, with their share of a CPU, and which stay on the loop."""

    index: int
    incarnation: int
    moved: Mapping[str, float]
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FinishKeeper:
    """Let the keeper settle what is left within `within_s` seconds and exit."""

    incarnation: int
    within_s: float
    index: int = KEEPER


@dataclass(frozen=True, slots=True)
class Kill:
    """Send SIGKILL to a process that has not been reaped; its exit is not a crash."""

    index: int
    incarnation: int


@dataclass(frozen=True, slots=True)
class Abort:
    """Send SIGABRT: the process writes its stacks and dies; `guilty` is the sequence of the record that hung it."""

    index: int
    incarnation: int
    guilty: int


@dataclass(frozen=True, slots=True)
class SpawnIsolate:
    """Create an isolate for a worker; IsolateForked or IsolateNotForked follows. `zygote` as for Spawn."""

    index: int
    incarnation: int
    key: int
    zygote: int


@dataclass(frozen=True, slots=True)
class KillIsolate:
    """Send SIGKILL to the isolate's process group."""

    index: int
    incarnation: int
    key: int


@dataclass(frozen=True, slots=True)
class TellIsolateStarted:
    """Tell the worker, if it still exists, that its isolate has started."""

    index: int
    incarnation: int
    key: int
    pid: int


@dataclass(frozen=True, slots=True)
class TellIsolateEnded:
    """Tell the worker, if it still exists, that its isolate has ended, and forget the isolate."""

    index: int
    incarnation: int
    key: int
    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Exit:
    """Everything has ended: leave with this code."""

    code: int


class Level(Enum):
    """The level of a log line."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log; `report` is a traceback to print once, unchanged."""

    event: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    level: Level = Level.INFO
    report: str = ""


ToChild = SetSlots | Drain | Release | SwitchPolling | TellMoved | FinishKeeper | Kill | Abort
AboutIsolate = SpawnIsolate | KillIsolate | TellIsolateStarted | TellIsolateEnded
Action = Spawn | ToChild | AboutIsolate | DumpStacks | Exit | Note
