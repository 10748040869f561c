"""Every command and every file of the pages is tried as it is written there, against a real engine and a real host."""

from __future__ import annotations

import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import clean_environment, eventually, running_host
from pages_kit import PAGES

from flowherd.sdk.activity_decorator import definition_of
from flowherd.settings import sources
from flowherd.testing import run_activity_sync
from flowherd_supervisor.cli.commands import app as command_line
from flowherd_supervisor.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from harness import Engine

README = "README.md"
GUIDE = {path: page for path, page in PAGES.items() if path not in {README, ".github/CONTRIBUTING.md"}}
PYTEST = "python -m pytest -q"
ENDS = re.compile(r"  # exits with (\d)$")


class Reader:
    """Somebody who types the commands of a page in a folder; what they start in the background ends with them.

    Args:
        folder: has the files of the page.
        url: of the engine.

    """

    def __init__(self, folder: Path, url: str) -> None:
        (folder / "r").mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._programs: list[subprocess.Popen[bytes]] = []
        self._env = clean_environment(
            KRUXIAFLOW_API_URL=url,
            KRUXIAFLOW_WORKER_ADMIN="127.0.0.1:0",
            XDG_RUNTIME_DIR=str(folder / "r"),
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            PYTEST_ADDOPTS="-p no:cacheprovider",
        )

    def type(self, line: str) -> None:
        """Runs one line: to its end, or until its host is ready."""
        if line.startswith("cd "):
            self._folder /= line.removeprefix("cd ")
        elif line.endswith(" &"):
            command = f"exec {line.removesuffix(' &')}"
            self._programs.append(
                subprocess.Popen(command, shell=True, cwd=self._folder, env=self._env, start_new_session=True)
            )
            eventually(lambda: self._run("flowherd status").returncode == 0, line)
        else:
            done = self._run(line)
            expected = int(found[1]) if (found := ENDS.search(line)) else 0
            assert done.returncode == expected, (line, done.stdout, done.stderr)

    def _run(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            line, shell=True, cwd=self._folder, env=self._env, capture_output=True, text=True, timeout=100, check=False
        )  # fmt: skip

    def leave(self) -> None:
        """Ends what still runs; each host must have drained."""
        for program in self._programs:
            program.terminate()
        assert [program.wait(timeout=40) for program in self._programs] == [0] * len(self._programs)


@pytest.fixture
def reader(engine: Engine, tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path, engine.url)
    yield reader
    reader.leave()


def write_files(paths: Iterable[str], folder: Path) -> None:
    """All files of these pages."""
    for path in paths:
        for name, text in PAGES[path].files.items():
            assert not (folder / name).exists(), f"two pages have a {name}"
            (folder / name).write_text(text, encoding="utf-8")


TESTS_ALONE = [path for path, page in GUIDE.items() if page.commands == [PYTEST]]
WITH_A_HOST = [
    path for path, page in GUIDE.items() if any(line.startswith("flowherd run") for line in page.commands)
]
ON_A_HOST = [
    path for path, page in GUIDE.items() if page.commands and path not in {*TESTS_ALONE, *WITH_A_HOST}
]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("path", WITH_A_HOST)
def test_every_command_of_a_page_does_what_it_says(path: str, reader: Reader, tmp_path: Path) -> None:
    """In the order in which a reader meets them."""
    write_files([path], tmp_path)
    for line in PAGES[path].commands:
        reader.type(line)


@pytest.mark.timeout(240)
def test_the_commands_of_pages_about_a_host_work_on_one(reader: Reader, tmp_path: Path) -> None:
    """Each once, on a host of the README's app; the one that ends it comes last."""
    write_files([README, *ON_A_HOST], tmp_path)
    lines = dict.fromkeys(line for path in ON_A_HOST for line in PAGES[path].commands)
    assert len(lines) > 10
    reader.type("flowherd run my_app:registry -p 2 >host.log 2>&1 &")
    for line in sorted(lines, key=lambda line: "drain" in line):
        reader.type(line)


@pytest.mark.timeout(240)
def test_the_tests_on_the_pages_pass(tmp_path: Path) -> None:
    """All at once, by pytest, as their readers would run them; one starts an engine and a host."""
    write_files(TESTS_ALONE, tmp_path)
    names = [name for path in TESTS_ALONE for name in PAGES[path].files if name.startswith("test_")]
    assert len(names) >= len(TESTS_ALONE) > 3
    command = [sys.executable, *PYTEST.split()[1:], "-p", "no:cacheprovider"]
    env = clean_environment(PATH=os.environ["PATH"])
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", [path for path, page in GUIDE.items() if page.files])
def test_every_python_file_of_a_page_is_run_by_somebody(path: str) -> None:
    """By its page's pytest, as the app of its commands, or by a test below."""
    page = PAGES[path]
    shell = "\n".join(page.commands)
    tested = "\n".join(text for name, text in page.files.items() if name.startswith("test_"))
    for name in page.files:
        module = name.removesuffix(".py")
        if name.startswith("test_"):
            assert "pytest" in shell, name
        elif name.endswith(".py") and name not in TRIED:
            assert re.search(rf"\b(?:from {module} import|{module}:)", tested + shell), name


@pytest.mark.parametrize("path", PAGES)
def test_every_block_of_code_is_a_file_or_a_command(path: str) -> None:
    """A block that nobody runs is wrong one day; output and pictures have no language of their own."""
    known = {*PAGES[path].files.values()}
    if path in {"worker/docs/protocol.md", ".github/CONTRIBUTING.md"}:
        return
    assert [
        text
        for language, text in PAGES[path].blocks
        if language in {"python", "toml", "yaml"} and text not in known
    ] == []


@cache
def helps() -> str:
    """What the commands with flags say of them."""
    words = (
        "run",
        "init",
        "advise",
        "top",
        "engine",
        "submit",
        "explain",
        "ctl cancel",
        "ctl reload",
        "check",
        "demo",
        "bench",
    )
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.setenv("COLUMNS", "200")
        for command in words:
            with pytest.raises(SystemExit):
                main([*command.split(), "--help"])
    return said.getvalue()


OTHERS_FLAGS = frozenset(
    {
        "--strict",
        "--build-arg",
        "--init",
        "--engine-url",
        "--soak",
        "--profile",
        "--only",
        "--newest",
        "--insecure-dev",
    }
)


@pytest.mark.parametrize("path", PAGES)
def test_every_command_and_flag_named_in_prose_exists(path: str) -> None:
    """A renamed command or flag must not live on in a table."""
    lines = PAGES[path].prose.splitlines()
    page = "\n".join(line for line in lines if "tests/" not in line)  # scripts have flags of their own
    for words in re.findall(r"`flowherd ((?:[a-z]+ ?)+)", page):
        command, *rest = words.split()
        assert command in {*command_line}, words
        assert command not in {"ctl", "config"} or rest[:1] == [] or rest[0] in {*command_line[command]}, (
            words
        )
    for flag in set(re.findall(r"`(--[a-z][a-z-]+)", page)) - OTHERS_FLAGS:
        assert flag in helps(), f"{flag} is in {path}, but no command knows it"


@pytest.mark.parametrize(
    ("path", "name"),
    [(path, name) for path, page in PAGES.items() for name in page.files if name.endswith(".toml")],
)
def test_the_settings_of_a_page_are_read(path: str, name: str, tmp_path: Path) -> None:
    """Every key is one there is, and every value one that it takes."""
    (tmp_path / name).write_text(PAGES[path].files[name])
    assert sources.load({}, tmp_path / name).origins


def snippet(name: str) -> str:
    """The file of this name, wherever it is shown."""
    [found] = [page.files[name] for page in PAGES.values() if name in page.files]
    return found


def loaded(folder: Path, name: str) -> dict[str, Any]:
    """What a file defines."""
    (folder / name).write_text(snippet(name), encoding="utf-8")
    return runpy.run_path(str(folder / name))


def celery(there: dict[str, Any]) -> None:
    """Its output, and the failure that ends it for good."""
    charge = there["charge"]
    assert run_activity_sync(charge, {"customer": "ada", "cents": 5}).output["receipt"] == "ada-5"
    refused = run_activity_sync(charge, {"customer": "ada", "cents": 0}).failure
    assert (refused.code, refused.retryable) == ("BAD_AMOUNT", False)


def temporal(there: dict[str, Any]) -> None:
    """The checkpoint of one attempt is where the next begins."""
    copy_rows = there["copy_rows"]
    first = run_activity_sync(copy_rows, {"rows": [7, 8, 9]})
    assert (first.output, first.checkpoint) == ({"copied": 3, "of": 3}, 3)
    assert run_activity_sync(copy_rows, {"rows": [7, 8, 9]}, checkpoint=2).output == {"copied": 1, "of": 3}


def lifespan(there: dict[str, Any]) -> None:
    """It can be registered: a host of it is what test_lifespan.py tries."""
    registry = there["registry"]
    registry.check()
    assert registry.lifespan is not None
    assert all(definition_of(there[name]) for name in registry.names())


TRIED: dict[str, Callable[[dict[str, Any]], None]] = {
    "from_celery.py": celery,
    "from_temporal.py": temporal,
    "from_arq.py": lifespan,
    "lifespan_app.py": lifespan,
}


@pytest.mark.parametrize("name", TRIED)
def test_a_file_that_no_command_of_its_page_runs_does_what_the_page_says(name: str, tmp_path: Path) -> None:
    TRIED[name](loaded(tmp_path, name))


@pytest.mark.timeout(90)
def test_the_recipe_for_scripts_in_isolates_starts(engine: Engine, tmp_path: Path) -> None:
    """The command in prose with its file; what it then does is tested with isolates."""
    pytest.importorskip("kruxiaflow", reason="hosts the stock SDK's script: pip install kruxiaflow==0.4.0")
    (tmp_path / "script.toml").write_text(snippet("script.toml"), encoding="utf-8")
    [line] = re.findall(
        r"^`(flowherd run kruxiaflow.*)`$", PAGES["worker/docs/execution.md"].text, flags=re.MULTILINE
    )
    _, _, app, *flags = shlex.split(line)
    with running_host(tmp_path, app, *flags, url=engine.url, app_dir=tmp_path) as host:
        host.ready(1)
        assert [row["activity"] for row in host.status()["by_activity"]] == ["script"]
