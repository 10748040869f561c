"""`flowherd dev`: starts an engine, a host and a file watcher as programs, and ends them in order.

They get no variables of a real engine, so that an experiment never claims real work.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowherd.exit_codes import Exit
from flowherd.settings.sources import variable_of
from flowherd_supervisor.cli import watch_files
from flowherd_supervisor.cli.program_name import called_from
from flowherd_supervisor.processes.prctl import stop_with_parent
from flowherd_supervisor.require_engine_extra import require_engine
from flowherd_supervisor.shell.signal_pipe import SignalPipe
from flowherd_supervisor.testkit.programs import Program, ProgramError, clean_environment

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

_LOG_ACTIVITIES = variable_of("log_activities")  # a flag in `flags` overrides it
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class DevOptions:
    """The app to serve and its options.

    Attributes:
        port: port of the engine; 0 picks a free one.
        db: SQLite file of the engine.
        flags: more flags for `flowherd run`.

    """

    app: str
    app_dir: str = "."
    port: int = 8080
    db: str = ":memory:"
    processes: int | None = None
    reload: bool = True
    flags: tuple[str, ...] = ()


def dev(options: DevOptions) -> int:
    """Runs until a signal or the end of the host; returns the host's exit code.

    Raises:
        ConfigurationError: the embedded engine is not installed.

    """
    require_engine("dev")
    with ExitStack() as stack, SignalPipe(_FORWARDED) as signals:
        engine = stack.enter_context(
            _program("engine", "--port", str(options.port), "--db", options.db, announces=True)
        )
        try:
            url = engine.address()
        except ProgramError:
            return engine.process.wait()  # it has printed the reason
        sys.stdout.write(
            f"submit work with: {called_from(Path.cwd())} submit NAME -P key=value --api-url {url}\n"
        )
        sys.stdout.flush()
        reloads = options.reload and watch_files.is_installed()
        if reloads:
            stack.enter_context(watch_files.watching(options.app_dir, os.getpid()))
        elif options.reload:
            sys.stderr.write(f"flowherd: {watch_files.MISSING}; going on without\n")
        return _Hosting(options, url, engine.process, signals).serve(again=reloads)


def _run_words(options: DevOptions, url: str) -> tuple[str, ...]:
    sizes = () if options.processes is None else ("-p", str(options.processes))
    return ("run", options.app, "--app-dir", options.app_dir, "--api-url", url, *sizes, *options.flags)


def _program(*words: str, announces: bool = False) -> Program:
    """Starts a flowherd program that inherits the telemetry variables and ends even when `dev` is killed."""
    telemetry = {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}
    env = clean_environment(**{_LOG_ACTIVITIES: "true"}, **telemetry)
    return Program(*words, env=env, announces=announces, tie=stop_with_parent)


class _Hosting:
    """Runs the host, and starts it again after the next file change if it did not boot."""

    def __init__(
        self, options: DevOptions, url: str, engine: subprocess.Popen[str], signals: SignalPipe
    ) -> None:
        self._options = options
        self._words = _run_words(options, url)
        self._engine = engine
        self._signals = signals
        self._is_over = False  # stopped by a signal, or the engine has ended
        self._has_changed = False  # True once a file has changed since the host started

    def serve(self, *, again: bool) -> int:
        """Returns the exit code of the last host.

        Args:
            again: start the host again after a file change when it has failed to boot.

        """
        while True:
            self._has_changed = False
            with _program(*self._words) as host:
                code = self._until_ended(host.process)
            if not again or self._is_over or not self._may_be_mended(code):
                return code
            if not self._has_changed:
                folder = self._options.app_dir
                sys.stderr.write(f"flowherd: the next change of a file in {folder} is tried; Ctrl-C ends\n")
                sys.stderr.flush()
                self._until_changed()
            if self._is_over:
                return code

    def _may_be_mended(self, code: int) -> bool:
        """True if editing a file may help: the import failed, or the app's file exists but has no app yet."""
        name = self._options.app.partition(":")[0].replace(".", "/")
        there = Path(self._options.app_dir, name)
        return code == Exit.BOOT_FAILED or (
            code == Exit.USAGE and (there.with_suffix(".py").is_file() or there.is_dir())
        )

    def _until_ended(self, host: subprocess.Popen[str]) -> int:
        """Forwards signals to the host, which drains at the first and hurries at the second; returns its exit code."""
        with _pidfd(host) as host_ended, _pidfd(self._engine) as engine_ended:
            watched = [host_ended, engine_ended, self._signals.fd]
            while True:
                ready, _, _ = select.select(watched, [], [])
                for number in self._signals.received():
                    self._pass_on(number, host)
                if host_ended in ready:
                    return host.wait()
                if engine_ended in ready:
                    self._end_without_engine()
                    host.send_signal(signal.SIGTERM)
                    watched.remove(engine_ended)

    def _pass_on(self, number: signal.Signals, host: subprocess.Popen[str]) -> None:
        if number != signal.SIGHUP:
            self._is_over = True
            host.send_signal(signal.SIGTERM)
            return
        self._has_changed = True
        with suppress(FileNotFoundError):  # it has just ended
            if watch_files.listens(host.pid):
                host.send_signal(signal.SIGHUP)

    def _until_changed(self) -> None:
        with _pidfd(self._engine) as engine_ended:
            while not self._has_changed and not self._is_over:
                ready, _, _ = select.select([engine_ended, self._signals.fd], [], [])
                for number in self._signals.received():
                    self._has_changed |= number == signal.SIGHUP
                    self._is_over |= number != signal.SIGHUP
                if engine_ended in ready:
                    self._end_without_engine()

    def _end_without_engine(self) -> None:
        self._is_over = True
        sys.stderr.write("flowherd: the engine has ended; stopping\n")


@contextmanager
def _pidfd(process: subprocess.Popen[str]) -> Iterator[int]:
    fd = os.pidfd_open(process.pid)
    try:
        yield fd
    finally:
        os.close(fd)
