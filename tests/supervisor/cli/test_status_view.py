"""`flowherd status` as users meet it: whom it asks, what it shows, and what it says when there is nobody."""

from __future__ import annotations

import http.server
import io
import json
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from rich.console import Console
from status_kit import CHILD, DOCUMENT

from flowherd.errors import ConfigurationError
from flowherd.exit_codes import Exit
from flowherd_supervisor.cli.ask_supervisor import open_admin
from flowherd_supervisor.cli.status import render, show_status
from flowherd_supervisor.shell.admin_socket import AdminSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def serve() -> Iterator[Callable[[int, bytes], str]]:
    """A web server with one answer to everything; gives its address."""
    servers: list[http.server.HTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class OneAnswer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/api/status" else 404)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Stays quiet."""

        servers.append(http.server.HTTPServer(("127.0.0.1", 0), OneAnswer))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def shown(document: dict[str, Any], width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, markup=False)
    console.print(*render(document), sep="\n")
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_snapshot_fits_80_columns_and_holds_what_matters() -> None:
    """Users read process, slots, restarts."""
    lines = shown(DOCUMENT)
    assert lines[:4] == [
        "flowherd 0.1.0, pid 4710, running for 12s",
        "engine http://engine:8080: reachable, 3.1 ms",
        "3 of 4 processes ready, 7 of 16 slots in use, 1 restarts",
        "claimed 20, completed 17, failed 3, lost 0, settled after crash 1",
    ]
    assert " ".join(lines[4].split()) == "proc pid phase busy done failed restarts CPU% own MB up"
    assert lines[5].split() == ["0", "4711", "running", "2/4", "17", "3", "1", "97.0", "4.1", "12s"]
    assert lines[6].split() == ["1", "4711", "starting", "2/4", "17", "3", "1", "-", "-", "12s"]


def test_nothing_is_cut_at_80_columns_after_a_long_life() -> None:
    """Most terminals are 80 wide; counts and pids grow."""
    old = CHILD | {"process": 63, "pid": 4_194_304, "phase": "starting", "slots": 128, "in_flight": 128}
    old |= {"completed": 12_345_678, "failed": 123_456, "uss_mb": 12345.6, "cpu_percent": 100.0}
    lines = shown(DOCUMENT | {"children": [old | {"uptime_s": 30 * 86_400.0, "restarts": 1234}]})
    assert max(map(len, lines)) <= 80
    values = ["63", "4194304", "starting", "128/128", "12345678", "123456", "1234", "100", "12346", "30d00h"]
    assert lines[-1].split() == values


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.9, "59s"), (200, "3m20s"), (18_060, "5h01m"), (10**6, "11d13h")]
)
def test_ages_have_two_units_at_most(seconds: float, text: str) -> None:
    """They must stay short however old a process gets."""
    assert shown(DOCUMENT | {"children": [CHILD | {"uptime_s": seconds}]})[-1].split()[-1] == text


def test_an_engine_that_does_not_answer_is_said_loudly() -> None:
    """The first thing to look for when nothing runs."""
    gone = DOCUMENT | {"engine": {"url": "http://engine", "reachable": False, "rtt_ms": None}}
    assert shown(gone)[1] == "engine http://engine: NOT reachable"


def test_nothing_of_a_url_is_taken_for_markup() -> None:
    """An IPv6 address has brackets."""
    six = DOCUMENT | {"engine": {"url": "http://[fe80::1]:8080", "reachable": True, "rtt_ms": 1}}
    assert "http://[fe80::1]:8080" in shown(six)[1]


def test_json_is_the_document_as_it_was_served(
    serve: Callable[[int, bytes], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts read it: stdout is one document and nothing else."""
    address = serve(200, json.dumps(DOCUMENT).encode())
    assert show_status(admin=address, pid=None, as_json=True) == Exit.CLEAN
    assert json.loads(capsys.readouterr().out) == DOCUMENT


def test_in_a_pipe_no_column_is_cut(
    serve: Callable[[int, bytes], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`flowherd status | grep` must find a whole row."""
    big = DOCUMENT | {"children": [CHILD | {"completed": 10**12, "pid": 4_194_304, "uptime_s": 10**7}]}
    assert show_status(admin=serve(200, json.dumps(big).encode()), pid=None, as_json=False) == Exit.CLEAN
    assert "4194304" in (row := capsys.readouterr().out.splitlines()[5])
    assert "1000000000000" in row


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b"{}"), (500, b""), (200, b"<html>"), (200, b"[1]"), (200, b'{"status": "ok"}')],
)
def test_another_server_is_not_taken_for_a_supervisor(
    serve: Callable[[int, bytes], str], capsys: pytest.CaptureFixture[str], status: int, body: bytes
) -> None:
    """`--admin` with the engine's port is a likely mistake; a traceback is no answer."""
    assert show_status(admin=serve(status, body), pid=None, as_json=False) == Exit.INTERNAL
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("flowherd: ")
    assert len(err.splitlines()) <= 2


def test_nobody_at_the_address_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A supervisor that has just ended."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    assert show_status(admin=address, pid=None, as_json=True) == Exit.INTERNAL
    said = capsys.readouterr().err
    assert said == f"flowherd: --admin {address}: no answer: [Errno 111] Connection refused\n"


@pytest.mark.parametrize("address", ["off", "9464", "nonsense"])
def test_a_wrong_address_is_refused_by_its_flag(address: str) -> None:
    """Exit 2: it is a slip of the command line."""
    with pytest.raises(ConfigurationError, match=rf"--admin {address}: should "):
        open_admin(address, None)


def test_an_ipv6_address_is_put_in_brackets() -> None:
    """Anything else is no URL."""
    with open_admin("[::1]:9464", None) as client:
        assert client.base_url == httpx.URL("http://[::1]:9464")


# Which supervisor


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


def test_without_a_supervisor_it_says_how_to_start_one(runtime: Path) -> None:
    """And where it looked."""
    with pytest.raises(
        ConfigurationError, match=rf"no running supervisor found in {runtime}.*flowherd run APP"
    ):
        open_admin(None, None)


@pytest.mark.usefixtures("runtime")
def test_the_only_supervisor_is_found_and_another_pid_refused() -> None:
    """Without an address the only socket found is asked."""
    one = AdminSocket("off")
    try:
        open_admin(None, None).close()
        open_admin(None, os.getpid()).close()
        with pytest.raises(ConfigurationError, match=rf"--pid 1: no supervisor .* running: {os.getpid()}"):
            open_admin(None, 1)
    finally:
        one.close()


def test_with_several_supervisors_it_lists_them(runtime: Path) -> None:
    """With several sockets they are listed."""
    one = AdminSocket("off")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(runtime / "flowherd" / "1.sock"))
        other.listen()
        with pytest.raises(ConfigurationError, match=rf"choose one:\n  --pid 1\n  --pid {os.getpid()}$"):
            open_admin(None, None)
    one.close()
