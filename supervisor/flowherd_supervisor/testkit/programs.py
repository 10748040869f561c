"""A program of flowherd as a child process, with its environment and log, and a helper that waits for a result."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

CEILING_S = 40.0  # several times a Python start on a busy machine, below pytest's timeout for a test
LOOK_EVERY_S = 0.02
STOP_S = 5.0
_OURS = re.compile(r"(KRUXIAFLOW|FLOWHERD|OTEL)_.*|WORKER_TYPE")
_TEMP_MAX = 50  # bytes: a socket's path has at most 107, our file names need the rest

T = TypeVar("T")


class ProgramError(AssertionError):
    """A program did not start or ended too early; the message holds the end of its log."""


class Program:
    """A running program of flowherd; it ends with `stop()` or its `with` block.

    Args:
        words: its arguments, such as `run`, `my_app`, `-p`, `2`.
        module: module to run with `python -m`.
        env: its complete environment.
        cwd: its working directory; None: that of this process.
        log: file for its stdout and stderr; None: it inherits those of this process.
        announces: make stdout a pipe that `address` reads.
        tie: function of `processes.prctl` that runs in the child before the program, so that it ends with this
            process; it then has its own process group, which a terminal's Ctrl-C does not reach.

    Attributes:
        process: the running process.

    """

    def __init__(
        self,
        *words: str,
        env: Mapping[str, str],
        module: str = "flowherd_supervisor",
        cwd: Path | None = None,
        log: Path | None = None,
        announces: bool = False,
        tie: Callable[[], None] | None = None,
    ) -> None:
        self.name = "supervisor" if words[:1] == ("run",) else "engine"
        self.log = log
        with contextlib.ExitStack() as stack:
            sink = None if log is None else stack.enter_context(log.open("wb"))
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own program
                (sys.executable, "-m", module, *words),
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if announces else sink,
                stderr=sink,
                text=True,
                process_group=0 if tie is not None else -1,
                preexec_fn=tie,  # noqa: PLW1509 - one system call; callers that tie have one thread
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def address(self) -> str:
        """Waits for an engine's address and returns it; raises ProgramError if the engine ends instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "listening on" not in line:
            self.wait(STOP_S)
            self.kill()
            raise ProgramError(
                f"the {self.name} did not start: {line!r}; is flowherd[engine] installed?\n{self.tail()}"
            )
        return line.split()[-1]

    def check(self) -> None:
        """Raises ProgramError if the program has ended."""
        code = self.process.poll()
        if code is not None:
            raise ProgramError(f"the {self.name} exited with {code}:\n{self.tail()}")

    def wait(self, within_s: float) -> None:
        """Waits until the program ends, at most `within_s` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(within_s)

    def tail(self, lines: int = 50) -> str:
        """Returns the last lines of the log."""
        text = "" if self.log is None else self.log.read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def stop(self, within_s: float = STOP_S) -> None:
        """Sends TERM, and KILL after `within_s` seconds; only this object reaps it, so the pid cannot be reused."""
        self.process.terminate()
        try:
            self.wait(within_s)
        finally:  # also if a second Ctrl-C interrupts the wait
            self.kill()

    def kill(self) -> None:
        """Sends KILL if it still runs, and reaps it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def eventually(look: Callable[[], T], what: str, within_s: float = CEILING_S) -> T:
    """Calls `look` until its result is true, and returns it; the ceiling only matters to a test that fails.

    Raises:
        AssertionError: the result was not true within `within_s` seconds.

    """
    give_up_at = time.monotonic() + within_s
    while True:
        if found := look():
            return found
        if time.monotonic() > give_up_at:
            raise AssertionError(f"{what}: not within {within_s} s")
        threading.Event().wait(LOOK_EVERY_S)


def clean_environment(**extra: str) -> dict[str, str]:
    """Returns the environment without the variables that configure flowherd, plus `extra`.

    Relative parts of PYTHONPATH become absolute, since programs run in folders of their own.
    """
    kept = {name: value for name, value in os.environ.items() if not _OURS.fullmatch(name)}
    if path := kept.get("PYTHONPATH"):
        kept["PYTHONPATH"] = os.pathsep.join(
            str(Path(part).absolute()) for part in path.split(os.pathsep) if part
        )
    return kept | extra


def short_folder() -> str | None:
    """Returns a parent for a private folder of unix sockets; None if the usual temporary folder is short enough."""
    short = len(os.fsencode(tempfile.gettempdir())) <= _TEMP_MAX
    return None if short else "/tmp"  # noqa: S108 - mkdtemp makes a folder of its own there, mode 0700
