"""An isolate after its fork: app, lifespan, one activity after the other, exit code; it never forks.

Its main thread runs the handlers; from the first one on, a thread of its own listens to the worker, so that no handler
can keep this process from seeing that the worker is gone, and that it shall stop.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import nullcontext, suppress
from contextvars import copy_context
from dataclasses import dataclass, replace
from io import BufferedWriter, FileIO, TextIOWrapper
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd import end_forked_copies, logs
from flowherd.activities_and_outcomes import Completed, Failed, Result
from flowherd.errors import LifespanFailed
from flowherd.event_loop import new_loop
from flowherd.execution import lifespan
from flowherd.execution.activity_costs import Taken, WholeProcess
from flowherd.execution.invoke import failure_of, invoke_async, invoke_sync
from flowherd.execution.run_environment import RunEnvironment, ShutdownSignal
from flowherd.exit_codes import Exit
from flowherd.isolates.channel import Channel
from flowherd.isolates.inside.isolate_engine import IsolateEngine
from flowherd.isolates.inside.leftovers import Leftovers
from flowherd.isolates.inside.wait_notes import OwnKills, noted
from flowherd.isolates.inside.worker_connection import WorkerConnection, die_with
from flowherd.isolates.isolate_protocol import MAX_USAGE_BYTES, Begin, Ended, LeftBehind
from flowherd.isolates.printed_output import mark_bytes
from flowherd.link.bounded_messages import boot_failed, sendable
from flowherd.link.messages import BootFailed, Ready
from flowherd.sdk.redaction import masking, secrets_of_process
from flowherd.sdk.run_state import RunState
from flowherd.sdk.usage_bytes import bounded
from flowherd.telemetry.begin_and_end_tracing import begin_tracing, end_tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowherd.execution.load_app import LoadedApp
    from flowherd.execution.run_environment import Tracing
    from flowherd.isolates.channel import Received
    from flowherd.isolates.inside.isolate_engine import UsageKeeper
    from flowherd.ledger import Ledger
    from flowherd.sdk.activity_definition import ActivityDefinition
    from flowherd.sdk.registry import Registry
    from flowherd.settings.worker_config import WorkerConfig

SECRET_VARIABLES = ("KRUXIAFLOW_CLIENT_SECRET", "KRUXIAFLOW_CLIENT_SECRET_FILE")  # faults.md S9
LEAVE_S = 4.0  # for the app's lifespan; the worker has the process killed soon after
_MOST_CHARS = 2000  # of a text: a message has a limit


@dataclass(frozen=True, slots=True)
class IsolateSetup:
    """Everything an isolate inherits.

    Attributes:
        load: imports the app, where the process it was forked from has not; what is served of it, or why it cannot be.

    """

    load: Callable[[], LoadedApp | BootFailed]
    config: WorkerConfig
    index: int
    processes: int
    ledger: Ledger


def main(setup: IsolateSetup, channel_fd: int, stdout_fd: int, stderr_fd: int, lifeline_fd: int) -> int:
    """Runs activities until there are no more, and returns the exit code.

    Args:
        setup: the app and its surroundings.
        channel_fd: a socket to the worker, as `flowherd.isolates.channel` makes it.
        stdout_fd: takes the place of stdout.
        stderr_fd: the same for stderr.
        lifeline_fd: a pipe whose end is the end of this process and its programs.

    """
    die_with(lifeline_fd)
    _settle_in(setup, stdout_fd, stderr_fd)
    for fd in (channel_fd, lifeline_fd):
        os.set_inheritable(fd, False)  # noqa: FBT003 - the function's own signature
    channel = Channel.inherited(channel_fd)
    loaded = setup.load()
    if isinstance(loaded, BootFailed):
        return _refuse(channel, loaded)
    loop = new_loop(setup.config.loop)()
    asyncio.set_event_loop(loop)
    connection = WorkerConnection(channel, loop)
    connection.take_sigterm()  # after the import: the app may have installed handlers of its own
    end_forked_copies.guard(loop, channel)
    tracing = begin_tracing(setup.config, setup.index, is_loud=False)
    try:
        span = loop.run_until_complete(lifespan.enter(loaded.registry))
    except LifespanFailed as error:
        return _refuse(channel, boot_failed(Exit.BOOT_FAILED, str(error), error.report))
    with suppress(OSError):  # the worker has gone, as the connection will hear
        channel.send(Ready())  # the first activity comes while the rest is done
    connection.start()
    engine = IsolateEngine(setup.config, setup.ledger, channel)
    environment = _environment(setup, engine, connection.shutdown, span.state, tracing)
    leftovers = Leftovers(loop)
    own_kills = OwnKills()
    own_kills.watch()
    ActivityLoop(loaded.registry, channel, connection, loop, engine, environment, leftovers, own_kills).run()
    engine.close()
    if loop.is_closed():
        return Exit.INTERNAL  # the lifespan cannot be left
    loop.run_until_complete(span.leave(LEAVE_S))
    end_tracing(tracing)
    return Exit.CLEAN


def _environment(
    setup: IsolateSetup, engine: IsolateEngine, shutdown: ShutdownSignal, state: Any, tracing: Tracing | None
) -> RunEnvironment:
    return RunEnvironment(
        process_index=setup.index,
        state=state,
        shutdown=shutdown,
        secrets=_secrets(setup.config),
        secret_names=setup.config.secret_names,
        stock_files=engine.stock_files,
        files=engine.files,
        streams=engine,
        tracing=tracing,
    )


def _secrets(config: WorkerConfig) -> tuple[str, ...]:
    return (config.client_secret.get_secret_value(),) if config.client_secret else ()


def _name(index: int, ids: Mapping[str, str] = MappingProxyType({})) -> None:
    """Each line of the log is about a worker, and about an activity while one is here."""
    logs.name_process(process=index, isolate=os.getpid(), **ids)


def _settle_in(setup: IsolateSetup, stdout_fd: int, stderr_fd: int) -> None:
    """Its log goes where its worker's does; what is printed, to its worker."""
    _name(setup.index)
    secrets = (*_secrets(setup.config), *secrets_of_process(setup.config.secret_names))
    logs.move_to(os.dup(2), masking(secrets))
    os.environ["FLOWHERD_PROCESS_INDEX"] = str(setup.index)
    os.environ["FLOWHERD_PROCESSES"] = str(setup.processes)
    for name in SECRET_VARIABLES:
        os.environ.pop(name, None)
    for fd, place, name in ((stdout_fd, 1, "stdout"), (stderr_fd, 2, "stderr")):
        os.dup2(fd, place)
        os.close(fd)
        if isinstance(stream := getattr(sys, name), TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # a kill must not cost the last lines
            pipe = BufferedWriter(FileIO(place, "w", closefd=False))  # a stream looks for its place
            text = TextIOWrapper(pipe, stream.encoding, stream.errors, line_buffering=True)
            setattr(sys, name, text)


def _refuse(channel: Channel, reason: BootFailed) -> int:
    channel.send(reason)
    return reason.code


@dataclass(frozen=True, slots=True)
class ActivityLoop:
    """Runs one activity after the other, in the main thread.

    Attributes:
        registry: the handlers.
        channel: tells the worker what has become of them.
        connection: where they come from, and the end of the one at work.
        loop: runs them; does not run here.
        engine: what handlers have of it.
        environment: what they see of the process.
        leftovers: of each.
        own_kills: sees that one kills its own process.

    """

    registry: Registry
    channel: Channel
    connection: WorkerConnection
    loop: asyncio.AbstractEventLoop
    engine: IsolateEngine
    environment: RunEnvironment
    leftovers: Leftovers
    own_kills: OwnKills

    def run(self) -> None:
        """Returns when there are no more activities, or a handler has closed the loop that they need."""
        while not self.loop.is_closed() and self._run_next():
            pass

    def _run_next(self) -> bool:
        """Runs the next activity, and keeps none of its parameters and output; False when there is none."""
        job = self.loop.run_until_complete(self.connection.next_job())
        if job is None:
            return False
        begin, parameters = job
        own = WholeProcess()
        outcome = self._outcome_of(begin, parameters)
        ended, output = _ended(outcome, own.taken())
        self.channel.send(ended, output)
        self._end_output(begin.mark)
        _name(self.environment.process_index)
        if self.environment.tracing is not None:
            self.environment.tracing.flush()  # a kill must not cost the spans of what has ended
        return True

    def _end_output(self, mark: str) -> None:
        """Marks the end of what was printed, where another activity may run here; the worker gives it a second."""
        if reason := self.leftovers.put_back(mark_bytes(mark)):
            with suppress(OSError):  # the worker has gone: before that, it may have ended its messages
                self.channel.send(LeftBehind(sendable(reason[:_MOST_CHARS])))

    def _outcome_of(self, begin: Begin, parameters: Received) -> Completed | Failed:
        """Never raises, whatever the handler does."""
        activity, definition = begin.activity, self.registry.lookup(begin.activity.name)
        if definition is None:
            known = ", ".join(self.registry.names())
            return Failed("UNKNOWN_ACTIVITY", f"the isolate's app knows: {known}", retryable=True)
        try:
            activity = msgspec.structs.replace(activity, parameters=msgspec.json.decode(parameters))
        except (msgspec.DecodeError, RecursionError) as error:
            reason = f"its JSON cannot be read ({type(error).__name__})"
            return Failed("INVALID_ACTIVITY", reason, retryable=False)
        keeper, tracing = self.engine.begin(begin), self.environment.tracing
        self.own_kills.keeper = keeper
        state = RunState(activity, self.environment, keeper)
        state.limit_s, state.who.seen = begin.limit_s, begin.seen
        state.trace = begin.trace or None
        _name(self.environment.process_index, state.ids)
        try:
            with nullcontext() if tracing is None else tracing.continuing(begin.trace):
                outcome = self._invoke(definition, state, keeper)
        except BaseException as exc:  # noqa: BLE001 - an interruption, or a handler that stops our loop
            outcome = failure_of(exc, state)
        self.leftovers.disarm()
        state.note_end()
        keeper.end()
        if state.files is not None:
            state.files.close()
        return outcome

    def _invoke(self, definition: ActivityDefinition, state: RunState, keeper: UsageKeeper) -> Result:
        self.connection.take_sigterm()  # again: a handler may have installed one of its own
        if definition.is_async:
            task = self.loop.create_task(noted(invoke_async(definition, state), keeper))
            with self.connection.around(state, task):
                return self.loop.run_until_complete(task)
        with self.connection.around(state):
            return copy_context().run(invoke_sync, definition, state)  # nobody sees another one's variables


def _ended(outcome: Completed | Failed, taken: Taken) -> tuple[Ended, bytes]:
    """The message that says how it ended, and the output."""
    cost_usd, usage = bounded(outcome.cost_usd, outcome.usage, MAX_USAGE_BYTES)
    if isinstance(outcome, Completed):
        return Ended(None, cost_usd, usage, *taken), outcome.output
    return Ended(replace(outcome, cost_usd=None, usage=()), cost_usd, usage, *taken), b""
