"""Rivals that are not part of this environment, built on demand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
import tempfile
import venv
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RUST_WORKER = Path(__file__).parent / "apps" / "rust_worker"
CEILING_S = 1800.0


class Unavailable(Exception):
    """It is not available here; the text has the reason."""


def tuned_python(folder: Path) -> str:
    """Returns the Python of an environment in which the stock worker has sniffio and uvloop.

    It shares the packages of this one, so that both columns have the same versions, and adds missing ones.
    """
    try:
        stock = f"kruxiaflow=={version('kruxiaflow')}"
        venv.create(folder, with_pip=True)
    except (PackageNotFoundError, OSError, ValueError, subprocess.SubprocessError) as error:
        raise Unavailable(f"no environment: {type(error).__name__}: {error}") from error
    python = str(folder / "bin" / "python")
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    purelib = Path(_said([python, "-c", asked], "python").strip())
    (purelib / "bench.pth").write_text(sysconfig.get_path("purelib") + "\n")
    _said([python, "-m", "pip", "install", "-q", stock, "sniffio", "uvloop"], "pip")
    return python


def rust_program() -> str:
    """Builds the worker for the public Rust SDK in cargo's target folder; returns its path."""
    cargo = shutil.which("cargo")
    if cargo is None:
        raise Unavailable("no cargo")
    words = [cargo, "build", "--release", "--message-format", "json"]
    built = _said(words, "cargo", cwd=RUST_WORKER)
    messages = [json.loads(line) for line in built.splitlines() if line.startswith("{")]
    programs = [message["executable"] for message in messages if message.get("executable")]
    if not programs:
        raise Unavailable("cargo built no program")
    return str(programs[-1])


def _said(words: list[str], who: str, cwd: Path | None = None) -> str:
    """Returns a program's standard output, if it succeeds."""
    with tempfile.TemporaryFile("w+") as complaints:
        try:
            done = subprocess.run(
                words,
                cwd=cwd,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
                timeout=CEILING_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            complaints.seek(0)
            last = " ".join(complaints.read().split())[-300:]
            raise Unavailable(f"{who}: {type(error).__name__}: {last}") from error
    return done.stdout
