"""The supervisor's log: one line per event, causes in words, a banner."""

from __future__ import annotations

import io
import logging
import os
import platform
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from flowherd.exit_codes import Exit
from flowherd.wait_status import OURS
from flowherd_supervisor.core.actions import Level, Note
from flowherd_supervisor.core.events import KEEPER
from flowherd_supervisor.shell.event_log import Banner, say, say_end

if TYPE_CHECKING:
    from collections.abc import Iterator

BANNER = Banner(
    version="0.1.0",
    app="app:registry",
    worker_type="py-std",
    worker_id="host-1",
    api_url="http://engine:8080",
    shares=(4, 4, 4, 4),
    usable_cpus=8,
    automatic=True,
    admin="127.0.0.1:9464 and /run/1.sock",
)


@pytest.fixture(autouse=True)
def _hear_all(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO):
        yield


@pytest.mark.parametrize(
    ("status", "how"),
    [
        (0, "exited with code 0"),
        (3 << 8, "exited with code 3"),
        (signal.SIGSEGV, "was killed by SIGSEGV"),
        (signal.SIGKILL, "was killed by SIGKILL (out of memory?)"),
        (signal.SIGABRT | 0x80, "was killed by SIGABRT"),
        (40, "was killed by signal 40"),
    ],
)
def test_c10_a_wait_status_is_said_in_words(caplog: pytest.LogCaptureFixture, status: int, how: str) -> None:
    """Faults C7, C10: the signal by its name; with or without a core dump."""
    say(Note("process_died", {"process": 2, "status": status, "running": 1}))
    assert caplog.messages == [f"event='process_died' process=2 running=1 how='{how}'"]


def test_a_process_that_we_killed_did_not_run_out_of_memory(caplog: pytest.LogCaptureFixture) -> None:
    """A kill of our own must not look like a lack of memory."""
    fields = {"process": 2, "status": signal.SIGKILL | OURS, "killed_for": "it hung"}
    say(Note("process_exited", fields))
    assert "how='was stopped by flowherd: it hung'" in caplog.text
    say(Note("process_exited", {"process": 2, "status": 0, "killed_for": "it hung"}))
    assert "how='exited with code 0'" in caplog.text


def test_the_keeper_goes_by_its_name(caplog: pytest.LogCaptureFixture) -> None:
    """The log shows `keeper` instead of process -1."""
    say(Note("process_ready", {"process": KEEPER}))
    assert caplog.messages == ["event='process_ready' process='keeper'"]


@pytest.mark.parametrize("level", list(Level))
def test_a_note_is_as_loud_as_it_says(caplog: pytest.LogCaptureFixture, level: Level) -> None:
    """Users filter by level."""
    say(Note("x", {}, level))
    assert [record.levelname for record in caplog.records] == [level.name]


def test_c18_a_traceback_is_a_field_of_its_line(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Faults C18: a log in JSON has nothing but JSON."""
    say(Note("boot_failed", {"reason": "x"}, Level.ERROR, "Traceback:\n  1 / 0\n\n"))
    assert capsys.readouterr().err == ""
    assert caplog.messages == [r"event='boot_failed' reason='x' exception='Traceback:\n  1 / 0'"]


def test_the_banner_is_a_few_aligned_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """The start in text mode."""
    BANNER.say("text")
    title, *lines = capsys.readouterr().err.splitlines()
    assert title == "flowherd"
    assert {line[:15] for line in lines} >= {"  concurrency  ", "  engine       "}
    assert lines[0] == f"  version      0.1.0, Python {platform.python_version()}, pid {os.getpid()}"
    assert lines[3] == "  worker       type py-std, id host-1"
    assert lines[4:] == [
        "  processes    4 (8 usable CPUs)",
        "  concurrency  16 = 4+4+4+4 (auto)",
        "  status       127.0.0.1:9464 and /run/1.sock",
    ]


def test_the_banner_says_that_the_worker_type_comes_from_the_app(capsys: pytest.CaptureFixture[str]) -> None:
    """The app is imported later."""
    replace(BANNER, worker_type="").say("text")
    assert "  worker       type from the app, id host-1" in capsys.readouterr().err.splitlines()


def test_the_banner_is_one_record_in_json_mode(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing but records on stderr then."""
    BANNER.say("json")
    assert capsys.readouterr() == ("", "")
    (line,) = caplog.messages
    assert line.startswith("event='starting' version='0.1.0' python='3")
    assert f" pid={os.getpid()} " in line, "a field of its own"
    assert "concurrency='16 = 4+4+4+4 (auto)'" in line


def test_many_shares_are_counted_not_listed(caplog: pytest.LogCaptureFixture) -> None:
    """64 processes would fill the screen."""
    many = Banner("1", "a", "w", "i", "u", (2,) * 64, 64, automatic=False, admin="off")
    many.say("json")
    assert "concurrency='128 = 64 shares'" in caplog.text


class _Closed(io.StringIO):
    """A pipe without a reader."""

    def write(self, _: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_c27_a_closed_log_pipe_does_not_stop_the_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults C27: `flowherd run … | head` must not leave workers without a supervisor."""
    monkeypatch.setattr(sys, "stderr", _Closed())
    say(Note("boot_failed", {}, Level.ERROR, "Traceback"))
    BANNER.say("text")


def test_the_last_line_tells_the_exit_code_as_the_shell_does(caplog: pytest.LogCaptureFixture) -> None:
    """Eyes read `code=3`, as the table of exit codes has it, and no name of a class."""
    say_end(Exit.BOOT_FAILED, "no lifespan")
    assert "code=3 " in caplog.text


@pytest.mark.parametrize(
    ("code", "level"), [(Exit.CLEAN, "INFO"), (Exit.RELEASED, "WARNING"), (Exit.USAGE, "ERROR")]
)
def test_every_host_ends_its_log_with_its_exit_code(
    caplog: pytest.LogCaptureFixture, code: Exit, level: str
) -> None:
    """`ctl drain --wait` cannot see it, and a service manager shows it elsewhere."""
    say_end(code, "")
    assert [record.levelname for record in caplog.records] == [level]
    assert f"event='ended' code={int(code)} " in caplog.text
