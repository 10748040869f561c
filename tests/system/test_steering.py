"""A running host takes orders over its socket, and refuses others with the reason."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import httpx
import pytest
from harness import clean_environment, eventually, running_host
from worker_kit import child_that

from flowherd_supervisor.cli.main import main
from flowherd_supervisor.cli.top_feed import Happened, HttpFeed, Status
from flowherd_supervisor.keeper.access_check import is_own_user

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness import Engine, Host

    Ctl = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ctl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ctl:
    """Runs `flowherd ctl` in the folder of a host; returns exit code, stdout and stderr."""

    def call(host: Host, *words: str) -> tuple[int, str, str]:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(host.folder / "r"))
        monkeypatch.chdir(host.folder)
        with pytest.raises(SystemExit) as left:
            main(["ctl", *words])
        return int(left.value.code or 0), *capsys.readouterr()

    return call


def test_ctl_scales_pauses_reloads_and_drains(engine: Engine, tmp_path: Path, ctl: Ctl) -> None:
    """Each order has the effect of its signal; drain --wait ends with the supervisor."""
    with running_host(tmp_path, "sample_app:registry", "-p", "1", "-c", "3", url=engine.url) as host:
        host.ready(1)
        assert ctl(host, "scale", "2")[:2] == (
            0,
            f"sample_app:registry, pid {host.pid}: scaling from 1 to 2 processes\n",
        )
        eventually(lambda: len(host.children()) == 2, "two processes")
        code, _, said = ctl(host, "scale", "4")
        assert code == 2
        assert "it must be between 1 and 3" in said
        command = [sys.executable, "-m", "flowherd_supervisor", "top", "--pid", str(host.pid)]
        env = clean_environment(XDG_RUNTIME_DIR=str(tmp_path / "r"))
        shown = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=30, check=True
        ).stdout
        assert "2 of 2 processes ready" in shown, "into a pipe it is one table"
        assert ctl(host, "quiet")[0] == 0
        eventually(lambda: not host.status()["polling"], "polling paused")
        assert ctl(host, "quiet")[1].endswith(": polling is paused already\n")
        assert ctl(host, "resume")[0] == 0
        assert ctl(host, "stacks")[0] == 0
        host.wait_for_log("stack_of_thread")
        assert ctl(host, "reload")[0] == 0
        host.wait_for_log("reloaded")
        code, said, why_not = ctl(host, "drain", "--wait", "--timeout", "20")
        assert (code, why_not) == (0, "")
        assert said.splitlines()[-1] == "exited; the last line of its log, ended, has the exit code"
        assert host.wait() == 0
        last = host.log()[-1]
        assert (last["event"], last["level"], last["code"]) == ("ended", "info", 0)
        code, _, said = ctl(host, "scale", "2")
        assert code == 2
        assert "no running host found" in said


def test_one_stuck_activity_is_cancelled_for_good_or_handed_out_again(
    engine: Engine, tmp_path: Path, ctl: Ctl
) -> None:
    """The engine gets the report, the handler is stopped, and others go on."""
    journal = tmp_path / "journal"
    [stuck] = engine.submit("wait", seconds=300, journal=str(journal))
    with running_host(tmp_path, "sample_app:registry", "-p", "1", url=engine.url) as host:
        host.ready(1)

        def running() -> list[str]:
            return [one["activity_id"] for row in host.status()["children"] for one in row["activities"]]

        [activity_id] = eventually(running, "a running activity")
        code, said, _ = ctl(host, "cancel", activity_id, "--requeue")
        assert code == 0
        assert f"wait {activity_id} goes back to the engine" in said
        eventually(lambda: journal.read_text().count("start") == 2, "its second attempt")
        assert running() == [activity_id], "the first one was stopped"
        code, said, _ = ctl(host, "cancel", stuck)
        assert f"wait {activity_id} has failed for good (CANCELLED); its handler is told to stop" in said
        assert engine.ended(stuck)["activities"][0]["error"] == "cancelled by an operator"
        eventually(lambda: not running(), "its end")
        code, _, said = ctl(host, "cancel", activity_id)
        assert code == 2
        assert f"no process of this host holds an activity {activity_id}" in said
        assert "end" not in journal.read_text()


def test_from_another_folder_a_host_is_steered_by_its_pid_alone(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the folder of another app, another host is meant, which does not run."""
    (tmp_path / "a").mkdir()
    with running_host(tmp_path / "a", "sample_app:registry", "-p", "1", url=engine.url) as host:
        host.ready(1)
        app_folder = host.status()["folder"]
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(host.folder / "r"))
        (elsewhere := tmp_path / "b").mkdir()

        def resumed(*words: str, folder: Path) -> int:
            monkeypatch.chdir(folder)
            with pytest.raises(SystemExit) as left:
                main(["ctl", "resume", *words])
            return int(left.value.code or 0)

        assert resumed(folder=host.folder) == resumed(folder=app_folder) == 0
        assert resumed("--pid", str(host.pid), folder=elsewhere) == 0
        assert resumed(folder=elsewhere) == 2
        said = f"{host.pid} sample_app:registry in {app_folder}, which is not this folder"
        assert f"{said}: if it is meant, say --pid {host.pid}\n" in capsys.readouterr().err


def test_a_killed_process_is_seen_in_the_events_with_its_cause(engine: Engine, tmp_path: Path) -> None:
    """Within a second, also in an open stream; a refused reload is an event, too."""
    with running_host(tmp_path, "sample_app:registry", "-p", "2", url=engine.url) as host:
        host.ready(2)
        transport = httpx.HTTPTransport(uds=host.socket)
        with (
            httpx.Client(transport=transport, base_url="http://flowherd", timeout=10) as client,
            client.stream("GET", "/api/events") as reply,
        ):
            assert reply.headers["content-type"] == "text/event-stream"
            lines = reply.iter_lines()
            pid = host.children()[1]
            os.kill(pid, signal.SIGKILL)
            for line in lines:
                if (
                    line.startswith("data: ")
                    and (seen := json.loads(line[6:])).get("event") == "process_died"
                ):
                    break
            assert (seen["process"], seen["pid"]) == (1, pid)
            assert "SIGKILL" in seen["how"]


def test_tcp_is_read_only(engine: Engine, tmp_path: Path, ctl: Ctl) -> None:
    """Faults S1, through a real port: access depends on the socket, not on the request."""
    with running_host(
        tmp_path, "sample_app:registry", "-p", "1", admin="127.0.0.1:0", url=engine.url
    ) as host:
        host.ready(1)
        address = host.log("starting")[0]["status"].split(" and ")[0]
        with httpx.Client(base_url=f"http://{address}", timeout=10, trust_env=False) as client:
            assert client.get("/api/status").json()["pid"] == host.pid
            assert client.get("/metrics").is_success
            reply = client.post("/api/drain", json={})
            assert (reply.status_code, reply.headers["allow"]) == (405, "GET, HEAD")
            assert client.get("/api/status", headers={"host": "evil.example"}).status_code == 403
        code, _, said = ctl(host, "drain", "--admin", address)
        assert code == 2
        assert "orders are accepted on the unix socket only" in said
        assert host.status()["state"] == "running"


def test_the_peer_of_a_unix_socket_is_known_by_its_user() -> None:
    """By SO_PEERCRED, which comes from the kernel."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert is_own_user(ours)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_s1_another_users_process_is_refused_even_if_it_reaches_the_socket(tmp_path: Path) -> None:
    """Faults S1: a second protection beside the file's mode."""
    path = f"\0{tmp_path}"  # an abstract socket has no mode, so every user can connect
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def connect_as_a_stranger() -> None:
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(path)
                stranger.recv(1)

        with child_that(connect_as_a_stranger):
            listener.settimeout(10)
            peer, _ = listener.accept()
            with peer:
                assert not is_own_user(peer)


async def test_a_watcher_outlives_the_process_that_serves_it(engine: Engine, tmp_path: Path) -> None:
    """`top` and the page survive a keeper's restart and get the events of the meantime once."""
    with running_host(tmp_path, "sample_app:registry", "-p", "1", url=engine.url) as host:
        host.ready(1)
        feed = HttpFeed(f"unix:{host.socket}")
        seen: list[str] = []
        killed = False
        async with asyncio.timeout(30):
            async for news in feed.news():
                match news:
                    case Happened(event):
                        seen.append(event["event"])
                    case Status() if not killed:
                        killed = True
                        os.kill(host.keeper(), signal.SIGKILL)
                    case Status() if "keeper_died" in seen:
                        break
                    case _:
                        pass
        assert seen.count("process_ready") == 3, "two keepers and a worker, each once"
        assert (await feed.order("quiet")) == "polling pauses; running activities go on"


def test_a_reload_says_what_still_runs_the_old_version(engine: Engine, tmp_path: Path, ctl: Ctl) -> None:
    """A long activity ends in the process in which it began, beside the new one."""
    journal = tmp_path / "journal"
    with running_host(tmp_path, "sample_app:registry", "-p", "1", url=engine.url) as host:
        host.ready(1)
        engine.submit("wait", seconds=300, journal=str(journal))
        eventually(lambda: journal.exists() and journal.read_text(), "a running activity")
        code, said, _ = ctl(host, "reload", "--wait", "--timeout", "20")
        told = "every new activity runs the new version; 1 activity still runs the old one"
        assert (code, said.splitlines()[-1]) == (0, told)
        status = host.status()
        assert status["processes"] == {"wanted": 1, "ready": 1}
        assert [row["phase"] for row in status["children"]] == ["finishing", "running"]
        host.signal(signal.SIGQUIT)
        host.wait()


def test_a_wait_for_a_reload_returns_how_it_ended(engine: Engine, tmp_path: Path, ctl: Ctl) -> None:
    """For scripts: 0 when every process is new, 3 for a version that does not boot, 2 for settings that do not fit."""
    app, settings = tmp_path / "my_app.py", tmp_path / "flowherd.toml"
    good = "from flowherd import activity\n\n\n@activity\nasync def noop() -> None: ...\n"
    app.write_text(good)
    with running_host(tmp_path, "my_app", "-p", "2", url=engine.url, app_dir=tmp_path) as host:
        host.ready(2)
        code, said, _ = ctl(host, "reload", "--wait", "--timeout", "20")
        assert (code, said.splitlines()[-1]) == (0, "every process is new")
        app.write_text("1 / 0\n")
        code, _, said = ctl(host, "reload", "--wait", "--timeout", "20")
        assert code == 3
        assert "reload failed" in said
        app.write_text(good)
        settings.write_text("worker = 'java'\n")
        code, _, said = ctl(host, "reload", "--wait", "--timeout", "20")
        assert code == 2
        assert "reload refused: --worker cannot change while it runs" in said
        assert len(host.children()) == 2
