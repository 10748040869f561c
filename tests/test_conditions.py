"""Tests of the conditions under which tests run: the user's environment must not reach them."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import structlog
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]

LOOK = """
import os
def test_look():
    assert [name for name in os.environ if name.startswith("KRUXIAFLOW_") or name == "FLOWHERD_PROCESS_INDEX"] == []
"""


def test_settings_of_the_user_do_not_reach_a_test(tmp_path) -> None:
    """Users of the engine have its variables exported."""
    conftest = Path(__file__).parent / "conftest.py"
    (tmp_path / "conftest.py").write_text(conftest.read_text(encoding="utf-8"))
    (tmp_path / "test_look.py").write_text(LOOK)
    hostile = {
        "KRUXIAFLOW_API_URL": "http://production",
        "KRUXIAFLOW_CLIENT_SECRET": "s",
        "FLOWHERD_PROCESS_INDEX": "3",
    }
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        words, env=os.environ | hostile, capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout


def test_events_reach_caplog_and_never_stdout(caplog, capfd) -> None:
    """structlog's own default prints to stdout, which belongs to JSON documents."""
    structlog.stdlib.get_logger("flowherd").warning("seen", process=2)
    assert [record.message for record in caplog.records] == ["event='seen' process=2"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("python", ["3.11.2", "3.12.0", "3.13.0", "3.14.0"])
def test_ci_installs_each_package_in_one_exact_version_that_we_ask_for(python) -> None:
    """A package without a pinned version is the newest of the day, and can break an unchanged build."""
    here = default_environment() | {
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
    }
    pinned = {}
    for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        constraint = Requirement(line)
        if constraint.marker is None or constraint.marker.evaluate(here):
            [exact] = constraint.specifier
            assert exact.operator == "=="
            assert constraint.name not in pinned
            pinned[constraint.name] = exact.version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["build-system"]["requires"], *project["project"]["dependencies"], "pip"]
    asked += [line for extra in project["project"]["optional-dependencies"].values() for line in extra]
    for wanted in map(Requirement, asked):
        if wanted.name != "flowherd":
            assert wanted.specifier.contains(pinned[wanted.name.lower()]), wanted


def test_an_order_that_ci_does_not_know_is_refused() -> None:
    """A slip in `--newest` must not pass for a run of the newest packages."""
    done = subprocess.run(
        [ROOT / ".ci" / "run", "--newst"], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert "usage" in done.stderr
