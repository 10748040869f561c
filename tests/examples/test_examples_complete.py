"""Every example has all that a reader needs, stands in the list, and is run by a test."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from examples_kit import EXAMPLES, commands

FOLDERS = sorted(path for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_an_example_has_an_app_a_definition_and_a_short_page(folder):
    """The page runs the app and submits the definition, and its text is read in a minute."""
    [definition] = folder.glob("*.yaml")
    app = folder / f"{definition.stem}.py"
    assert app.is_file()
    lines = commands(folder)
    assert [line for line in lines if line.startswith(f"flowherd run {app.stem}:")]
    assert [line for line in lines if line.startswith(f"flowherd submit --definition {definition.name}")]
    assert 8 <= len((folder / "README.md").read_text(encoding="utf-8").splitlines()) <= 40


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_its_commands_begin_in_a_clone_and_their_output_is_shown(folder):
    """A newcomer copies them in order, and compares."""
    [file] = folder.glob("*.yaml")
    definition = yaml.safe_load(file.read_text(encoding="utf-8"))
    lines = [line for line in commands(folder) if not line.startswith("pip install ")]
    assert lines[0] == f"cd worker/examples/{folder.name}"
    started = [line for line in lines if line.endswith(" &")]
    assert [line.split()[:2] for line in started] == [["flowherd", "engine"], ["flowherd", "run"]]
    page = (folder / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    [output] = [text for language, text in blocks if not language]
    head, *steps = output.splitlines()
    found = re.fullmatch(r"(\w+) [0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}: (completed|failed)", head)
    assert found is not None
    assert found[1] == definition["name"]
    if found[2] == "completed":
        keys = [step["key"] for step in definition["activities"]]
        assert [step.partition(": ")[0].strip() for step in steps] == keys
        assert all(json.loads(step.partition(": ")[2]) for step in steps)


def test_the_list_names_every_example_and_nothing_else():
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[(\w+)\]\(\1/\)", page, flags=re.MULTILINE)) == [
        folder.name for folder in FOLDERS
    ]


def test_every_example_is_run():
    """By its folder's name, in a test beside this one."""
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert {folder.name for folder in FOLDERS} == set(re.findall(r'run_example\(\s*"(\w+)"', tests))
