"""Starts the handlers of the hosted activities, each on the loop, in a thread or in an isolate."""

from __future__ import annotations

import difflib
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from flowherd.activities_and_outcomes import Activity, Failed
from flowherd.attempt_ids import working_for
from flowherd.execution.in_thread import InThread
from flowherd.execution.on_loop import OnLoop
from flowherd.execution.permit_queues import PermitQueues
from flowherd.ledger.permits import Demand
from flowherd.sdk.activity_definition import ActivityDefinition, Mode
from flowherd.sdk.error_texts import clean_message

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from flowherd.execution.executor import Executor, Outlet
    from flowherd.execution.in_thread import ThreadPool
    from flowherd.execution.moved import MovedActivities
    from flowherd.execution.run_environment import RunEnvironment
    from flowherd.isolates.isolate_pool import Isolates
    from flowherd.sdk.registry import Registry
    from flowherd.settings.worker_config import WorkerConfig
    from flowherd.worker.attempt import Attempt

_MOST_NAMED = 20  # activities in an error
_LOOP = Mode.LOOP  # a module constant: compared for each activity
_SUSPECTS = "\0suspects"  # the pool of their permits; the name of an activity has no NUL


class Executors:
    """Starts and stops the handlers of one worker.

    Args:
        registry: the activities of this worker's type; RegistryError when one cannot be bound.
        config: the time limits.
        threads: the pool for blocking handlers.
        environment: the environment of the handlers.
        isolates: the pool for handlers with offload="process"; None without isolates.
        moved: the activities that were moved to isolates; None where nothing moves. Also an attribute.

    """

    def __init__(
        self,
        registry: Registry,
        config: WorkerConfig,
        threads: ThreadPool,
        environment: RunEnvironment,
        isolates: Isolates | None = None,
        moved: MovedActivities | None = None,
    ) -> None:
        registry.check()
        if isolates is None:
            registry.check_alone()
        self._registry = registry
        self._config = config
        self._threads = threads
        self._isolates = isolates
        self._environment = environment
        self._context = copy_context()  # a context that no handler has changed, copied for each
        self._permit_queues = PermitQueues(environment.permits)
        self.moved = moved
        self._moved_now: Mapping[str, ActivityDefinition] = {} if moved is None else moved.definitions

    def tell(self, outlet: Outlet) -> None:
        """Sets the outlet for the events of all handlers; called once, before any starts."""
        meter = self._environment.meter
        self._outlet = outlet
        self._on_loop: Executor = OnLoop(meter, outlet, self._moved_now, self._start_elsewhere)
        self._in_thread: Executor = InThread(self._threads, meter, outlet)
        if self._isolates is not None:
            self._isolates.tell(outlet, self.without_isolate)

    # Queries of the table

    @property
    def has_isolates(self) -> bool:
        """True when handlers can run in isolates, where a crash ends no other handler."""
        return self._isolates is not None

    def limit_s(self, activity: Activity) -> float:
        """Returns the smaller of the engine's `timeout_seconds` and the handler's own limit, else the worker's."""
        timeout_s, definition = activity.timeout_s, self._registry.lookup(activity.name)
        if definition is None or definition.timeout_s is None:
            return self._config.limit_s(timeout_s)
        return definition.timeout_s if timeout_s is None else min(definition.timeout_s, timeout_s)

    def runs_on_loop(self, name: str) -> bool:
        """True when the activity's handler runs on the event loop."""
        definition = self._registry.lookup(name)
        return definition is not None and definition.mode is _LOOP and name not in self._moved_now

    def rivals(self, name: str) -> Collection[str]:
        """Returns all moved activities, when this is one of them: they share CPUs. Else none."""
        return self._moved_now.keys() if name in self._moved_now else ()

    # Commands of the table

    def start(self, attempt: Attempt) -> None:
        """Starts the handler in its place, once it has its permits.

        A suspect runs in an isolate, whatever its definition says, and waits for a permit among the host's suspects: a
        crash makes a suspect of every activity in the process, which must not become as many isolates at once.
        """
        definition = self._registry.lookup(attempt.activity.name)
        if definition is None:
            self._outlet.finished(attempt, self._unknown(attempt.activity))
            return
        attempt.environment = self._environment
        if attempt.is_apart:
            definition = replace(definition, mode=Mode.PROCESS)
        elif self.moved is not None and self.moved.has_moved:
            definition = self.moved.placed(attempt, definition)
        if attempt.is_apart or definition.max_concurrent is not None or definition.name in self._moved_now:
            self._start_in_turn(attempt, definition)
        else:
            self._begin(attempt, definition)

    def _start_in_turn(self, attempt: Attempt, definition: ActivityDefinition) -> None:
        begin: Callable[[], None] = partial(self._begin, attempt, definition)
        for demand in self._demands(attempt, definition):
            begin = partial(self._in_turn, attempt, demand, begin)
        begin()

    def _demands(self, attempt: Attempt, definition: ActivityDefinition) -> Iterator[Demand]:
        """Yields the permits that an attempt needs, the first ones last."""
        if attempt.is_apart:
            yield Demand(_SUSPECTS, range(self._config.suspects_at_once))
        elif self.moved is not None and definition.name in self._moved_now:
            yield self.moved.demand(definition.name)
        if definition.max_concurrent is not None:
            yield Demand(definition.name, range(definition.max_concurrent))

    def _in_turn(self, attempt: Attempt, demand: Demand, begin: Callable[[], None]) -> None:
        if not self._permit_queues.enter(attempt, attempt.activity.name, demand, begin):
            self._outlet.waits(attempt)

    def without_isolate(self, attempt: Attempt, reason: str) -> bool:
        """Starts an attempt on the loop for want of an isolate; returns False when its activity was not moved."""
        if attempt.is_apart or self.moved is None or not self.moved.cannot_run(attempt.activity.name, reason):
            return False
        self._permit_queues.leave(attempt)
        attempt.is_isolated = False
        self.start(attempt)
        return True

    def _start_elsewhere(self, attempt: Attempt) -> None:
        """Starts an attempt of a moved activity anew: in a queue it must not hold what those before it wait for."""
        self._permit_queues.leave(attempt)
        self.start(attempt)

    def stop(self, attempt: Attempt) -> None:
        """Stops a handler that has begun."""
        attempt.executor.stop(attempt)

    def ended(self, attempt: Attempt) -> None:
        """Releases the permits of an attempt whose handler has ended, or will never begin."""
        if self._permit_queues.are_used:
            self._permit_queues.leave(attempt)

    def permits_changed(self) -> None:
        """Starts attempts that wait for a permit, since one of the host may be free."""
        self._permit_queues.proceed()

    def _begin(self, attempt: Attempt, definition: ActivityDefinition) -> None:
        begin = self._place if self._environment.tracing is None else self._begin_traced
        self._context.copy().run(begin, attempt, definition)

    def _begin_traced(self, attempt: Attempt, definition: ActivityDefinition) -> None:
        assert self._environment.tracing is not None
        with self._environment.tracing.around(attempt, definition.mode.value):
            self._place(attempt, definition)

    def _place(self, attempt: Attempt, definition: ActivityDefinition) -> None:
        working_for.set(attempt.who)
        executor = self._on_loop
        if definition.mode is not _LOOP:
            attempt.is_isolated = definition.mode is Mode.PROCESS
            executor = self._in_thread
            if attempt.is_isolated:
                assert self._isolates is not None, definition
                executor = self._isolates
        attempt.executor = executor
        executor.start(attempt, definition)

    def _unknown(self, activity: Activity) -> Failed:
        known = self._registry.names()
        near = difflib.get_close_matches(activity.name, known, n=3)
        meant = f", did you mean {' or '.join(map(repr, near))}? This" if near else "; this"
        named = f"is named {activity.name!r}" if activity.name else "has no name"
        message = f"the activity {named}{meant} worker knows: {_listed(known)}"
        return Failed("UNKNOWN_ACTIVITY", clean_message(message), retryable=True)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more if names else "none"
