"""Starts attempts where their handlers belong; it must not raise, report or know the engine."""

from __future__ import annotations

import asyncio
import logging
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from flowherd.execution.on_loop import OnLoop
from flowherd.model import Activity, Failed, Outcome
from flowherd.running.gates import Gates
from flowherd.running.invoke import ThreadLoop, deliver, invoke_async, invoke_sync
from flowherd.running.run import Phase, Run
from flowherd.sdk.activity import ActivityDefinition, Mode
from flowherd.sdk.context import CancelReason, RunState
from flowherd.sdk.tracebacks import clean_message

if TYPE_CHECKING:
    from flowherd.isolates.pool import Isolates
    from flowherd.running.environment import RunEnvironment
    from flowherd.running.offload import ThreadPool
    from flowherd.sdk.costs import SpendingKeeper
    from flowherd.sdk.registry import Registry
    from flowherd.settings.worker_config import WorkerConfig

__all__ = ["CancelReason", "Phase", "Run", "Runner"]

_LOOP = Mode.LOOP  # compared for each activity
_SUSPECTS = "\0suspects"  # the name of their circuit; no activity has a NUL in its own

_log = logging.getLogger(__name__)


class Runner:
    """Runs claimed activities of one worker.

    Args:
        registry: the activities of this worker's type; RegistryError comes here for what cannot be bound.
        config: time limits and the grace of cancelled handlers.
        threads: where handlers that block run.
        environment: what handlers see of this process.
        isolates: where handlers with offload="process" run; None where nobody makes them.

    """

    def __init__(
        self,
        registry: Registry,
        config: WorkerConfig,
        threads: ThreadPool,
        environment: RunEnvironment,
        isolates: Isolates | None = None,
    ) -> None:
        registry.check()
        if isolates is None:
            registry.check_alone()
        self._registry = registry
        self._config = config
        self._threads = threads
        self._isolates = isolates
        self._environment = environment
        self._context = copy_context()  # of no handler: none begins with what another one has set
        self._on_loop = OnLoop(environment.meter)
        self._in_isolates: set[Run] = set()
        self._gates = Gates(environment.permits)
        self.dropped = 0  # successes that came after their outcome was decided (faults.md A9)

    def start(self, activity: Activity, keeper: SpendingKeeper | None = None, *, apart: bool = False) -> Run:
        """Starts an attempt on the running loop, or lets it wait for another one (`max_concurrent`).

        Args:
            activity: what was claimed.
            keeper: of what the attempt spends.
            apart: in an isolate, wherever it belongs, and in turn with the host's other suspects; only with
                `has_isolates`.

        """
        definition = self._registry.lookup(activity.name)
        if apart and definition is not None:
            definition = replace(definition, mode=Mode.PROCESS)
        state = RunState(activity, self._environment, keeper)
        timeout_s, own_s = activity.timeout_s, None if definition is None else definition.timeout_s
        if own_s is None:
            limit_s = self._config.limit_s(timeout_s)
        else:
            limit_s = own_s if timeout_s is None else min(own_s, timeout_s)
        run = Run(state, limit_s, self._config.cancel_grace_s, self._ended)
        if definition is None:
            run.finish(self._unknown(activity))
        elif apart or definition.max_concurrent is not None:
            self._begin_in_turn(run, definition, state, apart=apart)
        else:
            self._begin(run, definition, state)
        return run

    def _begin_in_turn(
        self, run: Run, definition: ActivityDefinition, state: RunState, *, apart: bool
    ) -> None:
        """Begins an attempt once there are permits for it.

        A crash makes a suspect of everything that ran in the process: all at once would be as many isolates.
        """
        gates, begin = self._gates, partial(self._begin, run, definition, state)
        if apart:
            begin = partial(gates.enter, run, _SUSPECTS, self._config.suspects_at_once, begin)
        if definition.max_concurrent is None:
            begin()
        else:
            gates.enter(run, definition.name, definition.max_concurrent, begin)

    @property
    def has_isolates(self) -> bool:
        """Whether a handler can be run apart from the others, so that it takes nobody with it."""
        return self._isolates is not None

    def runs_apart(self, run: Run) -> bool:
        """Whether the handler is in an isolate, or waits for one."""
        return run in self._in_isolates

    def permits_changed(self) -> None:
        """A sibling may have given back what an attempt waits for here."""
        self._gates.proceed()

    def runs_on_loop(self, name: str) -> bool:
        """Whether the handler of that name shares the event loop with others."""
        definition = self._registry.lookup(name)
        return definition is not None and definition.mode is Mode.LOOP

    def _begin(self, run: Run, definition: ActivityDefinition, state: RunState) -> None:
        begin = self._place if self._environment.tracing is None else self._begin_traced
        self._context.copy().run(begin, run, definition, state)

    def _begin_traced(self, run: Run, definition: ActivityDefinition, state: RunState) -> None:
        assert self._environment.tracing is not None
        with self._environment.tracing.around(state, definition.mode.value):
            self._place(run, definition, state)

    def _place(self, run: Run, definition: ActivityDefinition, state: RunState) -> None:
        if definition.mode is _LOOP:
            self._on_loop.start(run, partial(invoke_async, definition, state))
            return
        if definition.mode is Mode.PROCESS:
            assert self._isolates is not None, definition
            self._in_isolates.add(run)
            self._environment.meter.enter_isolate()
            self._isolates.begin(run, state, definition)
            return
        self._begin_in_thread(run, definition, state)

    def _begin_in_thread(self, run: Run, definition: ActivityDefinition, state: RunState) -> None:
        loop, meter = asyncio.get_running_loop(), self._environment.meter
        stay = meter.enter_thread(definition.name)
        if definition.is_async:
            own_loop = ThreadLoop()
            run.begin(own_loop.stop)
            run.limit()
            call = lambda: own_loop.run(definition, state)  # noqa: E731
        else:
            run.begin(lambda: _let_it_notice(state))
            run.limit()
            call = lambda: invoke_sync(definition, state)  # noqa: E731

        def end(outcome: Outcome) -> None:
            meter.leave_thread(definition.name, stay)
            run.finish(outcome)

        try:
            self._threads.submit(lambda: deliver(loop, end, stay.run(call)))
        except RuntimeError as exc:
            end(Failed("WORKER_OVERLOADED", clean_message(str(exc)), retryable=True))

    def _ended(self, run: Run) -> None:
        if run in self._in_isolates:
            self._in_isolates.discard(run)
            self._environment.meter.leave_isolate()
        if run.dropped:
            self.dropped += 1
            _log.warning(
                "late_success_dropped",
                extra={"activity_id": run.activity.activity_id, "activity_name": run.activity.name},
            )
        if self._gates.are_used:
            self._gates.leave(run)

    def _unknown(self, activity: Activity) -> Outcome:
        known = ", ".join(self._registry.names()) or "none"
        named = f"is named {activity.name!r}" if activity.name else "has no name"
        message = f"the activity {named}; this worker knows: {known}"
        return Failed("UNKNOWN_ACTIVITY", clean_message(message), retryable=True)


def _let_it_notice(state: RunState) -> None:
    """A plain function cannot be interrupted, except where it waits for a file: it sees `ctx.cancelled`."""
    if state.files is not None:
        state.files.cancel()
