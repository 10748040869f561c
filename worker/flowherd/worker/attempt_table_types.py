"""The types around the table of attempts: its rules, what it asks of its surroundings, and its commands. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd.activities_and_outcomes import Activity, Failed
    from flowherd.attempt_ids import AttemptIds
    from flowherd.sdk.spending import SpendingKeeper
    from flowherd.worker.attempt import Attempt


class Ending(IntEnum):
    """The end of a claim, for the counters."""

    COMPLETED = 0
    FAILED = 1
    LOST = 2


class Records(Protocol):
    """The worker's records in the ledger."""

    @property
    def free(self) -> int:
        """Attempts for which there are records left."""
        ...

    def claim(self, activity: Activity, *, now: float, lease_s: float) -> tuple[int, int]:
        """Writes the record of a new attempt; its index and sequence. LedgerFull when there is no room."""
        ...

    def follow(self, attempt: Attempt) -> None:
        """Writes where an attempt stands now; gives its record back when it is over."""
        ...

    def rebind(self, attempt: Attempt, worker_id: str, *, now: float) -> None:
        """Moves an attempt under the worker_id of its newest claim; its index and sequence are others then."""
        ...

    def closed(self, attempt: Attempt, ending: Ending, told: Failed | None) -> None:
        """The claim of an attempt has ended, as `follow` was told before; see `AttemptTable.delivered`."""
        ...

    def keeper_of(self, attempt: Attempt) -> SpendingKeeper | None:
        """Keeps what an attempt spends with its record, from any thread."""
        ...

    def earlier(self, activity_id: str) -> int:
        """The number of times that this host was given an activity and did not complete it."""
        ...

    def not_completed(self, activity_id: str) -> None:
        """The host was given it once, and does not complete it: the engine may hand it out again from now on."""
        ...

    def begun_at(self, name: str) -> float:
        """Monotonic seconds when the newest attempt of that name at work on this host began, 0 for none."""
        ...


class History(Protocol):
    """The activities with which processes have died."""

    @property
    def any_charged(self) -> bool:
        """There are any."""
        ...

    @property
    def are_about(self) -> bool:
        """True when one may be in the next batch."""
        ...

    def is_charged(self, activity_id: str) -> bool:
        """A process has died with this one."""
        ...


class Profile(Protocol):
    """Knowledge of activities by their name."""

    @property
    def busy_mean_s(self) -> float:
        """Seconds of this process that a recent activity took, on average."""
        ...

    def blocks(self, name: str) -> bool:
        """True if the activity lately blocked the loop long enough to delay others."""
        ...


class Catalog(Protocol):
    """The hosted activities."""

    @property
    def has_isolates(self) -> bool:
        """Handlers can run in isolates here."""
        ...

    def limit_s(self, activity: Activity) -> float:
        """Seconds its handler may take."""
        ...

    def runs_on_loop(self, name: str) -> bool:
        """Its handler shares the event loop with others."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules that hold for every attempt of a worker. Times are seconds.

    Attributes:
        cancel_grace_s: from a stop until the outcome is decided without the handler.
        warn_after_s: an attempt that has not begun for so long is named once.
        default_lease_s: of activities that name no `timeout_seconds`.
        suspects_at_once: suspects that may be in isolates at the same time.

    """

    cancel_grace_s: float = 5.0
    warn_after_s: float = 30.0
    default_lease_s: float = 300.0
    suspects_at_once: int = 8


class Start(NamedTuple):
    """Start the handler; at its first step ask `AttemptTable.begin`."""

    attempt: Attempt


class Stop(NamedTuple):
    """Tell the handler to end; `is_last` when it has been told before and its grace is over."""

    attempt: Attempt
    is_last: bool = False


class Withdraw(NamedTuple):
    """The handler was to be started, and must not begin any more: its claim has ended."""

    attempt: Attempt


class Deliver(NamedTuple):
    """Deliver the attempt's outcome; its end is the fact `delivered`."""

    attempt: Attempt


class Reject(NamedTuple):
    """Report a failure about an activity that has no record here; its end is the fact `rejected`."""

    who: AttemptIds
    worker_id: str
    failure: Failed
    settings: Mapping[str, Any]


class WarnNotBegun(NamedTuple):
    """Say that an attempt was claimed `waited_s` seconds ago and has not begun, and why."""

    attempt: Attempt
    waited_s: float
    reason: str


class WakePoller(NamedTuple):
    """There may be room for more."""


Command = Start | Stop | Withdraw | Deliver | Reject | WarnNotBegun | WakePoller
