"""The host's health, for its service manager; pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

from flowherd_supervisor.core.state import Mode, Phase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flowherd_supervisor.core.state import State

RECENT_S = 15.0  # polls may fail for so long before that means anything
RARE_S = 300.0  # how far apart polls may be that all were answered: --poll-interval-max can be long


@dataclass(frozen=True, slots=True)
class Polling:
    """A worker's way of getting its work.

    Attributes:
        good_at: when a poll was last answered, in monotonic seconds.
        bad_at: when one last failed.
        is_full: all its slots are taken.
        is_reporting: results wait for the engine.

    """

    good_at: float
    bad_at: float
    is_full: bool
    is_reporting: bool


def is_well(state: State, workers: Iterable[Polling], now: float, woke_at: float = -inf) -> bool:
    """A process is ready and its polls are answered, or there is a reason for none.

    A host that was frozen until `woke_at` has polled as little as it has done anything else (faults.md N4).

    There are four reasons: a stop that ends by itself, polling that was paused, slots that are all taken, and
    results that wait for the engine: a restart would lose those, and cures no engine.
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
