"""The engine as a program: its one line of output, stop, refusals, and file after kill -9 (faults S3, S5)."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import threading
import time

import httpx
import pytest

from flowherd_engine import serve as serving
from flowherd_engine.serve import port_in_use, serve
from flowherd_engine.settings import EngineSettings, SettingsError


@contextlib.contextmanager
def program(*flags, module="flowherd_engine", **environment):
    """An engine process and its URL; killed if it still runs at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, "--port", "0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"flowherd engine listening on (http://127\.0\.0\.1:\d+)\n", line)
        assert found, (line, process.stderr.read())
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def refused(capfd, **settings) -> str:
    """The one line on stderr of an engine that will not start."""
    assert serve(EngineSettings(**{"port": 0, **settings})) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_stops_at_once_with_exit_0(number):
    with program() as (process, url), httpx.Client() as client:
        assert client.get(f"{url}/health").status_code == 200  # the connection stays open, idle
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(5) == 0
        assert time.monotonic() - began < 3.0
        assert process.stdout.read() == process.stderr.read() == ""


def test_a_request_in_flight_is_answered_before_the_end():
    with program(module="flowherd_supervisor.testkit.hooked_engine") as (process, url):
        httpx.post(f"{url}/__test__/faults", json={"route": "health", "delay_s": 0.4})
        replies = []
        caller = threading.Thread(target=lambda: replies.append(httpx.get(f"{url}/health").status_code))
        caller.start()
        while not httpx.get(f"{url}/__test__/faults").json()["faults"][0]["hits"]:
            pass
        process.terminate()
        assert process.wait(5) == 0
        caller.join()
        assert replies == [200]


def test_a_port_in_use_is_exit_2(capfd):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused(capfd, port=port)
        assert f"127.0.0.1:{port} is in use by another program" in said
        assert "--port 8090" in said
        assert "export KRUXIAFLOW_API_URL=http://127.0.0.1:8090 for run, submit and check" in said


def test_the_port_that_is_proposed_is_not_the_one_in_use(capfd):
    said = str(port_in_use("::1", 8090))
    assert "--port 8091" in said
    assert "http://[::1]:8091" in said


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"host": "0.0.0.0"}, "refusing to listen on 0.0.0.0 without credentials"),
        ({"client_id": "c"}, "KRUXIAFLOW_CLIENT_SECRET is not set"),
        ({"client_id": "", "client_secret": "s"}, "must not be empty"),
        ({"default_lease_s": 0.0}, "--default-lease must be a positive number"),
        ({"port": 65_536}, "--port 65536: a port is 1 to 65535"),
        ({"port": -1}, "or 0 for any free one"),
        (
            {"host": "no.such.host.invalid", "client_id": "c", "client_secret": "s"},
            "cannot listen on no.such",
        ),
        ({"db": "/nonexistent/folder/x.db"}, "cannot open the database /nonexistent/folder/x.db"),
    ],
)
def test_settings_that_must_not_run_are_exit_2(capfd, settings, says):
    """faults.md S3."""
    assert says in refused(capfd, **settings)


def test_with_credentials_another_address_is_allowed():
    EngineSettings(host="0.0.0.0", client_id="c", client_secret="s").check()
    EngineSettings(host="::1").check()
    with pytest.raises(SettingsError):
        EngineSettings(host="192.0.2.1").check()


def test_a_missing_extra_is_one_line_with_the_remedy(capfd, monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")

    monkeypatch.setattr(serving, "_run", missing)
    assert "(fastapi): pip install 'flowherd[engine]'" in refused(capfd)


def test_a_free_threaded_python_without_the_wheel_gets_the_reason(capfd, monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'minijinja'", name="minijinja")

    monkeypatch.setattr(serving, "_run", missing)
    assert "wheel" not in refused(capfd)
    monkeypatch.setattr(sysconfig, "get_config_var", lambda _: 1)
    assert "minijinja has no wheel for some free-threaded Pythons" in refused(capfd)


def test_the_program_starts_without_the_extra_and_says_so():
    """The modules are hidden from the import system."""
    hide = (
        "import sys; sys.modules.update(dict.fromkeys(('fastapi', 'aiosqlite', 'jwt', 'minijinja', 'yaml')))"
    )
    run = "from flowherd_engine.serve import *; sys.exit(serve(EngineSettings(port=0)))"
    done = subprocess.run(
        [sys.executable, "-c", f"{hide}; {run}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("pip install 'flowherd[engine]'\n")
    assert done.stderr.count("\n") == 1


def test_a_damaged_file_is_exit_2_and_stays_as_it_is(capfd, tmp_path):
    path = tmp_path / "x.db"
    path.write_bytes(b"not a database at all" * 100)
    assert "it is damaged or no SQLite file" in refused(capfd, db=str(path))
    assert path.read_bytes() == b"not a database at all" * 100


def test_a_torn_file_is_found_at_the_start(capfd, tmp_path):
    path = tmp_path / "x.db"
    with program("--db", str(path)) as (process, url):
        for n in range(40):
            body = {"name": f"f{n}", "activities": [{"key": "a", "parameters": {"x": "y" * 2000}}]}
            httpx.post(f"{url}/api/v1/workflow_definitions", json=body)
        process.terminate()
        assert process.wait(5) == 0
    content = bytearray(path.read_bytes())
    content[4096 * 4 : 4096 * 12] = b"\xa5" * (4096 * 8)
    path.write_bytes(content)
    assert "it is damaged" in refused(capfd, db=str(path))


def test_a_foreign_and_a_newer_file_are_exit_2(capfd, tmp_path):
    foreign, newer = tmp_path / "foreign.db", tmp_path / "newer.db"
    for path, statement in (
        (foreign, "CREATE TABLE t (x)"),
        (newer, "PRAGMA user_version = 99"),
    ):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute(statement)
            connection.commit()
    assert "it belongs to another program" in refused(capfd, db=str(foreign))
    assert "a newer flowherd wrote it (format 99" in refused(capfd, db=str(newer))


def test_a_locked_file_is_exit_2(capfd, tmp_path):
    path = tmp_path / "x.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "it is locked by another program" in refused(capfd, db=str(path))


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path):
    """faults.md S5: each round is cut off amid a stream of completions; the file stays whole."""
    path = str(tmp_path / "x.db")
    acknowledged: set[str] = set()
    handed_out: set[str] = set()
    for round_ in range(5):
        with program("--db", path) as (process, url), httpx.Client(base_url=url) as client:
            if round_ == 0:
                steps = [{"key": f"k{n}", "worker": "py"} for n in range(400)]
                client.post("/api/v1/workflow_definitions", json={"name": "f", "activities": steps})
                client.post("/api/v1/workflows", json={"definition_name": "f", "input": {}})
            killer = threading.Timer(0.05 + 0.02 * round_, process.kill)
            killer.start()
            with contextlib.suppress(httpx.HTTPError):
                while True:
                    body = {"worker": "py", "worker_id": f"w{round_}", "max_activities": 3}
                    items = client.post("/api/v1/workers/poll", json=body).json()["activities"]
                    assert not handed_out & {item["activity_id"] for item in items}
                    for item in items:
                        handed_out.add(item["activity_id"])
                        body = {"worker_id": f"w{round_}", "output": {"n": 1}}
                        reply = client.post(f"/api/v1/activities/{item['activity_id']}/complete", json=body)
                        assert reply.status_code == 200
                        acknowledged.add(item["activity_id"])
                    if not items:
                        process.wait(5)
            killer.join()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        completed = {
            row[0] for row in connection.execute("SELECT id FROM activities WHERE status = 'completed'")
        }
        (open_count,) = connection.execute("SELECT open_count FROM workflows").fetchone()
        assert open_count == 400 - len(completed)
    assert acknowledged
    assert acknowledged <= completed
    assert len(completed - acknowledged) <= 5  # at most one lost reply a kill
