"""`max_concurrent` in the settings file holds for all processes of the host together, and through the end of one."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import TYPE_CHECKING

from harness import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness import Engine, Host


def test_one_at_a_time_means_one_on_the_whole_host_also_when_its_process_is_killed(
    engine: Engine, run_host: Callable[..., Host], tmp_path: Path
) -> None:
    """The handlers' own journal shows overlaps; the kernel frees the dead process's permit."""
    config = tmp_path / "flowherd.toml"
    config.write_text("[activities.wait]\nmax_concurrent = 1\n")
    host = run_host(
        "sample_app:registry", "-c", "12", "--poll-max", "2", "--graceful-timeout", "1",
        "--config", str(config), processes=3, url=engine.url,
    )  # fmt: skip
    journal = tmp_path / "journal"
    engine.submit("wait", seconds=60, journal=str(journal))
    eventually(journal.exists, "one that runs")
    engine.submit("wait", 12, seconds=0.02, journal=str(journal))
    engine.wait_for("claim", 10)
    assert journal.read_text().count("start") == 1
    os.kill(int(journal.read_text().split()[2]), signal.SIGKILL)
    engine.wait_for("complete", 8)
    running, pids = 0, Counter[str]()
    for line in journal.read_text().splitlines()[1:]:
        event, _, pid = line.split()
        running += 1 if event == "start" else -1
        pids[pid] += 1
        assert running in {0, 1}
    assert len(pids) >= 2, "the others had no turn"
    assert host.process.poll() is None
