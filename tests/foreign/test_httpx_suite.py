"""httpx's own tests of its async client and of its time limits, on connections of ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

HERE = Path(__file__).parent
SUITES = ("tests/client/test_async_client.py", "tests/test_timeouts.py")
CEILING_S = 60.0
SETTINGS = (
    "[pytest]\nfilterwarnings = error\nmarkers =\n    network: leaves this machine\n"  # theirs needs trio
)


@pytest.mark.timeout(150)
def test_the_async_client_of_httpx_passes_its_own_tests_on_our_connections(
    httpx_sdist: Path, tmp_path: Path
) -> None:
    """performance.md, conclusion 1: the pool is a transport of httpx, whatever a client asks of it."""
    skips = tomllib.loads((HERE / "httpx_skips.toml").read_text())
    shutil.copytree(httpx_sdist / "tests", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    shutil.copy(HERE / "httpx_inside.py", tmp_path / "conftest.py")
    report = tmp_path / "report.xml"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:cacheprovider", "--tb=short",
         f"--junitxml={report}", *SUITES],
        cwd=tmp_path, env={**os.environ, "HTTPX_SKIPS": json.dumps(skips)},
        capture_output=True, text=True, timeout=CEILING_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    cases = [_case(case) for case in ET.parse(report).iter("testcase")]
    ran = Counter(name for name, was_skipped in cases if not was_skipped)
    assert {name for name, was_skipped in cases if was_skipped} == set(skips)
    assert sum(ran.values()) >= 60, "the suite was there, but hardly a test of it ran"
    assert set(ran.values()) >= {2}, "each on two event loops"


def _case(case: ET.Element) -> tuple[str, bool]:
    """The test as pytest names it, without its parameters; and whether it was skipped."""
    module = case.get("classname", "").replace(".", "/")
    return f"{module}.py::{case.get('name', '').partition('[')[0]}", case.find("skipped") is not None
