"""`flowherd status`: the choice of the supervisor, the output, and errors without an answer."""

from __future__ import annotations

import http.server
import io
import json
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from rich.console import Console
from status_kit import CHILD, DOCUMENT, FAILURE, FLOW, RESIZE

from flowherd.errors import ConfigurationError
from flowherd.exit_codes import Exit
from flowherd_supervisor.cli.ask_supervisor import open_admin
from flowherd_supervisor.cli.status import render, show_status
from flowherd_supervisor.cli.status_tables import now_lines, standstill_lines
from flowherd_supervisor.shell.admin_socket import AdminSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


@pytest.fixture
def serve() -> Iterator[Callable[[int, bytes], str]]:
    """Starts a web server with one reply to everything; returns its address."""
    servers: list[http.server.HTTPServer] = []

    def start(status: int, body: bytes) -> str:
        class OneAnswer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/api/status" else 404)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Logs nothing."""

        servers.append(http.server.HTTPServer(("127.0.0.1", 0), OneAnswer))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def shown(document: dict[str, Any], width: int = 80, failures: Sequence[dict[str, Any]] = ()) -> list[str]:
    console = Console(file=io.StringIO(), width=width, markup=False)
    console.print(*render(document, failures), sep="\n")
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_snapshot_fits_80_columns_and_holds_what_matters() -> None:
    """Users read app, engine, host, process, slots, restarts; then activities, what runs, what waits, what failed."""
    lines = shown(DOCUMENT, failures=[FAILURE, FAILURE | {"retryable": False}])
    assert lines[:6] == [
        "flowherd 0.1.0, pid 4710, running for 12s",
        "app shop:registry on host worker-3",
        "engine http://engine:8080: reachable, 3.1 ms",
        "3 of 4 processes ready, 7 of 16 slots in use, 1 restart",
        "attempts: 20 claimed, 17 completed, 3 failed, 0 lost, 1 settled after crash",
        "last 15m00s: 12.3/s done, 0.050/s failed, run time p50 8ms, p95 2.05s",
    ]
    assert lines[7] == "processes (attempts they reported; CPU% and own MB without isolates)"
    assert " ".join(lines[8].split()) == "proc pid phase busy done failed restarts CPU% own MB up"
    assert lines[9].split() == ["0", "4711", "running", "2/4", "17", "3", "1", "97.0", "4.1", "12s"]
    assert lines[10].split() == ["1", "4711", "starting", "2/4", "17", "3", "1", "-", "-", "12s"]
    assert lines[12] == "activities (all attempts; failed includes those whose process died)"
    assert lines[13].split() == ["activity", "run", "wait", "done", "failed", "p50", "p95", "CPU%", "advice"]
    assert lines[14].split() == ["resize", "2", "0", "17", "3", "8ms", "2.05s", "97", "async→process"]
    assert lines[15].split()[-1] == "-", "measured too seldom for advice"
    assert [line.split(maxsplit=3) for line in lines[17:21]] == [
        ["running", "proc", "activity", "workflow"],
        ["3m20s", "0", "resize", FLOW],
        ["3m20s", "1", "resize", FLOW],
        ["3s", "0", "crop", FLOW],
    ]
    assert lines[21] == "             waits for a slot"
    when = time.strftime("%H:%M:%S", time.localtime(FAILURE["at"]))
    assert lines[25:] == [
        "last failures",
        f"{when}  resize  {FLOW}",
        "          EXECUTION_ERROR: ValueError: no such size",
        f"{when}  resize  {FLOW}  for good",
        "          EXECUTION_ERROR: ValueError: no such size",
    ]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("held", "summary"),
    [((1,), "1 old process finishes 1 activity"), ((2, 1), "2 old processes finish 3 activities")],
)
def test_an_old_process_is_shown_with_what_it_still_runs(held: tuple[int, ...], summary: str) -> None:
    """After a reload it goes on with its activities; it has no slots any more."""
    old = [CHILD | {"phase": "finishing", "slots": 0, "in_flight": count} for count in held]
    lines = shown(DOCUMENT | {"children": [*old, CHILD]})
    assert lines[4] == summary
    assert lines[10].split()[2:4] == ["finishing", str(held[0])]
    assert max(map(len, lines)) <= 80


def test_a_status_without_activities_is_shown_too() -> None:
    bare = {
        name: value
        for name, value in DOCUMENT.items()
        if name not in {"app", "host", "by_activity", "lately"}
    }
    idle = {name: value for name, value in CHILD.items() if name not in {"activities", "waiting"}}
    lines = shown(bare | {"children": [idle]})
    assert len(lines) == 8
    assert lines[1].startswith("engine ")


def test_nothing_is_cut_at_80_columns_after_a_long_life() -> None:
    """Most terminals are 80 wide; counts, pids and names grow."""
    old = CHILD | {"process": 63, "pid": 4_194_304, "phase": "starting", "slots": 128, "in_flight": 128}
    old |= {"completed": 12_345_678, "failed": 123_456, "uss_mb": 12345.6, "cpu_percent": 100.0}
    row = RESIZE | {"activity": "images.resize_and_crop.v2", "running": 128, "waiting": 100, "cpu_share": 1.0}
    slow = {"name": "images.resize_and_crop.v2", "for_s": 10**6, "workflow_id": FLOW}
    old |= {"activities": [slow], "waiting": [slow | {"waits_for": "a permit, an isolate or the loop"}]}
    row |= {"completed": 12_345_678, "failed": 123_456, "run_ms_p50": 16000.0, "run_ms_p95": None}
    lines = shown(
        DOCUMENT | {"children": [old | {"uptime_s": 30 * 86_400.0, "restarts": 1234}], "by_activity": [row]},
        failures=[FAILURE | {"activity": "images.resize_and_crop.v2", "retryable": False}],
    )
    assert max(map(len, lines)) <= 80
    values = ["63", "4194304", "starting", "128/128", "12345678", "123456", "1234", "100", "12346", "30d00h"]
    assert lines[9].split() == values
    assert lines[13].split() == [
        "images.resi…nd_crop.v2", "128", "100", "12345678", "123456", "16s", ">18h", "100", "async→process",
    ]  # fmt: skip


def test_unused_activities_are_counted_and_take_no_lines() -> None:
    """An app may have a hundred."""
    idle = dict.fromkeys(("running", "waiting", "completed", "failed", "lost", "ran"), 0)
    idle |= {"run_ms_p50": None, "run_ms_p95": None}
    lines = shown(DOCUMENT | {"by_activity": [RESIZE, RESIZE | idle, RESIZE | idle | {"failed": 1}]})
    assert lines[14].split()[:2] == ["resize", "2"]
    assert lines[15].split()[:7] == ["resize", "0", "0", "0", "1", "-", "-"], "it could not begin"
    assert lines[16] == "and 1 activity without any attempts"


@pytest.mark.parametrize(
    ("lately", "line"),
    [
        ({"seconds": 40.0, "completed": 0.0, "failed": 0.0}, "last 40s: nothing ended"),
        (
            {"completed": 200.0, "failed": 0.0, "run_ms_p95": None},
            "last 15m00s: 200/s done, 0.0/s failed, run time p50 8ms, p95 >18h",
        ),
    ],
)
def test_rates_and_run_times_of_the_last_quarter_of_an_hour_are_one_line(
    lately: dict[str, Any], line: str
) -> None:
    assert shown(DOCUMENT | {"lately": DOCUMENT["lately"] | lately})[5] == line


def test_of_many_that_run_the_oldest_are_shown_and_the_others_counted() -> None:
    busy = CHILD | {"activities": [CHILD["activities"][0] | {"for_s": float(n)} for n in range(20)]}
    lines = shown(DOCUMENT | {"children": [busy]})
    now = lines[next(at for at, line in enumerate(lines) if line.endswith("workflow")) + 1 :]
    assert [line.split()[0] for line in now[:8]] == [f"{n}s" for n in range(19, 11, -1)]
    assert now[8] == "             and 13 more"


def test_no_message_of_a_failure_reaches_the_terminal_as_more_than_text() -> None:
    """Faults S6: it is a user's text."""
    lines = shown(DOCUMENT, failures=[FAILURE | {"message": "[bold]\x1b[31m\n"}])
    assert lines[-1] == r"          EXECUTION_ERROR: ValueError: [bold]\x1b[31m\n"


def test_a_long_message_of_a_failure_is_cut_to_two_lines() -> None:
    lines = shown(DOCUMENT, failures=[FAILURE | {"message": "no such size: " + "wide " * 1000 + "px"}])
    assert lines[-2].startswith("          EXECUTION_ERROR: ValueError: no such size: wide")
    assert lines[-1].endswith(" px")


def test_the_name_of_an_exit_is_shown_once() -> None:
    """Its message already begins with it."""
    lines = shown(DOCUMENT, failures=[FAILURE | {"type": "SystemExit", "message": "SystemExit: 3"}])
    assert lines[-1] == "          EXECUTION_ERROR: SystemExit: 3"


@pytest.mark.parametrize("code", ["INVALID_PARAMETERS", "OUT_OF_STOCK"])
def test_a_failure_with_a_code_of_its_own_is_shown_by_that_code(code: str) -> None:
    """A workflow and the table of error codes know it by the code, not by the class that was raised."""
    failure = FAILURE | {"code": code, "type": "InvalidParameters", "message": "size: Field required"}
    assert shown(DOCUMENT, failures=[failure])[-1] == f"          {code}: size: Field required"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.9, "59s"), (200, "3m20s"), (18_060, "5h01m"), (10**6, "11d13h")]
)
def test_ages_have_two_units_at_most(seconds: float, text: str) -> None:
    """They must stay short however old a process gets."""
    assert shown(DOCUMENT | {"children": [CHILD | {"uptime_s": seconds}]})[9].split()[-1] == text


def test_an_engine_that_does_not_answer_is_shown_in_capitals() -> None:
    """The first thing to look for when nothing runs."""
    gone = DOCUMENT | {"engine": {"url": "http://engine", "reachable": False, "rtt_ms": None}}
    assert shown(gone)[2] == "engine http://engine: NOT reachable"


def test_nothing_of_a_url_is_taken_for_markup() -> None:
    """An IPv6 address has brackets."""
    six = DOCUMENT | {"engine": {"url": "http://[fe80::1]:8080", "reachable": True, "rtt_ms": 1}}
    assert "http://[fe80::1]:8080" in shown(six)[2]


def test_json_is_the_document_as_it_was_served(
    serve: Callable[[int, bytes], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts read it: stdout is one document and nothing else."""
    address = serve(200, json.dumps(DOCUMENT).encode())
    assert show_status(admin=address, pid=None, as_json=True) == Exit.CLEAN
    assert json.loads(capsys.readouterr().out) == DOCUMENT


def test_in_a_pipe_no_line_has_blanks_at_its_end(
    serve: Callable[[int, bytes], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """They show in what is pasted into a page or compared with a file."""
    assert show_status(admin=serve(200, json.dumps(DOCUMENT).encode()), pid=None, as_json=False) == Exit.CLEAN
    lines = capsys.readouterr().out.split("\n")
    assert [line for line in lines if line != line.rstrip()] == []
    assert len(lines) > 20


def test_in_a_pipe_no_column_is_cut(
    serve: Callable[[int, bytes], str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`flowherd status | grep` must find a whole row."""
    big = DOCUMENT | {"children": [CHILD | {"completed": 10**12, "pid": 4_194_304, "uptime_s": 10**7}]}
    assert show_status(admin=serve(200, json.dumps(big).encode()), pid=None, as_json=False) == Exit.CLEAN
    assert "4194304" in (row := capsys.readouterr().out.splitlines()[9])
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


def test_an_address_without_a_supervisor_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A supervisor may have just ended."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    assert show_status(admin=address, pid=None, as_json=True) == Exit.INTERNAL
    said = capsys.readouterr().err
    assert said == f"flowherd: --admin {address}: no answer: [Errno 111] Connection refused\n"


@pytest.mark.parametrize("address", ["off", "9464", "nonsense"])
def test_a_wrong_address_is_refused_by_its_flag(address: str) -> None:
    """Exit 2, as for any mistake in the command line."""
    with pytest.raises(ConfigurationError, match=rf"--admin {address}: should "):
        open_admin(address, None)


def test_an_ipv6_address_is_put_in_brackets() -> None:
    """Else the URL would be invalid."""
    with open_admin("[::1]:9464", None) as client:
        assert client.base_url == httpx.URL("http://[::1]:9464")


# Which supervisor


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


def test_without_a_supervisor_it_says_how_to_start_one(runtime: Path) -> None:
    """The message names the folder, too."""
    with pytest.raises(ConfigurationError, match=rf"no running host found in {runtime}.*flowherd run APP"):
        open_admin(None, None)


@pytest.mark.usefixtures("runtime")
def test_the_only_supervisor_is_found_and_another_pid_refused() -> None:
    """Without an address the only socket found is asked."""
    one = AdminSocket("off")
    try:
        open_admin(None, None).close()
        open_admin(None, os.getpid()).close()
        with pytest.raises(ConfigurationError, match=rf"--pid 1: no host .* running: {os.getpid()}"):
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


STANDS = {"for_s": 72.4, "is_stopped": False, "name": "", "at": ""}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            {"name": "resize", "at": "/app/a\x1b.py:7"},
            "its event loop has been blocked for 1m12s by resize, at /app/a\\x1b.py:7",
        ),
        ({}, "its event loop has been blocked for 1m12s"),
        ({"is_stopped": True}, "stopped by a signal or a debugger, no sign of life for 1m12s"),
    ],
)
def test_a_process_that_stands_still_is_named_with_the_time_and_the_cause(
    found: dict[str, object], words: str
) -> None:
    """Otherwise its activities seem to run, and others seem to wait for no reason."""
    stands = CHILD | {"process": 1, "standstill": STANDS | found}
    assert standstill_lines([CHILD, stands]) == [f"process 1: {words}"]
    assert f"process 1: {words}" in " ".join(shown(DOCUMENT | {"children": [CHILD, stands]}))


def test_a_handler_that_runs_on_after_its_outcome_is_shown_as_keeping_a_slot() -> None:
    over = CHILD["activities"][0] | {"is_over": True}
    lines = now_lines({"children": [CHILD | {"activities": [over], "waiting": []}]}, 8)
    assert lines[2].strip() == "its outcome is decided, but its handler runs on and keeps a slot"
    assert max(map(len, lines)) <= 80


def test_an_activity_in_an_isolate_is_shown_as_such() -> None:
    """Its process shows no CPU for it."""
    isolated = CHILD["activities"][0] | {"isolated": True}
    lines = now_lines({"children": [CHILD | {"activities": [isolated], "waiting": []}]}, 8)
    assert lines[1].split() == ["3m20s", "0", "resize", "(isolate)", FLOW]
    isolated |= {"name": "images.resize_and_crop.v2"}
    lines = now_lines({"children": [CHILD | {"activities": [isolated], "waiting": []}]}, 8)
    assert max(map(len, lines)) <= 80


def test_what_the_document_leaves_out_of_a_process_with_many_slots_is_counted() -> None:
    """The document lists the oldest eight of each process; the table by activity counts all."""
    many = DOCUMENT | {"by_activity": [RESIZE | {"running": 90, "waiting": 10}]}
    assert "             and 96 more" in shown(many), "four are shown"
