"""The conditions under which tests run are themselves tested: a user's environment must not reach them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import structlog

LOOK = """
import os
def test_look():
    assert [name for name in os.environ if name.startswith("KRUXIAFLOW_") or name == "FLOWHERD_SEAT"] == []
"""


def test_settings_of_the_user_do_not_reach_a_test(tmp_path) -> None:
    """Interface: everybody who runs the engine has its variables exported."""
    conftest = Path(__file__).parent / "conftest.py"
    (tmp_path / "conftest.py").write_text(conftest.read_text(encoding="utf-8"))
    (tmp_path / "test_look.py").write_text(LOOK)
    hostile = {
        "KRUXIAFLOW_API_URL": "http://production",
        "KRUXIAFLOW_CLIENT_SECRET": "s",
        "FLOWHERD_SEAT": "3",
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
