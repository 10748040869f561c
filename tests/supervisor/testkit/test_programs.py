"""Programs of flowherd as child processes: their environment and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import flowherd_supervisor
from flowherd_supervisor.testkit.programs import Program, ProgramError, clean_environment, short_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    begun: list[Program] = []

    def start(code: str, *, announces: bool = True) -> Program:
        (tmp_path / "program.py").write_text(code)
        env = clean_environment(PYTHONPATH=str(tmp_path))
        log = tmp_path / "log"
        begun.append(Program(module="program", env=env, log=log, announces=announces))
        return begun[-1]

    yield start
    for program in begun:
        program.kill()


def test_nothing_that_configures_a_worker_reaches_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users of the engine have these exported; a demo must not touch that engine."""
    hostile = {
        "KRUXIAFLOW_API_URL": "http://production:8080",
        "KRUXIAFLOW_CLIENT_SECRET": "s",
        "KRUXIAFLOW_WORKER_PROCESSES": "99",
        "FLOWHERD_PROCESS_INDEX": "3",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "WORKER_TYPE": "py-std",
    }
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", f"lib{os.pathsep}/abs")
    monkeypatch.setenv("WORKER_OF_MINE", "kept")
    clean = clean_environment(MORE="1")
    assert not clean.keys() & hostile.keys()
    assert (clean["WORKER_OF_MINE"], clean["MORE"]) == ("kept", "1")
    assert clean["PYTHONPATH"] == os.pathsep.join([str(Path("lib").absolute()), "/abs"])


def test_the_programs_find_the_packages_of_this_checkout(tmp_path: Path) -> None:
    """They run in another folder, where relative paths would be wrong."""
    done = subprocess.run(
        [sys.executable, "-c", "import flowherd_supervisor as f, flowherd; print(f.__file__)"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == flowherd_supervisor.__file__


def test_a_folder_for_sockets_has_a_short_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unix socket's path has 107 bytes at most, and some TMPDIRs are longer than that."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 80)))
    assert short_folder() == "/tmp"
    monkeypatch.setattr("tempfile.tempdir", "/var/tmp")
    assert short_folder() is None


def test_a_program_that_ignores_term_is_killed_after_the_bound(start: Callable[..., Program]) -> None:
    deaf = start(
        "import signal; signal.signal(15, signal.SIG_IGN); print('listening on x', flush=True); signal.pause()"
    )
    assert deaf.address() == "x"
    deaf.stop(0.1)
    assert deaf.process.returncode == -signal.SIGKILL


def test_a_program_that_obeys_is_not_killed(start: Callable[..., Program]) -> None:
    polite = start(
        "import signal; signal.signal(15, lambda *_: exit(0));"
        "print('listening on x', flush=True); signal.pause()"
    )
    polite.address()
    polite.check()
    polite.stop()
    assert polite.process.returncode == 0


def test_a_program_that_ends_at_once_is_reported_with_the_end_of_its_log(
    start: Callable[..., Program],
) -> None:
    """Its own output has the reason."""
    broken = start("import sys; sys.stderr.write('no port'); exit(3)")
    with pytest.raises(ProgramError, match="no port"):
        broken.address()
    broken.wait(10)
    with pytest.raises(ProgramError, match=r"exited with 3:\nno port"):
        broken.check()
