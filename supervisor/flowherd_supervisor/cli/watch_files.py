"""`--reload`: a separate process that watches files and sends HUP; it never imports the app.

    python -m flowherd_supervisor.cli.watch_files FOLDER PID

It ends with the supervisor, however that ends.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from flowherd.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

MISSING = "reloading is not installed: pip install 'flowherd[reload]'"
_LOOK_EVERY_MS = 500  # interval of the check that the supervisor still runs
_SETTLED_AFTER_MS = 200  # editors write a file in several steps


def is_installed() -> bool:
    """True when the extra that watches files is installed."""
    return find_spec("watchfiles") is not None


@contextmanager
def watching(folder: str | Path, pid: int) -> Iterator[None]:
    """Watches `folder` for the process `pid` while the block runs.

    Raises:
        ConfigurationError: the extra is not installed.

    """
    if not is_installed():
        raise ConfigurationError(MISSING)
    words = (
        sys.executable,
        "-m",
        "flowherd_supervisor.cli.watch_files",
        str(Path(folder).resolve()),
        str(pid),
    )
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603 - our own program
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def watch(folder: Path, pid: int) -> None:
    """Sends HUP to process `pid` after each change of a Python or TOML file, until it has ended."""
    import watchfiles  # noqa: PLC0415 - an extra

    pidfd = os.pidfd_open(pid)
    for change in watchfiles.watch(
        folder,
        watch_filter=watchfiles.PythonFilter(extra_extensions=(".toml",)),
        debounce=_SETTLED_AFTER_MS,
        step=50,
        rust_timeout=_LOOK_EVERY_MS,
        yield_on_timeout=True,
    ):
        if select.select([pidfd], [], [], 0)[0]:
            return
        if change and listens(pid):
            signal.pidfd_send_signal(pidfd, signal.SIGHUP)


def listens(pid: int) -> bool:
    """True once the process handles HUP, which would kill it before that (proc(5), SigCgt).

    Raises:
        FileNotFoundError: the process has ended.

    """
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) & 1 << (signal.SIGHUP - 1))


def main(words: list[str]) -> int:
    """Runs the program; returns 0 also if the supervisor is already gone."""
    try:
        watch(Path(words[0]), int(words[1]))
    except (ProcessLookupError, FileNotFoundError, KeyboardInterrupt):
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
