"""Rivals that cannot be built are left out with the reason, and built ones are found."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from bench.made import Unavailable, rust_program, tuned_python

if TYPE_CHECKING:
    from pathlib import Path


def a_cargo(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The only one that is found."""
    file = folder / "cargo"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin{os.pathsep}/usr/bin")


def test_without_cargo_the_reason_is_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="no cargo"):
        rust_program()


def test_a_build_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_cargo(tmp_path, monkeypatch, "echo 'rustc 1.70 is not supported' >&2; exit 101")
    with pytest.raises(Unavailable, match=r"cargo: CalledProcessError: rustc 1\.70 is not supported"):
        rust_program()


def test_the_program_is_what_cargo_says_it_has_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever its target directory is."""
    messages = ({"executable": None}, {"executable": "/built/bench-worker"}, {"success": True})
    a_cargo(tmp_path, monkeypatch, "\n".join(f"echo '{json.dumps(message)}'" for message in messages))
    assert rust_program() == "/built/bench-worker"


def test_a_build_without_a_program_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_cargo(tmp_path, monkeypatch, "true")
    with pytest.raises(Unavailable, match="no program"):
        rust_program()


def test_an_environment_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(Unavailable, match="no environment"):
        tuned_python(file)
