"""Fetches foreign packages for one test run, with the tools' own settings."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from foreign.rust_scenarios import CRATE

FETCH_S = 60.0
# The build back ends are in the `test` extra: an environment for each sdist would take longer than the tests.
PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:")
PIP += ("--no-build-isolation", "--disable-pip-version-check", "--retries", "1", "--timeout", "10")


@pytest.fixture(scope="session")
def fetched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that keeps packages from one run to the next."""
    cache = getattr(request.config, "cache", None)
    return Path(cache.mkdir("foreign")) if cache is not None else tmp_path_factory.mktemp("foreign")


@pytest.fixture(scope="session")
def llhttp_replies(fetched: Path) -> Path:
    """llhttp's reply corpus; its own packages carry no tests, aiohttp's sdist carries all of it."""
    return _sdist("aiohttp", "3.14.5", fetched) / "vendor" / "llhttp" / "test" / "response"


@pytest.fixture(scope="session")
def kruxiaflow_crate(fetched: Path) -> Path:
    """The Rust worker, in the release whose scenarios we have rows for."""
    cargo = shutil.which("cargo")
    if cargo is None:
        pytest.skip("cargo is not installed: the crate kruxiaflow-worker cannot be fetched")
    home = fetched / "cargo"
    _run(
        [cargo, "info", "--quiet", f"kruxiaflow-worker@{CRATE}"],
        "the crate kruxiaflow-worker",
        {"CARGO_HOME": str(home)},
    )
    found = sorted(home.glob("registry/src/*/kruxiaflow-worker-*"), key=lambda path: path.stat().st_mtime)
    if not found:
        pytest.skip("cargo fetched no crate kruxiaflow-worker")
    return found[-1]


def _sdist(name: str, release: str, folder: Path) -> Path:
    unpacked = folder / f"{name}-{release}"
    if not unpacked.exists():
        with tempfile.TemporaryDirectory(dir=folder) as part:  # another process may be fetching it too
            _run([*PIP, "--dest", part, f"{name}=={release}"], f"the sdist of {name} {release}", {})
            archive = Path(part, f"{name}-{release}.tar.gz")
            _run(
                ["tar", "--no-same-owner", "-xzf", str(archive), "-C", part],
                f"the archive {archive.name}",
                {},
            )
            with contextlib.suppress(OSError):  # the other process was first
                Path(part, unpacked.name).rename(unpacked)
    return unpacked


def _run(words: list[str], what: str, environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            words,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=FETCH_S,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip(f"{what} cannot be fetched: {words[0]} is not installed")
    except subprocess.TimeoutExpired:
        pytest.skip(f"{what} cannot be fetched within {FETCH_S:g} s")
    if done.returncode:
        said = (done.stderr.strip() or "no reason given").splitlines()[-1]
        pytest.skip(f"{what} cannot be fetched: {said}")
