"""What an isolate does after its fork: app, lifespan, one activity after the other, exit code; it never forks.

Its main thread runs the handlers; a thread of its own listens to the worker, so that no handler can keep this
process from seeing that the worker is gone, and that it shall stop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd import fork_guard
from flowherd.errors import AppImportError, LifespanFailed
from flowherd.execution import lifespan
from flowherd.execution.environment import RunEnvironment
from flowherd.execution.invoke import failure_of, invoke_async, invoke_sync
from flowherd.execution.loading import choose_worker_type, load_app
from flowherd.execution.profiles import WholeProcess
from flowherd.exits import Exit
from flowherd.isolates.inside.desk import Desk, Job
from flowherd.isolates.inside.remote import RemoteFiles, RemoteState, RemoteStockFiles, RemoteStreams
from flowherd.isolates.inside.surroundings import Surroundings
from flowherd.isolates.inside.trace import RemoteTrace
from flowherd.isolates.inside.voice import Interruption, UpwardHandler, Voice
from flowherd.isolates.isolate_protocol import (
    Begin,
    Measured,
    NotOpened,
    Opened,
    Spoiled,
    Succeeded,
    Unsuccessful,
)
from flowherd.loops import new_loop
from flowherd.model import Activity, Completed, Failed, Result
from flowherd.sdk.context import ActivityContext
from flowherd.telemetry.start import begin_tracing, end_tracing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd.execution.environment import Tracing
    from flowherd.execution.loading import LoadedApp
    from flowherd.sdk.activity import ActivityDefinition
    from flowherd.sdk.registry import Registry
    from flowherd.settings.worker_config import WorkerConfig

SECRET_VARIABLES = ("KRUXIAFLOW_CLIENT_SECRET", "KRUXIAFLOW_CLIENT_SECRET_FILE")  # faults.md S9
LEAVE_S = 4.0  # for the app's lifespan; the worker has the process killed soon after


@dataclass(frozen=True, slots=True)
class IsolateSetup:
    """What an isolate is born with.

    Attributes:
        loaded: the app, where the process it was forked from has imported it; None: it imports it itself.

    """

    app: str
    app_dir: str
    worker_type: str | None
    config: WorkerConfig
    activities: Mapping[str, Mapping[str, Any]]
    index: int
    processes: int
    loaded: LoadedApp | None = None


def main(setup: IsolateSetup, channel_fd: int, stdout_fd: int, stderr_fd: int) -> int:
    """Runs activities until there are no more, and returns the exit code.

    Args:
        setup: the app and its surroundings.
        channel_fd: a stream to the worker; its end ends this process at once.
        stdout_fd: takes the place of stdout.
        stderr_fd: takes the place of stderr.

    """
    _take_places(stdout_fd, stderr_fd)
    os.environ["FLOWHERD_PROCESS_INDEX"], os.environ["FLOWHERD_PROCESSES"] = (
        str(setup.index),
        str(setup.processes),
    )
    for name in SECRET_VARIABLES:
        os.environ.pop(name, None)
    os.set_inheritable(channel_fd, False)  # noqa: FBT003 - the function's own signature
    interruption = Interruption()
    voice = Voice(socket.socket(fileno=channel_fd), interruption)
    logging.getLogger().handlers[:] = [UpwardHandler(voice)]
    loop = new_loop(setup.config.loop)()
    desk = Desk(voice, interruption, loop)
    desk.start()
    try:
        app = setup.loaded or load_app(setup.app, setup.app_dir)
        worker_type = choose_worker_type(app, setup.worker_type)
        registry = app.for_type(worker_type).configured(setup.activities)
        interruption.install()  # after the import: the app may have installed handlers of its own
        asyncio.set_event_loop(loop)
        fork_guard.guard(loop, voice)
        tracing = begin_tracing(setup.config, setup.index, is_loud=False)
        span = loop.run_until_complete(lifespan.enter(registry))
    except (AppImportError, LifespanFailed) as error:
        return _refuse(voice, str(error), error.report)
    except BaseException as error:  # noqa: BLE001 - whatever user code raises at import
        return _refuse(voice, f"{type(error).__name__}: {error}", traceback.format_exc())
    voice.say(Opened())
    _Bench(registry, desk, setup.index, span.state, tracing, setup.config.secret_names).work()
    loop.run_until_complete(span.leave(LEAVE_S))
    end_tracing(tracing)
    return Exit.CLEAN


def _take_places(stdout_fd: int, stderr_fd: int) -> None:
    for fd, place in ((stdout_fd, 1), (stderr_fd, 2)):
        os.dup2(fd, place)
        os.close(fd)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)  # a kill must not cost the last lines


def _refuse(voice: Voice, message: str, report: str) -> int:
    words = [text[-8_000:].encode(errors="replace").decode() for text in (message, report)]
    voice.say(NotOpened(*words))
    return Exit.BOOT_FAILED


class _Bench:
    """Runs one activity after the other, in the main thread."""

    def __init__(
        self,
        registry: Registry,
        desk: Desk,
        index: int,
        state: Any,
        tracing: Tracing | None,
        secret_names: tuple[str, ...],
    ) -> None:
        self._registry = registry
        self._desk = desk
        self._stock_files = RemoteStockFiles()
        self._surroundings = Surroundings(desk.loop)
        self._environment = RunEnvironment(
            process_index=index,
            state=state,
            shutdown=desk.shutdown,
            stock_files=self._stock_files,
            files=RemoteFiles(desk.calls),
            streams=RemoteStreams(desk.voice),
            tracing=tracing,
            secret_names=secret_names,
        )

    def work(self) -> None:
        """Returns when there are no more activities."""
        desk = self._desk
        while (job := desk.loop.run_until_complete(desk.next_job())) is not None:
            own = WholeProcess()
            outcome = self._take(job)
            desk.voice.say(Measured(*own.taken()))
            desk.close()
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):  # closed, or whatever stands in its place
                    stream.flush()
            if reason := self._surroundings.restore():
                desk.voice.say(Spoiled(reason))
            if isinstance(outcome, Completed):
                desk.voice.say(Succeeded(), outcome.output)
            else:
                desk.voice.say(Unsuccessful(outcome.code, outcome.message, outcome.retryable))
            if self._environment.tracing is not None:
                self._environment.tracing.flush()  # a kill must not cost the spans of what has ended

    def _take(self, job: Job) -> Completed | Failed:
        """Never raises, whatever the handler does."""
        activity, definition = _activity(job.begin), self._registry.lookup(job.begin.name)
        if definition is None:
            known = ", ".join(self._registry.names())
            return Failed("UNKNOWN_ACTIVITY", f"the isolate's app knows: {known}", retryable=True)
        try:
            activity = msgspec.structs.replace(activity, parameters=msgspec.json.decode(job.parameters))
        except (msgspec.DecodeError, RecursionError) as error:
            reason = f"its JSON cannot be read ({type(error).__name__})"
            return Failed("INVALID_ACTIVITY", reason, retryable=False)
        state = RemoteState(activity, self._environment, self._desk.voice)
        state.limit_s = job.begin.limit_s
        self._stock_files.serve(ActivityContext(state))
        self._desk.open(state)
        if job.begin.trace:
            state.trace = RemoteTrace(self._desk.voice, job.begin.trace)
        try:
            with self._continuing(job.begin.trace):
                outcome = self._run(definition, state)
        except BaseException as exc:  # noqa: BLE001 - an interruption, or a handler that stops our loop
            outcome = failure_of(exc, state)
        self._surroundings.stop_timers()
        return outcome

    def _continuing(self, carrier: Mapping[str, str]) -> AbstractContextManager[None]:
        tracing = self._environment.tracing
        return nullcontext() if tracing is None else tracing.continuing(carrier)

    def _run(self, definition: ActivityDefinition, state: RemoteState) -> Result:
        interruption, loop = self._desk.interruption, self._desk.loop
        interruption.install()  # again: a handler may have installed one of its own
        if definition.is_async:
            task = loop.create_task(invoke_async(definition, state))
            with interruption.around(state, task):
                return loop.run_until_complete(task)
        with interruption.around(state):
            return invoke_sync(definition, state)


def _activity(begin: Begin) -> Activity:
    return Activity(
        activity_id=begin.activity_id,
        workflow_id=begin.workflow_id,
        key=begin.key,
        name=begin.name,
        worker_type=begin.worker_type,
        worker_id=begin.worker_id,
        parameters=None,
        timeout_s=begin.timeout_s,
        settings=begin.settings,
        output_definitions=begin.output_definitions,
        signal_data=begin.signal_data,
    )
