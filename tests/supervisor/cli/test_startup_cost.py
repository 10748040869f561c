"""Importing flowherd, or showing help, imports no library that is not needed for it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from harness import clean_environment

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = {"asyncio", "httpx", "msgspec", "pydantic", "rich", "structlog", "uvicorn", "prometheus_client"}
AN_APP = "from flowherd import ActivityContext, ActivityError, Registry, activity"
SUPERVISOR_PROGRAM = "from flowherd_supervisor.cli.main import main_supervisor; main_supervisor()"
FLAGS = ["-p", "2", "--api-url", "http://127.0.0.1:9", "--admin", "off"]
HELP = "from flowherd_supervisor.cli.main import main\ntry: main({words!r})\nexcept SystemExit: pass"


def imported_by(code: str) -> set[str]:
    """Returns the top-level modules that a program has imported at its end."""
    said = "import sys; sys.stderr.write(' '.join({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{said}"], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("code", "unneeded"),
    [
        ("import flowherd", HEAVY),
        (AN_APP, {"httpx", "rich", "structlog", "uvicorn", "prometheus_client"}),
        (HELP.format(words=["--help"]), HEAVY - {"rich"} | {"markdown_it"}),
        (HELP.format(words=["--version"]), HEAVY - {"rich"} | {"markdown_it"}),
        (HELP.format(words=["ctl", "--help"]), HEAVY - {"rich"} | {"markdown_it"}),
    ],
    ids=["import", "an app", "help", "version", "help of a command"],
)
def test_what_is_not_needed_is_not_imported(code: str, unneeded: set[str]) -> None:
    """These take most of the time that a bare start takes: pydantic and asyncio 40 ms each, structlog 70."""
    assert imported_by(code) & unneeded == set()


def test_every_public_name_is_there_and_listed() -> None:
    """They are imported when they are first asked for."""
    listed = "import flowherd\nassert set(flowherd.__all__) <= set(dir(flowherd))"
    assert "pydantic" in imported_by(f"{listed}\nfrom flowherd import *\nactivity, Usage")
    wrong = subprocess.run(
        [sys.executable, "-c", "from flowherd import activty"], capture_output=True, text=True, check=False
    )
    assert "cannot import name 'activty' from 'flowherd'" in wrong.stderr


@pytest.mark.fork
@pytest.mark.parametrize(
    "words",
    [
        ["-m", "flowherd_supervisor", "run", "seen:registry"],
        [
            "-c",
            "from flowherd_supervisor.cli.main import main_supervisor; main_supervisor()",
            "seen:registry",
        ],
    ],
    ids=["flowherd run", "flowherd-supervisor"],
)
def test_no_process_of_a_host_has_what_only_commands_need(tmp_path: Path, words: list[str]) -> None:
    """An app sees what its host has imported: all processes would copy the parser and the colours, 7 MB."""
    app = """
import sys
from pathlib import Path
Path("seen.txt").write_text(" ".join({name.partition(".")[0] for name in sys.modules}))
from absent import registry
"""
    (tmp_path / "seen.py").write_text(app)
    done = subprocess.run(
        [sys.executable, *words],
        env=clean_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=40, check=False,
    )  # fmt: skip
    assert "No module named 'absent'" in done.stderr
    seen = set((tmp_path / "seen.txt").read_text().split())
    assert "flowherd_supervisor" in seen
    assert seen & {"cyclopts", "attrs", "rich", "pygments", "watchfiles", "markdown_it"} == set()
