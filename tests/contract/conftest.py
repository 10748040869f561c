"""The engine under contract: `--engine-url` names one, without it the embedded engine runs as a process."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

EMBEDDED = [sys.executable, "-m", "flowherd_engine", "--port", "0", "--sweep-interval", "1"]
PAUSE_S = 0.02
WITHIN_S = 15.0


def pytest_addoption(parser):
    group = parser.getgroup("contract", "the engine under contract")
    group.addoption("--engine-url", help="run against this engine instead of the embedded one")
    group.addoption("--engine-is-disposable", action="store_true", help="allow an engine beyond loopback")
    group.addoption("--engine-pid", type=int, help="its process, which the test of C15 may stop")
    group.addoption("--engine-client-id", help="credentials of the engine, for C10")
    group.addoption("--engine-client-secret-file", help="file that holds the client's secret")
    group.addoption("--engine-openapi", help="the real server's openapi.json, a file or URL: compare with it")


def option(config, name):
    """An option, or None in a run that did not name this folder and so never learned it."""
    return config.getoption(name, default=None)


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def pytest_configure(config):
    url = option(config, "engine_url")
    if url and not is_loopback(url) and not option(config, "engine_is_disposable"):
        raise pytest.UsageError(
            f"{url} is not on loopback: these tests fill an engine; --engine-is-disposable"
        )


def pytest_collection_modifyitems(items):
    """Moves tests that stop the engine to the end."""
    items.sort(key=lambda item: "stoppable" in getattr(item, "fixturenames", ()))


@contextlib.contextmanager
def embedded(*flags: str, secret: str = ""):
    """An embedded engine as a process: (process, URL)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KRUXIAFLOW_")}
    if secret:
        environment["KRUXIAFLOW_CLIENT_SECRET"] = secret
    process = subprocess.Popen([*EMBEDDED, *flags], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield process, process.stdout.readline().split()[-1]
    finally:
        process.kill()
        process.communicate()


def eventually(probe, within_s: float = WITHIN_S):
    """The first true answer of `probe`: the server has no event to wait for, so it is asked repeatedly."""
    deadline = time.monotonic() + within_s
    while not (found := probe()):
        assert time.monotonic() < deadline, f"not within {within_s} s"
        threading.Event().wait(PAUSE_S)
    return found


class Flow:
    """One submitted workflow with a worker type of its own, and the calls a worker makes for it."""

    def __init__(self, engine: Contract, workflow_id: str, worker: str) -> None:
        self.engine = engine
        self.workflow_id = workflow_id
        self.worker = worker
        self._surplus: dict[str, list[dict]] = {}

    def poll(self, worker_id="w1", most=10):
        body = {"worker": self.worker, "worker_id": worker_id, "max_activities": most}
        reply = self.engine.http.post("/api/v1/workers/poll", json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()["activities"]

    def claim(self, worker_id="w1"):
        """Claims the next activity as soon as it is visible; the server may return more than requested."""
        held = self._surplus.setdefault(worker_id, [])
        held += [] if held else eventually(lambda: self.poll(worker_id, 1))
        return held.pop(0)

    def report(self, verb, activity, worker_id="w1", **fields):
        activity_id = activity if isinstance(activity, str) else activity["activity_id"]
        body = {"worker_id": worker_id, **fields}
        return self.engine.http.post(f"/api/v1/activities/{activity_id}/{verb}", json=body)

    def beat(self, activity, worker_id="w1"):
        return self.report("heartbeat", activity, worker_id)

    def complete(self, activity, worker_id="w1", **output):
        return self.report("complete", activity, worker_id, output=output)

    def fail(self, activity, worker_id="w1", *, retryable=True):
        error = {"code": "E", "message": "it broke", "retryable": retryable}
        return self.report("fail", activity, worker_id, error=error)

    def status(self):
        return self.engine.http.get(f"/api/v1/workflows/{self.workflow_id}").json()

    def ended(self, within_s=WITHIN_S):
        """The status document once the workflow is over."""

        def probe():
            found = self.status()
            return found if found["status"] in {"completed", "failed"} else None

        return eventually(probe, within_s)


class Contract:
    """The engine, its kind, and unique names."""

    def __init__(self, http: httpx.Client, differences: dict) -> None:
        self.http = http
        self.url = str(http.base_url)
        self.kind = "embedded" if "embedded" in http.get("/api/v1/info").json()["features"] else "server"
        self._differences = differences
        self._prefix = f"contract-{secrets.token_hex(4)}"
        self._names = 0

    def difference(self, id_: str):
        """Returns the expected behaviour of known difference `id_` on this kind of engine."""
        return self._differences[id_][self.kind]

    def name(self) -> str:
        """A fresh name for a definition, a worker type or a key."""
        self._names += 1
        return f"{self._prefix}-{self._names}"

    def definition(self, *steps, worker: str):
        return {"name": self.name(), "activities": [{"worker": worker, **step} for step in steps]}

    def deploy(self, definition):
        return self.http.post("/api/v1/workflow_definitions", json=definition)

    def submit(self, name, **fields):
        return self.http.post("/api/v1/workflows", json={"definition_name": name, "input": {}, **fields})

    def flow(self, *steps, **fields) -> Flow:
        """Deploy and submit the given activities."""
        worker = self.name()
        definition = self.definition(*(steps or ({"key": "a"},)), worker=worker)
        version = self.deploy(definition).json()["version"]
        reply = self.submit(definition["name"], version=version, **fields)
        assert reply.status_code == 201, reply.text
        return Flow(self, reply.json()["workflow_id"], worker)


def client(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, timeout=30, trust_env=False)


@pytest.fixture(scope="session")
def differences():
    return tomllib.loads(Path(__file__).with_name("differences.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def engine(request, differences):
    """The engine under contract."""
    with contextlib.ExitStack() as stack:
        url = option(request.config, "engine_url")
        if url is None:
            _, url = stack.enter_context(embedded())
        yield Contract(stack.enter_context(client(url)), differences)


@pytest.fixture(scope="session")
def closed(request):
    """(client, client id, secret) of an engine that has credentials."""
    config = request.config
    client_id, path = option(config, "engine_client_id"), option(config, "engine_client_secret_file")
    with contextlib.ExitStack() as stack:
        if option(config, "engine_url") is None:
            client_id, secret = "contract", secrets.token_hex(8)
            _, url = stack.enter_context(embedded("--client-id", client_id, secret=secret))
        elif client_id and path:
            url, secret = option(config, "engine_url"), Path(path).read_text(encoding="utf-8").strip()
        else:
            pytest.skip("needs --engine-client-id and --engine-client-secret-file")
        yield stack.enter_context(client(url)), client_id, secret


@pytest.fixture
def stoppable(request):
    """(pid, URL) of an engine that may be stopped."""
    with contextlib.ExitStack() as stack:
        if option(request.config, "engine_url") is None:
            process, url = stack.enter_context(embedded())
            yield process.pid, url
        elif option(request.config, "engine_pid"):
            yield option(request.config, "engine_pid"), option(request.config, "engine_url")
        else:
            pytest.skip("needs --engine-pid: this test stops the engine")


@pytest.fixture
def wait_until():
    """`eventually`, for tests."""
    return eventually
