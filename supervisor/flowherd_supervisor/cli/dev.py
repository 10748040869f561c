"""`flowherd dev`: starts an engine, a host and what reloads it as programs, and ends them in order; it hosts nothing.

No variable of a real engine reaches them: what is tried out here must never claim somebody's work.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowherd_supervisor.cli import reload
from flowherd_supervisor.cli.itself import called_from
from flowherd_supervisor.processes.prctl import stop_with_parent
from flowherd_supervisor.shell.signals import Signals
from flowherd_supervisor.testkit.engine_extra import require_engine
from flowherd_supervisor.testkit.programs import Program, ProgramError, clean_environment

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class DevOptions:
    """What to serve, and how.

    Attributes:
        port: the engine's; 0 picks a free one.
        db: where the engine keeps its state.
        flags: more words for `flowherd run`.

    """

    app: str
    app_dir: str = "."
    port: int = 8080
    db: str = ":memory:"
    processes: int | None = None
    reload: bool = True
    flags: tuple[str, ...] = ()


def dev(options: DevOptions) -> int:
    """Runs until told to stop, or until the host has ended; returns the host's exit code.

    Raises:
        ConfigurationError: the embedded engine is not installed.

    """
    require_engine("dev")
    with ExitStack() as stack, Signals(_FORWARDED) as signals:
        engine = stack.enter_context(
            _program("engine", "--port", str(options.port), "--db", options.db, announces=True)
        )
        try:
            url = engine.address()
        except ProgramError:
            return engine.process.wait()  # it has said why
        sys.stdout.write(
            f"submit work with: {called_from(Path.cwd())} submit NAME -P key=value --api-url {url}\n"
        )
        sys.stdout.flush()
        host = stack.enter_context(_program(*_run_words(options, url)))
        if options.reload and reload.is_installed():
            stack.enter_context(reload.watching(options.app_dir, host.process.pid))
        elif options.reload:
            sys.stderr.write(f"flowherd: {reload.MISSING}; going on without\n")
        return _until_ended(host.process, engine.process, signals)


def _run_words(options: DevOptions, url: str) -> tuple[str, ...]:
    sizes = () if options.processes is None else ("-p", str(options.processes))
    return ("run", options.app, "--app-dir", options.app_dir, "--api-url", url, *sizes, *options.flags)


def _program(*words: str, announces: bool = False) -> Program:
    """One of our programs; it keeps what configures telemetry, and ends with a `dev` that is killed."""
    telemetry = {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}
    env = clean_environment(**telemetry)
    return Program(*words, env=env, announces=announces, tie=stop_with_parent)


def _until_ended(host: subprocess.Popen[str], engine: subprocess.Popen[str], signals: Signals) -> int:
    """Passes signals on to the host, which drains at the first and hurries at the second, and waits for its end."""
    with _pidfd(host) as host_ended, _pidfd(engine) as engine_ended:
        watched = [host_ended, engine_ended, signals.fd]
        while True:
            ready, _, _ = select.select(watched, [], [])
            for number in signals.received():
                host.send_signal(signal.SIGHUP if number == signal.SIGHUP else signal.SIGTERM)
            if host_ended in ready:
                return host.wait()
            if engine_ended in ready:
                sys.stderr.write("flowherd: the engine has ended; stopping\n")
                host.send_signal(signal.SIGTERM)
                watched.remove(engine_ended)


@contextmanager
def _pidfd(process: subprocess.Popen[str]) -> Iterator[int]:
    fd = os.pidfd_open(process.pid)
    try:
        yield fd
    finally:
        os.close(fd)
