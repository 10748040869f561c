"""The host's health, as reported to the service manager."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from flowherd_supervisor.core.state import Mode, Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowherd_supervisor.core.state import State

RECENT_S = 15.0  # polls may fail for this long
RARE_S = 300.0  # pause between answered polls: --poll-interval-max can be long


@dataclass(frozen=True, slots=True)
class Polling:
    """The state of a worker's polling.

    Attributes:
        good_at: time of the last answered poll, in monotonic seconds.
        bad_at: time of the last failed poll.
        is_full: True if all its slots are taken.
        is_reporting: True if results wait for the engine.

    """

    good_at: float
    bad_at: float
    is_full: bool
    is_reporting: bool


def is_well(state: State, workers: Iterable[Polling], now: float, woke_at: float = -inf) -> bool:
    """True if a process is ready and its polls are answered, or there is a reason for not polling.

    Time counts from `woke_at`, since a frozen host cannot poll (faults.md N4).

    There are four reasons: a stop, which ends by itself; polling was paused; all slots are taken; results wait for the
    engine, which a restart would lose without helping the engine.
    """
    if state.mode is not Mode.SERVING:
        return True
    if not any(process.phase is Phase.RUNNING for process in state.workers):
        return False
    return not state.polling or any(
        _gets_work(worker, now, woke_at) or worker.is_full or worker.is_reporting for worker in workers
    )


def _gets_work(worker: Polling, now: float, woke_at: float) -> bool:
    allowed_s = RECENT_S if worker.bad_at > worker.good_at else RARE_S
    return now - max(worker.good_at, woke_at) < allowed_s
