"""The demo's programs: what reaches them, and that they always end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import flowherd_supervisor
from flowherd_supervisor.demo import programs
from flowherd_supervisor.demo.chaos import kill_child
from flowherd_supervisor.demo.interruption import InterruptedDemoError, Interruption
from flowherd_supervisor.demo.programs import Program, ProgramError, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Program]]:
    begun: list[Program] = []

    def start(code: str) -> Program:
        log = tmp_path / f"{len(begun)}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen([sys.executable, "-u", "-c", code], stdout=sink, stderr=sink)
        begun.append(Program("program", process, log))
        return begun[-1]

    yield start
    for program in begun:
        program.process.kill()
        program.process.wait()


def test_nothing_that_configures_a_worker_reaches_the_programs(tmp_path: Path) -> None:
    """interface.md: everybody who runs the engine has these exported; the demo must not touch that engine."""
    hostile = {
        "KRUXIAFLOW_API_URL": "http://production:8080",
        "KRUXIAFLOW_CLIENT_SECRET": "s",
        "KRUXIAFLOW_WORKER_PROCESSES": "99",
        "FLOWHERD_PROCESS_INDEX": "3",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "WORKER_TYPE": "py-std",
        "HTTP_PROXY": "http://proxy:3128",
        "all_proxy": "http://proxy:3128",
        "HOME": "/home/me",
        "PYTHONPATH": f"lib{os.pathsep}/abs",
    }
    clean = environment(hostile, tmp_path)
    ours = {"PYTHONPATH", "PYTHONUNBUFFERED", "XDG_RUNTIME_DIR", "KRUXIAFLOW_WORKER_POISON_AFTER"}
    assert clean.keys() == {"HOME", *ours}
    assert clean["XDG_RUNTIME_DIR"].startswith(str(tmp_path))
    assert {str(Path("lib").absolute()), "/abs"} <= set(clean["PYTHONPATH"].split(os.pathsep))


def test_the_programs_find_the_packages_of_this_checkout_and_no_installed_one_first(tmp_path: Path) -> None:
    """They run in another folder, where a relative path would name nothing."""
    done = subprocess.run(
        [sys.executable, "-c", "import flowherd_supervisor as f, flowherd; print(f.__file__)"],
        cwd=tmp_path,
        env=environment({}, tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == flowherd_supervisor.__file__
    assert "site-packages" not in environment({}, tmp_path)["PYTHONPATH"]


def test_the_private_folder_is_short_closed_to_others_and_gone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unix socket's path has 107 bytes at most, and some TMPDIRs are longer than that."""
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with programs.home() as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(os.fsencode(folder / "64/run/flowherd/4194304.sock")) < 108
    assert not folder.exists()


def test_a_program_that_ignores_term_is_killed_after_the_bound(
    start: Callable[[str], Program], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "STOP_S", 0.1)
    deaf = start(
        "import signal; signal.signal(15, signal.SIG_IGN); print('listening on http://x'); signal.pause()"
    )
    deaf.first_match(re.compile("listening on (.*)"))
    deaf.stop()
    assert deaf.process.returncode == -signal.SIGKILL


def test_a_program_that_obeys_is_not_killed(start: Callable[[str], Program]) -> None:
    polite = start("import signal; signal.signal(15, lambda *_: exit(0)); print('up 1'); signal.pause()")
    assert polite.first_match(re.compile(r"up (\d)")) == "1"
    polite.check()
    polite.stop()
    assert polite.process.returncode == 0


def test_a_program_that_ends_at_once_is_reported_with_the_end_of_its_log(
    start: Callable[[str], Program],
) -> None:
    """Without its own words nobody could tell why."""
    with pytest.raises(ProgramError, match=r"the program ended with code 3:\nno port"):
        start("print('no port'); exit(3)").first_match(re.compile("never (.*)"))


def test_a_kill_reaches_only_children_of_that_supervisor(start: Callable[[str], Program]) -> None:
    """A pid from a status document may be another process by the time of the kill."""
    child = start("print('up 1'); import signal; signal.pause()")
    assert not kill_child(child.process.pid, supervisor=1)
    child.check()
    assert kill_child(child.process.pid, supervisor=os.getpid())
    assert child.process.wait() == -signal.SIGKILL
    assert not kill_child(child.process.pid, supervisor=os.getpid())


def test_the_first_signal_is_noticed_at_a_safe_point_and_the_second_at_once() -> None:
    """An exception between the start of a program and its `finally` would leave it behind."""
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        interruption.check()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(InterruptedDemoError, match="SIGTERM") as caught:
            interruption.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert caught.value.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
