"""The types of the table of attempts: its rules, its commands, and the protocols it uses. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

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
        """The number of free records."""
        ...

    def claim(self, activity: Activity, *, now: float, lease_s: float) -> tuple[int, int]:
        """Writes the record of a new attempt; returns its index and sequence; LedgerFull when there is no room."""
        ...

    def follow(self, attempt: Attempt) -> None:
        """Writes the current state of an attempt; frees its record when it is over."""
        ...

    def rebind(self, attempt: Attempt, worker_id: str, *, now: float) -> None:
        """Moves an attempt to the worker_id of its newest claim, which changes its index and sequence."""
        ...

    def closed(self, attempt: Attempt, ending: Ending, told: Failed | None) -> None:
        """Notes the end of an attempt's claim, after `follow`; see `AttemptTable.delivered`."""
        ...

    def keeper_of(self, attempt: Attempt) -> SpendingKeeper | None:
        """Returns the keeper that stores an attempt's spending with its record; callable from any thread."""
        ...

    def earlier(self, activity_id: str) -> int:
        """Returns how often this host claimed an activity without completing it."""
        ...

    def not_completed(self, activity_id: str) -> None:
        """Counts a claim that was not completed; called before the engine can hand the activity out again."""
        ...

    def begun_at(self, name: str) -> float:
        """Returns the start of the newest running attempt of this name on the host (monotonic s), 0 for none."""
        ...

    def busy_until(self, names: Collection[str]) -> float:
        """Returns when the limit of the last running attempt of these names ends (monotonic s), 0 for none."""
        ...


class History(Protocol):
    """The activities that may have ended a process."""

    @property
    def any_suspects(self) -> bool:
        """True when there are any."""
        ...

    @property
    def are_about(self) -> bool:
        """True when the next batch may hold one."""
        ...

    def is_suspect(self, activity_id: str) -> bool:
        """True when this activity may have ended a process."""
        ...


class Profile(Protocol):
    """The measurements of activities by name."""

    @property
    def busy_mean_s(self) -> float:
        """The recent mean of seconds that an activity occupied this process."""
        ...


class Catalog(Protocol):
    """The hosted activities."""

    @property
    def has_isolates(self) -> bool:
        """True when handlers can run in isolates."""
        ...

    def limit_s(self, activity: Activity) -> float:
        """Returns the seconds that the activity's handler may take."""
        ...

    def runs_on_loop(self, name: str) -> bool:
        """True when the activity's handler runs on the event loop."""
        ...

    def rivals(self, name: str) -> Collection[str]:
        """Returns all moved activities, when this is one of them: they share CPUs. Else none."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules that hold for every attempt of a worker. Times are seconds.

    Attributes:
        cancel_grace_s: from a stop until the outcome is decided without the handler.
        warn_after_s: from the claim of an attempt until it is logged that it has not begun.
        default_lease_s: the lease of activities that name no `timeout_seconds`.
        suspects_at_once: the most suspects in isolates at the same time.

    """

    cancel_grace_s: float = 5.0
    warn_after_s: float = 30.0
    default_lease_s: float = 300.0
    suspects_at_once: int = 8


class Start(NamedTuple):
    """Start the handler; call `AttemptTable.begin` at its first step."""

    attempt: Attempt


class Stop(NamedTuple):
    """Stop the handler; `is_last` when it was stopped before and its grace is over."""

    attempt: Attempt
    is_last: bool = False


class Withdraw(NamedTuple):
    """Do not begin the handler that was to be started: its claim has ended."""

    attempt: Attempt


class Deliver(NamedTuple):
    """Deliver the attempt's outcome; `delivered` is the fact of its end."""

    attempt: Attempt


class Reject(NamedTuple):
    """Report the failure of an activity without a record; `rejected` is the fact of its end."""

    who: AttemptIds
    worker_id: str
    failure: Failed
    settings: Mapping[str, Any]


class WarnNotBegun(NamedTuple):
    """Log that an attempt was claimed `waited_s` seconds ago and has not begun, and the reason."""

    attempt: Attempt
    waited_s: float
    reason: str


class WakePoller(NamedTuple):
    """Wake the poller, since there may be room for more activities."""


Command = Start | Stop | Withdraw | Deliver | Reject | WarnNotBegun | WakePoller
