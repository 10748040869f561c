"""Workers beside each other on the real server: its published scenarios, what they cost and how often they ask.

    python tests/bench/real_engine.py --engine-url http://127.0.0.1:8080 [--repeat 5] [--scenario NAME …] [--slots 16]
                                      [--rust PROGRAM] [--json FILE] [--only PART]

    Sequential-5         100 workflows of five activities one after the other, 10 at a time
    Parallel-10          50 workflows of one activity, ten beside each other and one at the end, 10 at a time
    High-Concurrency-3   300 workflows of three activities one after the other, 100 at a time
    Lone-chain           two workflows of twenty activities, one at a time

Every activity is the no-op of `noop_worker.py`, whose program stock and ours run unchanged. As the server's own
benchmark does, each workflow's status is asked for every 50 ms. Shown are workflows a second, polls an activity and the
share of those that brought nothing, CPU of all the host's worker processes an activity. One that is not done after 30 s
counts as hung. The client's name and secret are those of KRUXIAFLOW_CLIENT_ID and KRUXIAFLOW_CLIENT_SECRET.

Start the server with `serve --insecure-dev --no-worker --migrate --seed-client` on a PostgreSQL of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
from bench_kit import CREDENTIALS, HERE, RUST, STOCK, arguments, cpu_s, flowherd, run, running, slots, stock
from sheet import Gate, Sheet

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    import psutil

APP = "noop_worker"
LOOKS_S, HUNG_AFTER_S = 0.05, 30.0
ONE, TWO = "flowherd -p 1", "flowherd -p 2"


def activity(key: str, *after: str) -> dict[str, Any]:
    """A no-op that waits for others."""
    return {"key": key, "worker": "py-std", "activity_name": "noop", "depends_on": list(after)}


def sequence(count: int) -> list[dict[str, Any]]:
    """Activities one after the other."""
    first, *rest = (f"step_{number}" for number in range(count))
    return [activity(first), *(activity(key, f"step_{number}") for number, key in enumerate(rest))]


def fan(count: int) -> list[dict[str, Any]]:
    """Activities beside each other, between a first and a last one."""
    beside = [f"beside_{number}" for number in range(count)]
    return [activity("first"), *(activity(key, "first") for key in beside), activity("last", *beside)]


@dataclass(frozen=True)
class Scenario:
    """So many workflows of these activities, so many at a time; at most so many polls an activity, so many empty."""

    name: str
    activities: list[dict[str, Any]]
    workflows: int
    at_once: int
    most_polls: float | None = None
    most_empty: float | None = None

    def gates(self, who: str) -> Iterator[Gate]:
        """For one of ours."""
        if self.most_polls is not None:
            yield Gate(f"{self.name}, polls an activity", who, "<=", self.most_polls)
        if self.most_empty is not None:
            yield Gate(f"{self.name}, empty polls %", who, "<=", self.most_empty)
        if self.at_once > 1:
            yield Gate(f"{self.name}, workflows/s", who, ">=", 1, of=STOCK)
        if self.most_empty is not None:
            yield Gate(f"{self.name}, CPU ms an activity", who, "<=", 1 / 6, of=STOCK)


SCENARIOS = (
    Scenario("Sequential-5", sequence(5), 100, 10, 0.8, 30),
    Scenario("Parallel-10", fan(10), 50, 10, 0.8, 30),
    Scenario("High-Concurrency-3", sequence(3), 300, 100),
    Scenario("Lone-chain", sequence(20), 2, 1, 1.5),
)


class Client:
    """Deploys and submits."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self._http = http
        self._url = f"{url.rstrip('/')}/api/v1"

    async def log_in(self) -> None:
        """Takes a token for all calls."""
        name, secret = credentials().values()
        form = {"grant_type": "client_credentials", "client_id": name, "client_secret": secret}
        reply = (await self._http.post(f"{self._url}/oauth/token", data=form)).raise_for_status()
        self._http.headers["Authorization"] = f"Bearer {reply.json()['access_token']}"

    async def deploy(self, scenario: Scenario) -> dict[str, Any]:
        """Returns the body that submits a workflow of it."""
        name = f"bench-{scenario.name}"
        definition = {"name": name, "activities": scenario.activities}
        reply = (
            await self._http.post(f"{self._url}/workflow_definitions", json=definition)
        ).raise_for_status()
        return {"definition_name": name, "version": reply.json()["version"], "input": {}}

    async def run(self, order: dict[str, Any]) -> bool:
        """Submits a workflow and waits for it; False for one that hangs."""
        give_up_at = time.monotonic() + HUNG_AFTER_S
        reply = (await self._http.post(f"{self._url}/workflows", json=order)).raise_for_status()
        where = f"{self._url}/workflows/{reply.json()['workflow_id']}"
        while time.monotonic() < give_up_at:
            status = (await self._http.get(where)).raise_for_status().json()["status"]
            if status == "completed":
                return True
            if status == "failed":
                raise RuntimeError(f"{where} has failed")
            await asyncio.sleep(LOOKS_S)
        return False

    async def run_all(self, order: dict[str, Any], workflows: int, at_once: int) -> tuple[float, int]:
        """Seconds that it took, and how many hung."""
        places = asyncio.Semaphore(at_once)

        async def one() -> bool:
            async with places:
                return await self.run(order)

        begun_at = time.monotonic()
        done = await asyncio.gather(*(one() for _ in range(workflows)))
        return time.monotonic() - begun_at, done.count(False)


class CountingProxy:
    """What the worker calls instead of the engine."""

    def __init__(self, engine_url: str) -> None:
        words = [sys.executable, str(HERE / "counting_proxy.py"), engine_url]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def counts(self) -> dict[str, int]:
        """Polls, and those that brought nothing, since it was last asked."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return {"polls": 0, "empty": 0} | json.loads(self._line())

    def stop(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextmanager
def counting_proxy(engine_url: str) -> Iterator[CountingProxy]:
    """For as long as the block lasts."""
    proxy = CountingProxy(engine_url)
    try:
        yield proxy
    finally:
        proxy.stop()


def credentials() -> dict[str, str]:
    """The client's name and secret."""
    return {name: os.environ.get(name, default) for name, default in CREDENTIALS.items()}


async def measured(
    options: argparse.Namespace, proxy: CountingProxy, root: psutil.Process
) -> dict[str, float]:
    """All scenarios, on one worker."""
    found: dict[str, float] = {}
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    async with httpx.AsyncClient(timeout=60.0, limits=limits, trust_env=False) as http:
        client = Client(options.engine_url, http)
        await client.log_in()
        orders = [(one, await client.deploy(one)) for one in SCENARIOS if named(one, options)]
        await client.run_all(orders[0][1], 20, 10)  # to warm up
        for one, order in orders:
            proxy.counts()
            cpu_before_s = cpu_s(root)
            took_s, hung = await client.run_all(order, one.workflows, one.at_once)
            cpu = cpu_s(root) - cpu_before_s
            counts, activities = proxy.counts(), (one.workflows - hung) * len(one.activities)
            found |= {
                f"{one.name}, workflows/s": (one.workflows - hung) / took_s,
                f"{one.name}, polls an activity": counts["polls"] / activities,
                f"{one.name}, empty polls %": 100 * counts["empty"] / max(counts["polls"], 1),
                f"{one.name}, CPU ms an activity": 1e3 * cpu / activities,
                f"{one.name}, hung": hung,
            }
    return found


def measure(words: tuple[str, ...], options: argparse.Namespace) -> dict[str, float]:
    """All scenarios, with one kind of worker."""
    with (
        counting_proxy(options.engine_url) as proxy,
        running(words, proxy.url, **slots(options.slots, options.slots)) as root,
    ):
        return asyncio.run(measured(options, proxy, root))


def named(scenario: Scenario, options: argparse.Namespace) -> bool:
    """Whether it was asked for; all are where none is named."""
    return not options.scenario or scenario.name in options.scenario


def main() -> int:
    """Runs all in turn, `--repeat` times."""
    parser = arguments(__doc__, repeat=5, has_rust=True)
    parser.add_argument("--engine-url", required=True, metavar="URL")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--scenario", nargs="+", choices=[one.name for one in SCENARIOS], metavar="NAME")
    options = parser.parse_args()
    gates = [
        gate for one in SCENARIOS if named(one, options) for who in (ONE, TWO) for gate in one.gates(who)
    ]
    sheet = Sheet("real engine", f"{options.engine_url}, {options.slots} slots a host", gates)
    sheet.asides += [f"{one.name}, hung" for one in SCENARIOS]
    contenders = {STOCK: stock(APP), ONE: flowherd(APP, "-p", "1"), TWO: flowherd(APP, "-p", "2")}
    if options.rust:
        contenders[RUST] = (options.rust,)
    else:
        sheet.left_out[RUST] = "no --rust"
    return run(sheet, options, {who: partial(measure, words, options) for who, words in contenders.items()})


if __name__ == "__main__":
    sys.exit(main())
