"""A worker process after its fork: link, app, loop, worker and exit code."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowherd import end_forked_copies, logs
from flowherd.errors import LifespanFailed
from flowherd.event_loop import new_loop, run_to_the_end
from flowherd.execution.lifespan import LEAVE_S, enter
from flowherd.exit_codes import Exit
from flowherd.ledger import Cell
from flowherd.link.bounded_messages import boot_failed, ready, serves
from flowherd.link.link import Link, LinkClosed
from flowherd.link.messages import BootFailed, Message
from flowherd.process.build_worker import BuiltWorker, WorkerPlace
from flowherd.process.load_app_or_report import load
from flowherd.process.printed_lines import log_what_is_printed
from flowherd.process.supervisor_commands import CommandReader, execute, leave
from flowherd.procfs import resident_bytes
from flowherd.telemetry.begin_and_end_tracing import begin_tracing, end_tracing

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flowherd.execution.load_app import LoadedApp
    from flowherd.execution.run_environment import Tracing
    from flowherd.ledger import Ledger, Segment
    from flowherd.ledger.wakeups import Wakeups
    from flowherd.link.messages import Downward, Ready, Serves, Stopped
    from flowherd.sdk.registry import Registry
    from flowherd.settings.worker_config import WorkerConfig

DEAF_SIGNALS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT,
    signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ChildSetup:
    """The settings and resources that a worker process inherits at its fork."""

    app: str
    app_dir: str
    worker_type: str | None
    config: WorkerConfig
    slots: int
    most_slots: int
    activities: Mapping[str, Mapping[str, Any]]
    index: int
    processes: int
    ledger: Ledger
    segment: Segment
    wakeups: Wakeups
    loaded: LoadedApp | None = None  # the app, if the parent process has imported it


def ignore_signals(*, but: Collection[signal.Signals] = (), again: bool = False) -> None:
    """Leaves every decision to the link; handlers that do nothing, since programs would inherit SIG_IGN.

    Args:
        but: these do what they do by default.
        again: after an import. Before it, also what the supervisor alone listens to does what it does by default, since
            each program's end would interrupt a call of a library; later that is the app's.

    """
    signal.set_wakeup_fd(-1)
    for number in DEAF_SIGNALS:
        signal.signal(number, signal.SIG_DFL if number in but else lambda *_: None)
    for number in () if again else (signal.SIGCHLD, signal.SIGCONT):
        signal.signal(number, signal.SIG_DFL)


def obey_signal(number: signal.Signals) -> None:
    """Restores the default action of a signal."""
    signal.signal(number, signal.SIG_DFL)


def main(setup: ChildSetup, link: Link) -> int:
    """Loads the app, sends Ready or BootFailed, runs until stopped, and returns the exit code."""
    logs.name_process(process=setup.index)
    os.environ["FLOWHERD_PROCESS_INDEX"] = str(setup.index)
    os.environ["FLOWHERD_PROCESSES"] = str(setup.processes)
    orders = CommandReader(link, setup.ledger, [setup.segment])
    orders.start()
    loaded: LoadedApp | BootFailed | None = setup.loaded
    if loaded is None:
        loaded = load(setup.app, setup.app_dir, setup.worker_type, setup.activities)
        ignore_signals(again=True)  # the app may have installed handlers of its own
    if isinstance(loaded, BootFailed):
        return refuse(link, loaded)
    log_what_is_printed(setup.config)
    tracing = begin_tracing(setup.config, setup.index, is_loud=setup.index == 0)
    gc.freeze()  # the app's objects stay: no collection need visit them again
    loop = new_loop(setup.config.loop)()
    asyncio.set_event_loop(loop)
    end_forked_copies.guard(loop, link)
    try:
        work = _work(setup, loaded.registry, link, orders, tracing)
        stopped = run_to_the_end(loop, work, lambda: leave(Exit.INTERNAL))
    except LifespanFailed as error:
        return refuse(link, boot_failed(Exit.BOOT_FAILED, str(error), error.report))
    send_last(link, stopped)
    leave(Exit.CLEAN)
    return Exit.CLEAN


def refuse(link: Link, reason: BootFailed) -> int:
    """Reports why this process cannot start; returns the exit code."""
    send_last(link, reason)
    return reason.code


def send_last(link: Link, message: Message) -> None:
    """Sends a last message; if the supervisor is gone, the reader of the link has logged it."""
    with contextlib.suppress(LinkClosed):
        link.send(message)


def build_worker(setup: ChildSetup, registry: Registry, place: WorkerPlace) -> BuiltWorker:
    """Returns a worker on the running loop, with its initial slots; it polls only after a Resume.

    Until the supervisor has received Ready, it may kill this process as one that holds no activities.
    """
    config, worker_type = setup.config, _worker_type(registry, setup)
    if config.worker_type != worker_type:
        config = config.model_copy(update={"worker_type": worker_type})
    built = BuiltWorker(
        config,
        registry,
        ledger=setup.ledger,
        segment=setup.segment,
        wakeups=setup.wakeups,
        place=place,
        most_slots=setup.most_slots,
    )
    built.start_threads()
    built.worker.set_slots(setup.slots, 0)
    built.worker.wait_for_order()
    setup.segment.put(Cell.FRESH_BYTES, resident_bytes())
    return built


def ready_of(registry: Registry, setup: ChildSetup) -> Ready:
    """Returns the Ready message of a process."""
    return ready(
        _worker_type(registry, setup), {definition.name: definition.mode.value for definition in registry}
    )


def serves_of(registry: Registry, setup: ChildSetup) -> Serves:
    """Returns the Serves message of a process that has imported the app, with the parameters of its activities."""
    return serves(_worker_type(registry, setup), taken_by(registry))


def taken_by(registry: Registry) -> dict[str, frozenset[str] | None]:
    """Returns the parameters that each activity takes, None for any."""
    return {definition.name: definition.binding.taken for definition in registry}


def _worker_type(registry: Registry, setup: ChildSetup) -> str:
    return registry.worker_type or setup.config.worker_type


async def _work(
    setup: ChildSetup, registry: Registry, link: Link, orders: CommandReader, tracing: Tracing | None
) -> Stopped:
    """Runs the worker on its loop, from the app's lifespan to the end."""
    lifespan = await enter(registry)
    place = WorkerPlace(setup.index, lifespan.state, link, tracing=tracing)
    built = build_worker(setup, registry, place)
    worker, loop = built.worker, asyncio.get_running_loop()

    def deliver(message: Downward) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker has ended
            loop.call_soon_threadsafe(execute, worker, message)

    orders.serve(deliver)
    link.send(ready_of(registry, setup))
    if setup.loaded is None:
        link.send(serves_of(registry, setup))
    try:
        return await worker.run()
    finally:
        await lifespan.leave(worker.left_s + LEAVE_S)
        await built.aclose()
        end_tracing(tracing, worker.left_s)
