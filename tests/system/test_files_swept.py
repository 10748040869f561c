"""Files of real workers: through a real engine, with credentials, and after a SIGKILL (faults.md F8)."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from harness import eventually, running_engine, running_host

if TYPE_CHECKING:
    from pathlib import Path

ID, SECRET = "worker-1", "s3cret"


@pytest.mark.timeout(60)
def test_f8_a_killed_workers_files_are_gone_once_its_successor_has_started(tmp_path: Path) -> None:
    """The successor repeats the work with its own download and removes the dead worker's files."""
    temp, mark = tmp_path / "t", tmp_path / "mark"
    temp.mkdir()
    env = {"TMPDIR": str(temp), "KRUXIAFLOW_CLIENT_ID": ID, "KRUXIAFLOW_CLIENT_SECRET": SECRET}
    with (
        running_engine(credentials=(ID, SECRET)) as engine,
        running_host(tmp_path, "files_app:registry", "-p", "1", url=engine.url, env=env) as host,
    ):
        host.ready(1)
        [sent] = engine.submit("send", folder=str(tmp_path), size=100_000)
        engine.wait_for("complete", 1)
        reference = engine.output(sent)["result"]
        fast = {"retry": {"max_attempts": 3, "strategy": "fixed", "base_seconds": 0}}
        [held] = engine.submit("hold", settings=fast, reference=reference, mark=str(mark))
        pid, left = eventually(lambda: mark.exists() and mark.read_text().split(), "a held file")
        assert os.path.exists(left)
        os.kill(int(pid), signal.SIGKILL)
        engine.wait_for("complete", 2)
        assert engine.output(held)["result"] == 100_000
        eventually(lambda: not os.path.exists(left), "a sweep of what the dead one left")
        host.signal(signal.SIGTERM)
        assert host.wait() == 0
    assert not list(temp.glob("flowherd-files-*")), "who ends in order leaves nothing"
