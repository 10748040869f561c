"""`flowherd dev`: starts an engine, a host and what watches files as programs, and ends them in order.

No variable of a real engine reaches them: what is tried out here must never claim somebody's work.
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

_LOG_ACTIVITIES = variable_of("log_activities")  # a flag in `flags` is stronger
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class DevOptions:
    """The app to serve, and options for it.

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
    """Runs until it is stopped or the host has ended; returns the host's exit code.

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
            return engine.process.wait()  # it has said why
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
    """A program of ours; it keeps what configures telemetry, and ends with a `dev` that is killed."""
    telemetry = {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}
    env = clean_environment(**{_LOG_ACTIVITIES: "true"}, **telemetry)
    return Program(*words, env=env, announces=announces, tie=stop_with_parent)


class _Hosting:
    """Runs the host, and once more after a save where its first import has failed."""

    def __init__(
        self, options: DevOptions, url: str, engine: subprocess.Popen[str], signals: SignalPipe
    ) -> None:
        self._options = options
        self._words = _run_words(options, url)
        self._engine = engine
        self._signals = signals
        self._is_over = False  # told to stop, or the engine has ended
        self._has_changed = False  # a file, since the host was started

    def serve(self, *, again: bool) -> int:
        """Returns the exit code of the last host.

        Args:
            again: whether a save may mend what has failed.

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
        """An app that does not import, or a file that holds none yet; a name without a file is a slip of the words."""
        name = self._options.app.partition(":")[0].replace(".", "/")
        there = Path(self._options.app_dir, name)
        return code == Exit.BOOT_FAILED or (
            code == Exit.USAGE and (there.with_suffix(".py").is_file() or there.is_dir())
        )

    def _until_ended(self, host: subprocess.Popen[str]) -> int:
        """Passes signals on to the host, which drains at the first and hurries at the second; returns its code."""
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
