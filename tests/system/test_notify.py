"""Notifications to systemd, through a socket as it creates one."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

from harness import Engine, running_host

if TYPE_CHECKING:
    from pathlib import Path


def test_systemd_is_notified_of_ready_and_of_stopping(engine: Engine, tmp_path: Path) -> None:
    """READY only when every process is."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(20)
        env = {"NOTIFY_SOCKET": str(path)}
        with running_host(tmp_path, "sample_app:registry", "-p", "3", url=engine.url, env=env) as host:
            heard = _until(manager, "READY=1")
            assert heard[-1].splitlines() == ["READY=1", "STATUS=3 of 3 processes ready"]
            assert heard[0] == "STATUS=0 of 3 processes ready"
            host.signal(signal.SIGTERM)
            assert _until(manager, "STOPPING=1")[-1].startswith("STOPPING=1\nSTATUS=")
            assert host.wait() == 0


def _until(manager: socket.socket, word: str) -> list[str]:
    heard: list[str] = []
    while not heard or word not in heard[-1]:
        heard.append(manager.recv(4096).decode())
    return heard


def test_systemd_is_notified_of_a_reload_and_its_watchdog_is_fed(engine: Engine, tmp_path: Path) -> None:
    """RELOADING until every process is new; WATCHDOG=1 while polls are answered."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(20)
        env = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "600000"}
        with running_host(tmp_path, "sample_app:registry", "-p", "2", url=engine.url, env=env) as host:
            _until(manager, "READY=1")
            heard = [_until(manager, "WATCHDOG=1")[-1] for _ in range(3)]
            assert heard == ["WATCHDOG=1"] * 3
            host.signal(signal.SIGHUP)
            assert "MONOTONIC_USEC=" in _until(manager, "RELOADING=1")[-1]
            assert _until(manager, "READY=1")
