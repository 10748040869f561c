"""What the demo reads of a supervisor, from a real unix socket."""

from __future__ import annotations

import json
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from typing import TYPE_CHECKING, ClassVar

import pytest

from flowherd_supervisor.demo.client import Status, StatusSocket
from flowherd_supervisor.demo.phase import accepted_twice

if TYPE_CHECKING:
    from collections.abc import Iterator


class Supervisor(BaseHTTPRequestHandler):
    """Answers the status path with one document, and everything else with 404."""

    replies: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        body = self.replies.get(self.path)
        self.send_response(200 if body else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """A test prints nothing."""


@pytest.fixture
def socket() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fh-") as folder:
        path = Path(folder) / "1.sock"
        with UnixStreamServer(str(path), Supervisor) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield path
            server.shutdown()
            thread.join()


def test_the_status_is_read_from_the_socket(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """interface.md: the same document as `flowherd status --json`."""
    row = {"process": 0, "pid": 11, "incarnation": 1, "phase": "running", "completed": 5, "restarts": 2}
    document = {"pid": 10, "processes": {"wanted": 1, "ready": 1}, "totals": {"completed": 6}}
    body = json.dumps(document | {"children": [row | {"cpu_percent": None}]}).encode()
    monkeypatch.setitem(Supervisor.replies, "/api/status", body)
    with StatusSocket(socket) as status:
        read = status.read()
    assert read is not None
    assert (read.pid, read.ready, read.completed) == (10, 1, 6)
    assert (read.children[0].cpu_percent, read.children[0].restarts) == (0.0, 2)


def test_no_answer_is_no_status(socket: Path) -> None:
    """While a supervisor boots there is no socket yet; the picture waits, the work does not."""
    with StatusSocket(socket) as status:
        assert status.read() is None
    with StatusSocket(socket.with_name("nobody.sock")) as status:
        assert status.read() is None


@pytest.mark.parametrize(("counted", "twice"), [(9, 0), (10, 0), (12, 2)])
def test_outcomes_accepted_beyond_those_there_are_were_accepted_twice(counted: int, twice: int) -> None:
    """A count that lags behind is no fault; one that is ahead is."""
    assert accepted_twice(Status(1, 1, counted, ()), 10) == twice
    assert accepted_twice(None, 10) == 0
