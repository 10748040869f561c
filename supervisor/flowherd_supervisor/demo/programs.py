"""The programs that demo and bench start, engine and supervisor, and their certain end; it knows no work.

They run in a private folder: no config file, no variable and no proxy of the user reaches them, and they
reach no engine but this one (interface.md, the other commands).
"""

from __future__ import annotations

import contextlib
import os
import re
import site
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import flowherd
import flowherd_supervisor
from flowherd_supervisor.demo.client import WORKER
from flowherd_supervisor.processes.prctl import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import ModuleType

BOOT_S = 30.0
STOP_S = 5.0
_LISTENING = re.compile(r"listening on (http://\S+)")
_FOREIGN = re.compile(r"(KRUXIAFLOW|FLOWHERD|OTEL)_.*|WORKER_TYPE|PYTHONHASHSEED|.*_PROXY", re.IGNORECASE)
_TEMP_MAX = 50  # bytes: the kernel takes 107 for a socket's path, and our own names below it need the rest


class ProgramError(Exception):
    """A program of the demo did not start or ended too early; the message holds the end of its log."""


class App(NamedTuple):
    """What a supervisor hosts: `module:attr`, its worker type, and the folder to import it from."""

    name: str
    worker: str
    directory: str = "."


DEMO_APP = App("flowherd_supervisor.demo.activities:registry", WORKER)


class Program(NamedTuple):
    """One running program and the file with everything it wrote."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raise ProgramError if the program has ended."""
        code = self.process.poll()
        if code is not None:
            raise ProgramError(f"the {self.name} ended with code {code}:\n{self.tail()}")

    def wait(self, pause_s: float) -> None:
        """Wait a moment, or until the program ends."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(pause_s)

    def stop(self) -> None:
        """End the program: TERM, and KILL after a bound; nobody else reaps it, so the pid is its own."""
        self.process.terminate()
        try:
            self.wait(STOP_S)
        finally:  # also when a second Ctrl-C breaks the wait
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def first_match(self, pattern: re.Pattern[str]) -> str:
        """Wait for a line in the log and return the first group, or raise ProgramError."""
        deadline_s = time.monotonic() + BOOT_S
        while time.monotonic() < deadline_s:
            if found := pattern.search(self.log.read_text(errors="replace")):
                return found.group(1)
            self.check()
            self.wait(0.05)
        raise ProgramError(f"the {self.name} said nothing within {BOOT_S:g} s:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of what the program wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@contextmanager
def home() -> Iterator[Path]:
    """Yield a private folder for one demo, short enough for unix sockets, and remove it at the end."""
    short = len(os.fsencode(tempfile.gettempdir())) <= _TEMP_MAX
    parent = None if short else "/tmp"  # noqa: S108 - mkdtemp makes a folder of its own there, mode 0700
    with tempfile.TemporaryDirectory(prefix="flowherd-demo-", dir=parent, ignore_cleanup_errors=True) as path:
        yield Path(path)


@contextmanager
def engine(folder: Path) -> Iterator[str]:
    """Run the embedded engine in memory on a free port and yield its URL."""
    with engine_program(folder) as (_, url):
        yield url


@contextmanager
def engine_program(folder: Path) -> Iterator[tuple[Program, str]]:
    """As `engine`; yields the program too."""
    arguments = ("engine", "--port", "0", "--db", ":memory:")
    with _running("engine", folder, arguments) as program:
        yield program, program.first_match(_LISTENING)


@contextmanager
def supervisor(folder: Path, url: str, processes: int, slots: int, app: App = DEMO_APP) -> Iterator[Program]:
    """Run a supervisor with the demo's activities, or another app's, and yield it."""
    arguments = ("run", app.name, "--app-dir", app.directory, "-p", str(processes), "-c", str(slots))
    engine_options = ("--api-url", url, "--worker", app.worker, "--admin", "off")
    log_options = ("--log-format", "json", "--log-level", "warning")
    with _running("supervisor", folder, (*arguments, *engine_options, *log_options)) as program:
        yield program


def status_socket(folder: Path, program: Program) -> Path:
    """Return where the supervisor serves its status (interface.md, Admin)."""
    return folder / "run" / "flowherd" / f"{program.process.pid}.sock"


def environment(base: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the environment of the demo's programs: the user's, but nothing that configures flowherd."""
    clean = {name: value for name, value in base.items() if not _FOREIGN.fullmatch(name)}
    given = [str(Path(part).absolute()) for part in base.get("PYTHONPATH", "").split(os.pathsep) if part]
    paths = dict.fromkeys([*map(_root, (flowherd, flowherd_supervisor)), *given])
    # A folder of installed packages must not come before the standard library, and needs no mention.
    installed = {*site.getsitepackages(), site.getusersitepackages()}
    return clean | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path not in installed),
        "PYTHONUNBUFFERED": "1",
        # A process that `--chaos` kills at random is no evidence against the activities it held.
        "KRUXIAFLOW_WORKER_POISON_AFTER": "0",
        "XDG_RUNTIME_DIR": str(folder / "run"),
    }


@contextmanager
def _running(name: str, folder: Path, arguments: tuple[str, ...]) -> Iterator[Program]:
    """One program, which a kill of this process ends, too: nothing of it is worth a drain then."""
    log = folder / f"{name}.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own arguments
            (sys.executable, "-m", "flowherd_supervisor", *arguments),
            cwd=folder,
            env=environment(os.environ, folder),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            process_group=0,  # the terminal's Ctrl-C is for the demo, which then stops them in order
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one thread, one system call
        )
    program = Program(name, process, log)
    try:
        yield program
    except Exception:
        program.check()  # its end explains the error better than a refused connection
        raise
    finally:
        program.stop()


def _root(module: ModuleType) -> str:
    return str(Path(str(module.__file__)).resolve().parent.parent)
