"""Hosts and commands under unusual conditions (faults.md N14): without streams, without descriptors."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
from harness import APPS, CEILING_S, Engine, clean_environment, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALL = "0<&- 1>&- 2>&-"
ODD = ["0<&-", "1>&-", "2>&-", ALL, "1>/dev/full 2>/dev/full"]
PROGRAM = [sys.executable, "-m", "flowherd_supervisor"]
NOBODY = "http://127.0.0.1:9"


def begin(redirections: str, folder: Path, *words: str, limit: str = "") -> subprocess.Popen[bytes]:
    """Starts `flowherd` as a shell does; its output goes to files in `folder` unless redirected."""
    shell = f'{limit} exec "$@" >{folder}/out 2>{folder}/err {redirections}'
    env = clean_environment(XDG_RUNTIME_DIR=str(folder))
    return subprocess.Popen(["/bin/sh", "-c", shell, "sh", *PROGRAM, *words], env=env, cwd=folder)


@contextlib.contextmanager
def hosts(folder: Path, engine: Engine) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A host for each condition, each with its own worker type; ended with the block."""
    started = []
    try:
        for number, redirections in enumerate(ODD):
            own = folder / str(number)
            own.mkdir()
            words = ["run", "sample_app:registry", "--app-dir", str(APPS), "--admin", "off", "-p", "1"]
            words += ["--api-url", engine.url, "--worker", f"odd-{number}"]
            started.append(begin(redirections, own, *words))
        yield started
    finally:
        for host in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                host.terminate()
                host.wait(CEILING_S)
            host.kill()
            host.wait()


@pytest.mark.timeout(90)
def test_n14_a_host_boots_and_works_whichever_of_its_streams_are_closed_or_full(
    engine: Engine, tmp_path: Path
) -> None:
    """N14: a pipe or socket with the descriptor of a closed stream used to end the keeper repeatedly."""
    for number in range(len(ODD)):
        engine.submit("hello", 1, worker=f"odd-{number}", name="Ada")
    with hosts(tmp_path, engine) as started:
        engine.wait_for("complete", len(ODD))
        for host in started:
            host.send_signal(signal.SIGTERM)
        assert [host.wait(CEILING_S) for host in started] == [0] * len(ODD)
    assert set(engine.claims_per_activity().values()) == {1}
    for number in range(len(ODD)):
        said = (tmp_path / str(number) / "err").read_text()
        assert not {"keeper_died", "preload_died", "Traceback"} & set(said.replace('"', " ").split())


@pytest.mark.timeout(60)
def test_n14_commands_end_as_ever_without_streams_and_say_so_on_a_full_disk(tmp_path: Path) -> None:
    """N14: `status` finds no supervisor, `submit` no engine; unwritable output is one sentence and exit 1."""
    started = {}
    for code, redirections, words in [
        (2, ALL, ["status"]),
        (1, ALL, ["submit", "x", "--api-url", NOBODY]),
        (1, "1>/dev/full", ["config", "schema"]),
        (1, "1>/dev/full", ["--help"]),
    ]:
        own = tmp_path / str(len(started))
        own.mkdir()
        started[own] = code, begin(redirections, own, *words)
    for own, (code, program) in started.items():
        assert program.wait(CEILING_S) == code, (own / "err").read_text()
        if program.args[-1] in {"schema", "--help"}:  # type: ignore[index]
            [line] = (own / "err").read_text().splitlines()
            assert line == "flowherd: the output cannot be written: No space left on device"


@pytest.mark.timeout(60)
def test_n14_an_engine_that_cannot_print_its_address_serves_anyway(tmp_path: Path) -> None:
    """N14: the line is lost, and nothing else happens."""
    engines = []
    for number, redirections in enumerate(("1>/dev/full", ALL)):
        own = tmp_path / str(number)
        own.mkdir()
        port = free_port()
        engines.append((begin(redirections, own, "engine", "--port", str(port)), port))
    try:
        for program, port in engines:
            eventually(lambda port=port: serves(port), "an engine that serves")
            program.send_signal(signal.SIGTERM)
            assert program.wait(CEILING_S) == 0
    finally:
        for program, _ in engines:
            program.kill()
            program.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def serves(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5.0).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


@pytest.mark.timeout(30)
def test_n14_too_few_descriptors_are_one_sentence_and_exit_2(tmp_path: Path) -> None:
    """N14: `ulimit -n 64` used to cause a traceback."""
    words = ["run", "sample_app:registry", "--app-dir", str(APPS), "--api-url", NOBODY]
    program = begin("", tmp_path, *words, limit="ulimit -n 64;")
    assert program.wait(CEILING_S) == 2
    [line] = (tmp_path / "err").read_text().splitlines()
    assert line.startswith("flowherd: ")
    assert "at most 64 are allowed" in line
