"""Brokers on free ports of 127.0.0.1, in a temporary folder: what they cost and how often they are asked."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

import psutil
from bench_kit import LOGIN, cpu_s
from contenders import ENGINE, REDIS
from harness import Engine, eventually

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

DEBIAN = "/usr/lib/postgresql/15/bin"  # apt-get install postgresql-15 redis-server


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Broker:
    """A program that ends with the stack; `url` is for its clients.

    `cpu_s` is what its processes have used so far, `asked` how many commands, transactions or requests have come.
    """

    url: str

    def __init__(self, stack: ExitStack, words: list[Any], **options: Any) -> None:
        silence = subprocess.DEVNULL
        words = [str(word) for word in words]
        self._program = subprocess.Popen(words, stdin=silence, stdout=silence, stderr=silence, **options)
        self._process = psutil.Process(self._program.pid)
        stack.callback(self._program.wait, 20)
        stack.callback(self._program.terminate)
        eventually(self._answers, words[0])

    def _answers(self) -> bool:
        assert self._program.poll() is None, "the broker has ended"
        try:
            return self.asked() > 0
        except (OSError, ValueError):
            return False

    def cpu_s(self) -> float:
        return cpu_s(self._process) + sum(self._process.cpu_times()[2:4])

    def asked(self) -> int:
        raise NotImplementedError


class Redis(Broker):
    """redis-server as it is, without snapshots."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        where = ["--port", self._port, "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        super().__init__(stack, ["redis-server", *where])

    def asked(self) -> int:
        with socket.create_connection(("127.0.0.1", self._port)) as redis:
            redis.sendall(b"INFO stats\r\n")
            said = redis.recv(1 << 16)
        return int(said.partition(b"total_commands_processed:")[2].split(b"\r\n")[0])


class Postgres(Broker):
    """PostgreSQL as it is, with fewer buffers."""

    def __init__(self, stack: ExitStack) -> None:
        port, data = free_port(), stack.enter_context(tempfile.TemporaryDirectory())
        user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        if user:  # PostgreSQL does not run as root
            shutil.chown(data, **user)
        self.url = f"postgresql://peers@127.0.0.1:{port}/postgres"
        init = [f"{DEBIAN}/initdb", "-D", data, "-U", "peers", "-A", "trust", "--no-sync"]
        subprocess.run(init, check=True, stdout=subprocess.DEVNULL, cwd="/", **user)
        words = [f"{DEBIAN}/postgres", "-D", data, "-p", port, "-k", data, "-c", "shared_buffers=64MB"]
        super().__init__(stack, words, cwd="/", **user)

    def asked(self) -> int:
        query = "select sum(xact_commit + xact_rollback) from pg_stat_database"
        words = [f"{DEBIAN}/psql", "-XAtc", query, self.url]
        return int(subprocess.run(words, capture_output=True, check=False).stdout)


class EngineBroker(Broker):
    """The embedded engine, with a client of its own."""

    def __init__(self, stack: ExitStack, lease_s: float) -> None:
        lease = ("--default-lease", str(lease_s), "--sweep-interval", "1") if lease_s else ()
        self._engine = stack.enter_context(Engine(*lease, credentials=LOGIN))
        self.url = self._engine.url
        self._process = psutil.Process(self._engine.process.pid)
        self._engine.post("/__test__/faults", {"route": "*", "times": None})  # harms nobody, but counts

    def asked(self) -> int:
        return int(self._engine.http.get("/__test__/faults").json()["faults"][0]["hits"])


def started(kind: str, stack: ExitStack, folder: Path, lease_s: float) -> Broker:
    """A broker that ends with the stack."""
    if kind == ENGINE:
        return EngineBroker(stack, lease_s)
    return Redis(stack, folder) if kind == REDIS else Postgres(stack)
