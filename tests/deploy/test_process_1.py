"""flowherd as process 1 of a PID namespace, as in a container: it works, reaps orphans, and obeys SIGTERM."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from container_kit import pid_in_its_namespace, see_an_orphan_reaped
from harness import CEILING_S, clean_environment, eventually, running_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.fork, pytest.mark.timeout(90)]
APPS = Path(__file__).parent / "apps"
NAMESPACE = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.fixture(scope="module", autouse=True)
def _namespaces() -> None:
    """Containers on some hosts may not make any."""
    try:
        allowed = subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        pytest.skip("this user may not make PID namespaces here, or unshare is not installed")


@pytest.fixture
def url() -> Iterator[str]:
    """An engine with one activity queued that leaves an orphan."""
    with running_engine() as engine:
        engine.submit("leave_an_orphan")
        yield engine.url


def test_it_reaps_what_activities_leave_behind_and_drains(url: str, tmp_path: Path) -> None:
    """Process 1 inherits every orphan (faults.md C15), and signals it does not handle never reach it."""
    words = [*NAMESPACE, sys.executable, "-m", "flowherd_supervisor", "run", "orphan_app:registry"]
    words += ["--app-dir", str(APPS), "-p", "2", "--api-url", url, "--admin", "off", "--log-format", "json"]
    environment = clean_environment(XDG_RUNTIME_DIR=str(tmp_path))
    log_path = tmp_path / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=environment, cwd=tmp_path)
    try:
        supervisor = eventually(lambda: psutil.Process(process.pid).children(), "the supervisor")[0]
        assert pid_in_its_namespace(supervisor.pid) == 1
        see_an_orphan_reaped(supervisor)
        supervisor.send_signal(signal.SIGTERM)
        assert process.wait(CEILING_S) == 0, log_path.read_text()
    finally:
        process.kill()
        process.wait(CEILING_S)
