"""What the pages of the three folders promise is tried as it is written there: commands, snippets, names of events."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import clean_environment, running_host

from flowherd.sdk.activity_decorator import definition_of
from flowherd.settings import sources
from flowherd.testing import run_activity_sync
from flowherd_supervisor.cli.main import app as command_line

if TYPE_CHECKING:
    from harness import Engine

ROOT = Path(__file__).parents[2]
PAGES = {
    folder: (ROOT / folder / "README.md").read_text(encoding="utf-8")
    for folder in ("deploy", "worker", "supervisor")
}
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUIET = frozenset(
    {"late_news", "order_not_for_workers", "order_not_for_keepers"}
)  # of our own making, and harmless


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


def snippet(name: str) -> str:
    """The one Python block of a page that begins with this file name."""
    [found] = [
        text
        for page in (*PAGES.values(), README)
        for text in blocks(page, "python")
        if text.startswith(f"# {name}\n")
    ]
    return found


SHELL = [line for page in PAGES.values() for text in blocks(page, "sh") for line in text.splitlines()]


@pytest.mark.timeout(180)
def test_every_command_of_a_page_runs_on_a_live_host(engine: Engine, tmp_path: Path) -> None:
    """In the order in which a reader meets them; the last one ends the host."""
    (tmp_path / "my_app.py").write_text(snippet("my_app.py"), encoding="utf-8")
    lines = sorted(SHELL, key=lambda line: "drain" in line)
    assert len(lines) == len(set(lines)) >= 6
    with running_host(tmp_path, "my_app:registry", "-p", "2", url=engine.url, app_dir=tmp_path) as host:
        host.ready(2)
        env = clean_environment(
            KRUXIAFLOW_API_URL=engine.url,
            XDG_RUNTIME_DIR=str(tmp_path / "r"),
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        )
        for line in lines:
            done = subprocess.run(
                line,
                shell=True,
                cwd=tmp_path,
                env=env,
                capture_output=True,
                text=True,
                timeout=40,
                check=False,
            )
            assert done.returncode == 0, (line, done.stdout, done.stderr)
        assert host.wait() == 0


@cache
def helps() -> str:
    """What the commands with flags say of them."""
    return "".join(
        subprocess.run(
            [sys.executable, "-m", "flowherd_supervisor", *command.split(), "--help"],
            env=clean_environment(COLUMNS="200"),
            capture_output=True, text=True, timeout=30, check=True,
        ).stdout
        for command in ("run", "advise", "top", "engine", "submit", "ctl cancel", "check")
    )  # fmt: skip


@pytest.mark.parametrize("folder", PAGES)
def test_every_command_named_in_prose_exists(folder: str) -> None:
    """A renamed command or flag must not live on in a table."""
    known = helps()
    lines = PAGES[folder].splitlines()
    page = "\n".join(line for line in lines if "tests/bench/" not in line)  # scripts have flags of their own
    for words in re.findall(r"`flowherd ((?:[a-z]+ ?)+)", page):
        command, *rest = words.split()
        assert command in {*command_line}, words
        assert command not in {"ctl", "config"} or rest[:1] == [] or rest[0] in {*command_line[command]}, (
            words
        )
    for flag in set(re.findall(r"`(--[a-z][a-z-]+)", page)) - {"--strict", "--build-arg", "--init"}:
        assert flag in known, f"{flag} is in {folder}/README.md, but no command knows it"


def test_the_settings_of_the_page_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key is one there is, and every value one that it takes."""
    monkeypatch.chdir(tmp_path)
    for text in [
        text for folder in ("deploy", "worker", "supervisor") for text in blocks(PAGES[folder], "toml")
    ]:
        (tmp_path / "flowherd.toml").write_text(text)
        settings = sources.load({}).settings
    assert (settings.processes, settings.concurrency, settings.graceful_timeout) == (4, 32, 60.0)
    assert settings.activities["resize"].max_concurrent == 2


def handler(folder: Path, name: str) -> Any:
    """The only activity of a snippet."""
    (folder / name).write_text(snippet(name), encoding="utf-8")
    [found] = [
        value for value in runpy.run_path(str(folder / name)).values() if definition_of(value) is not None
    ]
    return found


def test_the_task_that_came_from_celery_works(tmp_path: Path) -> None:
    """Its output, and the failure that ends it for good."""
    charge = handler(tmp_path, "from_celery.py")
    assert run_activity_sync(charge, {"customer": "ada", "cents": 5}).output["receipt"] == "ada-5"
    refused = run_activity_sync(charge, {"customer": "ada", "cents": 0}).failure
    assert (refused.code, refused.retryable) == ("BAD_AMOUNT", False)


def test_the_activity_that_came_from_temporal_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """The checkpoint of one attempt is where the next begins."""
    copy_rows = handler(tmp_path, "from_temporal.py")
    first = run_activity_sync(copy_rows, {"rows": [7, 8, 9]})
    assert (first.output, first.checkpoint) == ({"copied": 3, "of": 3}, 3)
    again = run_activity_sync(copy_rows, {"rows": [7, 8, 9]}, checkpoint=2)
    assert again.output == {"copied": 1, "of": 3}


def test_the_test_of_the_page_passes(tmp_path: Path) -> None:
    """Run as its reader would, by pytest."""
    (tmp_path / "test_my_handlers.py").write_text(snippet("test_my_handlers.py"), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "1 passed" in done.stdout, done.stdout


@pytest.mark.timeout(150)
def test_the_test_of_an_app_passes(tmp_path: Path) -> None:
    """With a real engine and a real supervisor, started by the plugin that comes with the package."""
    for name in ("my_app.py", "test_my_app.py"):
        (tmp_path / name).write_text(snippet(name), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert "1 passed" in done.stdout, done.stdout


def test_every_snippet_of_a_page_has_a_test() -> None:
    """A block that nobody runs is wrong one day."""
    tried = {"from_celery.py", "from_temporal.py", "test_my_handlers.py", "test_my_app.py"}
    for page in PAGES.values():
        for text in blocks(page, "python"):
            assert shlex.split(text.splitlines()[0][1:])[0] in tried
        assert set(re.findall(r"^```(\w*)$", page, flags=re.MULTILINE)) <= {"python", "sh", "toml", ""}


def loud_events() -> set[str]:
    """Every event that some file logs as a warning or an error."""
    logged = re.compile(r'log\.(?:warning|error|exception)\(\s*"([a-z_]+)"')
    said = re.compile(r'(?:say|log\.log)\([^"]{0,120}(?:WARNING|ERROR)[^"]{0,120}"([a-z_]+)"')
    noted = re.compile(r'note\(\s*"([a-z_]+)",\s*(?:actions\.)?Level\.(?:WARNING|ERROR)')
    found: set[str] = set()
    for root in ("worker/flowherd", "supervisor/flowherd_supervisor"):
        for path in (ROOT / root).rglob("*.py"):
            if "demo" not in path.parts:
                text = path.read_text(encoding="utf-8")
                found |= {*logged.findall(text), *said.findall(text), *noted.findall(text)}
    return found


def test_every_warning_and_error_of_the_log_is_explained_and_none_that_there_is_not() -> None:
    """Troubleshooting by message: what somebody finds in a log, they find on the page."""
    table = PAGES["deploy"].partition("line of the log mean?")[2].partition("\n## ")[0]
    explained = {
        name
        for row in table.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`([a-z_]+)`", row.split("|")[1])
    }
    events = loud_events()
    assert len(events) > 40
    assert events - explained - QUIET == set(), "not explained in deploy/README.md"
    assert explained - events - {"reload_refused", "process_died"} == set(), "explained, but never logged"
