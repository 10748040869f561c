"""`flowherd top` and `flowherd status` in a real terminal of 80 columns, on a host with work and failures."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from typing import TYPE_CHECKING

import pytest
from harness import CEILING_S, clean_environment, eventually

pytest.importorskip("textual", reason="the live view is an extra: pip install 'flowherd[top]'")

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import Engine, Host

ROWS, COLUMNS = 24, 80
ESCAPE = re.compile(r"\x1b\[[0-9;?<>=$ ]*[A-Za-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()P][^\x1b]*?|\x1b.")
PLACE = re.compile(r"\x1b\[\d+;(\d+)H")


class Terminal:
    """A program in a terminal, and its output."""

    def __init__(self, *words: str, runtime: str) -> None:
        self.pid, self.descriptor = pty.fork()
        if not self.pid:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
            env = clean_environment(XDG_RUNTIME_DIR=runtime, TERM="xterm-256color")
            os.execve(sys.executable, [sys.executable, "-m", "flowherd_supervisor", *words], env)
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.raw = ""

    @property
    def text(self) -> str:
        return ESCAPE.sub("", self.raw)

    def press(self, key: str) -> None:
        self.raw = ""
        os.write(self.descriptor, key.encode())

    def wait_for(self, *patterns: str) -> None:
        """Reads until all patterns have been shown."""
        give_up_at = time.monotonic() + CEILING_S
        while not all(re.search(pattern, self.text) for pattern in patterns):
            assert time.monotonic() < give_up_at, f"{patterns} not in:\n{self.text}"
            if not self._read():
                break
        assert all(re.search(pattern, self.text) for pattern in patterns), self.text

    def ended(self) -> int:
        """Reads to the end; returns the exit code."""
        while self._read():
            continue
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        if not select.select([self.descriptor], [], [], 1.0)[0]:
            return True
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:
            return False  # the program has ended
        self.raw += data.decode(errors="replace")
        return bool(data)


@pytest.fixture
def busy_host(engine: Engine, run_host: Callable[..., Host]) -> Host:
    """A host with running, completed and failed activities."""
    host = run_host("sample_app:registry", url=engine.url)
    engine.submit("hello", 3, name="Ada")
    engine.submit("nobodys", settings={"retry": {"max_attempts": 1}})
    engine.submit("wait", seconds=60.0)
    engine.wait_for("complete", 3)
    engine.wait_for("fail", 1)
    eventually(lambda: host.get("/api/status").json()["failures_so_far"] == 1, "the failure is known")
    return host


def test_top_ends_with_its_terminal_also_under_nohup(busy_host: Host) -> None:
    terminal = Terminal("top", "--pid", str(busy_host.pid), runtime=str(busy_host.folder / "r"))
    pidfd = os.pidfd_open(terminal.pid)
    terminal.wait_for("app sample_app:registry on host")
    os.close(terminal.descriptor)
    has_ended = select.select([pidfd], [], [], CEILING_S)[0]
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.waitpid(terminal.pid, 0)
    os.close(pidfd)
    assert has_ended


def test_top_shows_activities_and_failures_at_80_columns_and_leaves_by_its_key(busy_host: Host) -> None:
    terminal = Terminal("top", "--pid", str(busy_host.pid), runtime=str(busy_host.folder / "r"))
    terminal.wait_for("app sample_app:registry on host", "advice", "hello", "wait")
    terminal.press("3")
    terminal.wait_for("workflow", r"\d+s +[01] wait +[0-9a-f-]{36}")
    terminal.press("4")
    terminal.wait_for("nobodys", "UNKNOWN_ACTIVITY: ")
    terminal.press("2")
    terminal.wait_for("restarts", "running")
    places = [int(column) for column in PLACE.findall(terminal.raw)]
    assert max(places, default=0) <= COLUMNS
    terminal.press("q")
    assert terminal.ended() == 0


def test_status_fits_80_columns_and_ends_with_what_has_failed(busy_host: Host) -> None:
    terminal = Terminal("status", "--pid", str(busy_host.pid), runtime=str(busy_host.folder / "r"))
    assert terminal.ended() == 0
    lines = [line.rstrip() for line in terminal.text.replace("\r", "").splitlines()]
    assert max(map(len, lines)) <= COLUMNS
    assert any(re.match(r"hello +0 +0 +3 +0 ", line) for line in lines), lines
    assert any(re.match(r"wait +1 +0 +0 +0 ", line) for line in lines), lines
    assert any(re.match(r" +\d+s +[01] wait +[0-9a-f-]{36}$", line) for line in lines), lines
    at = lines.index("last failures")
    assert re.match(r"\d\d:\d\d:\d\d  nobodys  [0-9a-f-]{36}", lines[at + 1])
    assert "UNKNOWN_ACTIVITY: " in lines[at + 2]
