"""The activities that were moved off the loop because they block it, and the CPU that each needs.

The supervisor decides what is moved (`flowherd_supervisor.core.blockers`), and tells every process. On the whole host
as many moved handlers run at once as fit on its CPUs: each takes a share of a CPU as measured, at least a quarter.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd.execution.occupancy import LEAST_SHARE
from flowherd.ledger.activity_cost_table import Metric
from flowherd.ledger.permits import Demand
from flowherd.link.bounded_messages import sendable
from flowherd.link.link import LinkClosed
from flowherd.link.messages import LoopBlocked, MoveFailed
from flowherd.sdk.activity_definition import Mode

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flowherd.execution.activity_costs import ActivityProfiles
    from flowherd.execution.blocked_loop import Occupied
    from flowherd.execution.loop_meter import LoopMeter
    from flowherd.link.link import Link
    from flowherd.sdk.activity_definition import ActivityDefinition
    from flowherd.sdk.registry import Registry
    from flowherd.worker.attempt import Attempt

POOL = "\0moved"  # of their permits; the name of an activity has no NUL
_RARE_AFTER = 10  # runs in this process that did not occupy the loop
PERMITS_PER_CPU = round(1 / LEAST_SHARE)


class MovedActivities:
    """The moved activities as one process knows them; all methods but `occupied` are called on its loop.

    Args:
        registry: the activities of this worker's type.
        cpus: the host's CPUs.
        link: to the supervisor; None where nothing may be moved.
        meter: has the measured shares of a CPU.
        profiles: get a new entry for what moves, as its measurements there are not comparable.
        undecoded: the activities whose parameters the client leaves encoded, because isolates decode them.

    Attributes:
        definitions: how moved activities run now, by name.
        has_moved: True once anything has moved.

    """

    def __init__(
        self,
        registry: Registry,
        *,
        cpus: int,
        link: Link | None,
        meter: LoopMeter,
        profiles: ActivityProfiles,
        undecoded: set[str],
    ) -> None:
        self._registry = registry
        self._cpus = cpus
        self._link = link
        self._shares = meter.cpu_shares
        self._profiles = profiles
        self._undecoded = undecoded
        movable = (found.name for found in registry if found.mode is Mode.LOOP and not found.is_placed)
        self._movable = frozenset(movable if link is not None else ())
        self._kept: frozenset[str] = frozenset()
        self._occupied_at: dict[str, int] = {}  # attempts that had ended by then
        self._is_rare = False
        self.definitions: dict[str, ActivityDefinition] = {}
        self.has_moved = False

    def __repr__(self) -> str:
        return f"<MovedActivities [{', '.join(sorted(self.definitions)) or 'none'}]>"

    def occupied(self, run: Occupied) -> None:
        """Tells the supervisor of a run that occupies the loop; called by the watchdog's thread."""
        name = run.name
        if name not in self._movable:
            return
        if run.is_new:
            self._is_rare = self._was_rare(name)
        is_settled = name in self._kept or name in self.definitions
        if not self._is_rare and (run.is_over or not is_settled):  # a run from before the move ends
            found = self._registry.lookup(name)
            place = run.place or ("" if found is None else found.origin)
            self._tell(LoopBlocked(sendable(name), sendable(place), run.seconds, run.cpu_share, run.is_over))

    def _was_rare(self, name: str) -> bool:
        """True when the activity has run so often since it last occupied the loop that another cause is likelier.

        A collection of garbage and a short freeze hit any activity now and then, the more often the more it runs.
        """
        profile = self._profiles.by_name.get(name)
        ended = 0 if profile is None else int(profile[Metric.ATTEMPTS])
        before, self._occupied_at[name] = self._occupied_at.get(name, 0), ended
        return ended - before > _RARE_AFTER

    def set(self, shares: Mapping[str, float], kept: Collection[str]) -> None:
        """Sets what is moved, with its measured share of a CPU, and what is kept on the loop."""
        self._kept = frozenset(kept)
        moved = self._movable & shares.keys() - self._kept
        for name in self.definitions.keys() - moved:
            self._bring_back(name)
        for name in moved - self.definitions.keys():
            definition = self._registry.lookup(name)
            assert definition is not None, name
            self.definitions[name] = replace(definition, mode=Mode.PROCESS)
            self.has_moved = True
            self._shares.setdefault(name, shares[name])
            self._profiles.move(name)
            self._undecoded.add(name)

    def placed(self, attempt: Attempt, definition: ActivityDefinition) -> ActivityDefinition:
        """Returns how an attempt runs now; what was claimed for an isolate is decoded for any other place."""
        now = self.definitions.get(definition.name, definition)
        parameters: Any = attempt.activity.parameters
        if now.mode is not Mode.PROCESS and isinstance(parameters, msgspec.Raw):
            attempt.activity = msgspec.structs.replace(
                attempt.activity, parameters=msgspec.json.decode(parameters)
            )
        return now

    def cannot_run(self, name: str, reason: str) -> bool:
        """Brings an activity back for which no isolate can be had; returns False when it can never have been moved.

        Others of it may have waited for isolates too: when they get none either, it is back already.
        """
        if name in self.definitions:
            self._kept |= {name}
            self._bring_back(name)
            self._tell(MoveFailed(sendable(name), sendable(reason)))
        return name in self._movable

    def demand(self, name: str) -> Demand:
        """Returns the permits that a run of this activity needs: a quarter, a half or all of those of one CPU.

        What needs a whole CPU begins with the first permit of one, and what needs less takes the last ones first.
        """
        share, everything = self._shares[name], self._cpus * PERMITS_PER_CPU
        needed = next((part for part in (1, 2) if share <= part * LEAST_SHARE * 1.2), PERMITS_PER_CPU)
        if needed == PERMITS_PER_CPU:
            return Demand(POOL, range(0, everything, needed), needed)
        return Demand(POOL, range(everything - needed, -1, -needed), needed)

    def _bring_back(self, name: str) -> None:
        del self.definitions[name]
        self._profiles.move_back(name)
        self._undecoded.discard(name)

    def _tell(self, message: LoopBlocked | MoveFailed) -> None:
        if self._link is not None:
            with suppress(LinkClosed):  # the host ends
                self._link.send(message)
