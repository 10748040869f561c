"""N2: whatever clients do to the admin port, no lease is lost and the keeper stays small."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest
from harness import eventually, running_engine, running_host

if TYPE_CHECKING:
    from pathlib import Path

LEASE_S = 3.0
CLIENTS = 1_500

# Opens connections of four kinds, reports when they are open, and opens more until it is ended.
CROWD = """
import resource, select, socket, sys
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
port, count = int(sys.argv[1]), int(sys.argv[2])
kinds = (b"", b"GET /live", b"GET /livez HTTP/1.1\\r\\nhost: localhost\\r\\n" + b"x: y\\r\\n" * 500,
         b"GET /metrics HTTP/1.1\\r\\nhost: localhost\\r\\n\\r\\n" * 20)
clients = []
rounds = 0
while True:
    for number in range(count):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port))
        select.select([], [client], [], 1)
        try:
            client.send(kinds[number % 4])
        except OSError:
            pass
        clients.append(client)
    rounds += 1
    print(rounds, flush=True)
    if select.select([sys.stdin], [], [], 0.2)[0]:
        break
    for client in clients:
        client.close()
    clients.clear()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def livez(port: int) -> bytes:
    """Returns the reply of `/livez`, "" if it refuses; raises TimeoutError if it does neither soon."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as client:
        try:
            client.sendall(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            return client.recv(64)
        except ConnectionError:
            return b""


def test_n2_a_crowd_at_the_admin_port_costs_no_lease_and_little_memory(tmp_path: Path) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2 * CLIENTS:
        pytest.skip("this user may not open so many descriptors")
    port = free_port()
    with (
        running_engine("--default-lease", f"{LEASE_S:g}") as engine,
        running_host(
            tmp_path, "sample_app:registry", "-p", "1", "-c", "4", "--default-lease", f"{LEASE_S:g}",
            url=engine.url, admin=f"127.0.0.1:{port}",
        ) as host,
    ):  # fmt: skip
        host.ready(1)
        keeper = psutil.Process(host.keeper())
        resource.prlimit(keeper.pid, resource.RLIMIT_NOFILE, (1024, 1024))
        for _ in range(3):
            host.get("/metrics")
        rest = keeper.memory_info().rss
        engine.submit("wait", 4, seconds=2 * LEASE_S)
        engine.wait_for("claim", 4)
        with subprocess.Popen(
            [sys.executable, "-c", CROWD, str(port), str(CLIENTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as crowd:
            assert crowd.stdin is not None
            assert crowd.stdout is not None
            most = 0
            for _ in range(3):
                crowd.stdout.readline()
                most = max(most, keeper.memory_info().rss)
                assert livez(port)[:12] in {b"", b"HTTP/1.1 200"}
                assert host.get("/api/status").status_code == 200
            crowd.communicate(b"\n")
        engine.wait_for("complete", 4)
        assert set(engine.claims_per_activity().values()) == {1}
        assert not host.log("lease_lost")
        assert most < 1.5 * rest
        assert len(host.log("admin_port_crowded")) == 1
        assert eventually(lambda: b"200" in livez(port), "an answer after the crowd")
