"""Every example has all that a reader needs, stands in the list, and is run by a test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
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
    assert 8 <= len((folder / "README.md").read_text(encoding="utf-8").splitlines()) <= 25


def test_the_list_names_every_example_and_nothing_else():
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[(\w+)\]\(\1/\)", page, flags=re.MULTILINE)) == [
        folder.name for folder in FOLDERS
    ]


def test_every_example_is_run():
    """By its folder's name, in a test beside this one."""
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert {folder.name for folder in FOLDERS} == set(re.findall(r'run_example\(\s*"(\w+)"', tests))
