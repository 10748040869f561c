"""The bench as a user runs it: real engine, real processes, a picture; short, so its figures mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)
APPS = Path(__file__).parent / "apps"
HOSTILE = {
    "KRUXIAFLOW_API_URL": "http://127.0.0.1:9",
    "KRUXIAFLOW_CLIENT_ID": "production",
    "KRUXIAFLOW_CLIENT_SECRET": "production",
    "KRUXIAFLOW_WORKER_PROCESSES": "no number",
    "HTTP_PROXY": "http://127.0.0.1:9",
}
KEYS = {"processes", "activities", "completed", "failed", "lost", "duplicates", "wall_s", "activities_per_s"}


def bench(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowherd_supervisor", "bench", *words],
        cwd=folder, env={**os.environ, **HOSTILE}, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


@pytest.mark.soak
def test_our_loads_are_measured_and_drawn(tmp_path: Path) -> None:
    """A list of runs with the demo's keys; no variable of the user reaches them."""
    done = bench(
        tmp_path,
        "--loads",
        "cpu,io",
        "-p",
        "1",
        "--seconds",
        "0.5",
        "--repeat",
        "1",
        "--json",
        "--plot",
        "a.svg",
    )
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)
    assert [(run["load"], run["processes"]) for run in runs] == [("cpu", 1), ("io", 1)]
    for run in runs:
        assert run.keys() >= KEYS
        assert run["completed"] == run["activities"] >= 40
        assert (run["failed"], run["lost"], run["duplicates"]) == (0, 0, 0)
        assert run["activities_per_s"] > 0
        assert 0 < run["engine_cpu"] < 2
    assert "ideal" in (tmp_path / "a.svg").read_text()


def test_a_users_own_activity_is_measured(tmp_path: Path) -> None:
    done = bench(
        tmp_path, "sample_app:registry", "--app-dir", str(APPS), "--activity", "hello", "-P", "name=Ada",
        "-p", "1", "--activities", "25", "--repeat", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "hello: 1 process was all that was measured." in done.stdout


def test_an_app_that_does_not_import_is_named(tmp_path: Path) -> None:
    done = bench(tmp_path, "nowhere:registry", "--activity", "x", "--activities", "1", "--repeat", "1")
    assert done.returncode == 1
    assert "nowhere" in done.stderr
