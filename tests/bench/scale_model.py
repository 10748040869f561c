"""The load of hosts on an engine, by simulation of up to 10,000 of them, without a clock or I/O.

    python tests/bench/scale_model.py [--hosts 10,100,1000,10000] [--children 8] [--rate 100] [--seconds 20] [--json]

A host is N children that decide by `flowherd.worker.polling.rule` itself when to poll. The engine is a number of lanes
(connections of its database) that serve requests in order; a request costs a fixed time, and more for each activity it
hands out. Activities come as a Poisson stream for all hosts together and only wait. Three schemes:

    fixed   every child polls once an interval, as a stock worker does
    alone   every child paces itself, and knows no sibling
    host    the freest of a host's children asks for all

It says how many requests reach the engine and how busy that is; how long activities wait to be taken; how long requests
wait to be served, which for a heartbeat must not come near a lease; and how evenly the hosts got work: variance through
mean of activities per host, 1 for pure chance. What the engine needs for a request is an assumption (`--poll-ms`,
`--claim-ms`, `--report-ms`, `--lanes`); the ratios between schemes hardly depend on it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from bench.scale_engine import EPOCH_S, Engine, Shape, World

from flowherd.worker.polling.rule import PollRule, Said, batch_size, freest

SCHEMES = ("fixed", "alone", "host")
POLL_MAX = 10


@dataclass(frozen=True)
class Outcome:
    """The result of a simulation, without its warm-up. `busy`: share of the engine's lanes."""

    hosts: int
    children: int
    scheme: str
    polls_per_s: float
    requests_per_s: float
    busy: float
    pick_up_p50_ms: float
    pick_up_p99_ms: float
    queue_p50_ms: float  # time a request, report or heartbeat waits for its turn
    queue_p99_ms: float
    unevenness: float
    waiting: int  # activities not claimed at the end


class Host:
    """A host's children, and the values they publish to each other."""

    def __init__(self, model: Model, rng: random.Random) -> None:
        self.claimed = 0
        self.children = [Child(model, self, number, rng) for number in range(model.shape.children)]


class Child:
    """One process: decides, polls, works, reports."""

    def __init__(self, model: Model, host: Host, number: int, rng: random.Random) -> None:
        self.model, self.host = model, host
        shape = model.shape
        self.said = Said(number, slots=shape.slots)
        self._rule = PollRule(shape.interval_s, shape.longest_s, 0.0, rng)
        self._held = self._had = self._alarm = 0
        self._is_polling = False
        self._next_at = 0.0  # of the scheme `fixed`

    def look(self, alarm: int | None = None) -> None:
        """Polls, or decides when to look again; an outdated alarm is ignored."""
        if self._is_polling or (alarm is not None and alarm != self._alarm):
            return
        free = self.model.shape.slots - self._held
        if free <= 0:
            return
        fixed = self.model.shape.scheme == "fixed"
        at = self._next_at if fixed else self._rule.next_at(self.said, self._siblings())
        if at <= self.model.world.now:
            self._poll(free)
        else:
            self._alarm += 1
            self.model.world.at(at, self.look, self._alarm)

    def _siblings(self) -> list[Said]:
        if self.model.shape.scheme != "host":
            return []
        return [one.said for one in self.host.children if one is not self]

    def _poll(self, free: int) -> None:
        world, now, others = self.model.world, self.model.world.now, self._siblings()
        asked = min(
            POLL_MAX,
            batch_size(free, self.said.slots, self._had - self._held, has_siblings=bool(others)),
        )
        self._had = self._held
        self._is_polling = True
        self.said = self.said._replace(polled_at=now, pause_s=self._rule.began(now, others))
        self.model.polls += 1
        world.at(
            now + self.model.shape.trip_s / 2,
            self.model.engine.ask,
            asked,
            lambda batch: self._answered(asked, batch),
        )

    def _answered(self, asked: int, batch: list[float]) -> None:
        model, now = self.model, self.model.world.now
        self._is_polling = False
        self._next_at = now + model.shape.interval_s
        self._held += len(batch)
        self._had += len(batch)
        self.host.claimed += len(batch)
        model.pick_ups += [now - ready_at for ready_at in batch]
        others, said_s = self._siblings(), self.said.pause_s
        pause_s = self._rule.answered(asked, len(batch), now, others)
        self.said = self.said._replace(load=self._held, pause_s=pause_s, worked_at=self._rule.worked_at)
        if pause_s < said_s and (one := freest(self.said, others)) is not None:
            model.world.at(now, self.host.children[one.number].look)
        for _ in batch:
            model.world.at(now + model.shape.work_s, self._ended)
        self.look()

    def _ended(self) -> None:
        self._held -= 1
        self.said = self.said._replace(load=self._held)
        self.model.world.at(
            self.model.world.now + self.model.shape.trip_s / 2, self.model.engine.ask, 0, self._acknowledged
        )
        self.look()

    def _acknowledged(self, _: list[float]) -> None:
        now = self.model.world.now
        self._rule.acknowledged("", now)
        self.said = self.said._replace(worked_at=now)
        self.look()


class Model:
    """A whole simulation."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.world = World()
        self.engine = Engine(self.world, shape)
        self.polls = 0
        self.arrived = 0
        self.pick_ups: list[float] = []
        self._rng = random.Random(shape.seed)
        self.hosts = [Host(self, self._rng) for _ in range(shape.hosts)]
        longest_s = shape.interval_s if shape.scheme == "fixed" else shape.longest_s
        for host in self.hosts:
            for child in host.children:
                self.world.at(EPOCH_S + self._rng.uniform(0.0, longest_s), child.look)
        if shape.rate:
            self.world.at(EPOCH_S + self._rng.expovariate(shape.rate), self._arrive)

    def _arrive(self) -> None:
        self.arrived += 1
        self.engine.ready.append(self.world.now)
        self.world.at(self.world.now + self._rng.expovariate(self.shape.rate), self._arrive)

    def run(self) -> Outcome:
        """Warms up, then counts."""
        shape, engine = self.shape, self.engine
        self.world.run_until(EPOCH_S + shape.warm_up_s)
        polls, requests, busy_s = self.polls, engine.requests, engine.busy_s
        before = [host.claimed for host in self.hosts]
        self.pick_ups.clear()
        engine.waits.clear()
        self.world.run_until(EPOCH_S + shape.warm_up_s + shape.seconds)
        claimed = [host.claimed - earlier for host, earlier in zip(self.hosts, before, strict=True)]
        mean = statistics.fmean(claimed)
        return Outcome(
            hosts=shape.hosts,
            children=shape.children,
            scheme=shape.scheme,
            polls_per_s=(self.polls - polls) / shape.seconds,
            requests_per_s=(engine.requests - requests) / shape.seconds,
            busy=min((engine.busy_s - busy_s) / shape.seconds / shape.lanes, 1.0),
            pick_up_p50_ms=quantile_ms(self.pick_ups, 0.5),
            pick_up_p99_ms=quantile_ms(self.pick_ups, 0.99),
            queue_p50_ms=quantile_ms(engine.waits, 0.5),
            queue_p99_ms=quantile_ms(engine.waits, 0.99),
            unevenness=statistics.pvariance(claimed) / mean if mean else 0.0,
            waiting=len(engine.ready),
        )


def quantile_ms(values: list[float], share: float) -> float:
    """0 without values."""
    return sorted(values)[int(len(values) * share)] * 1e3 if values else 0.0


def main() -> int:
    """Simulates all schemes for each number of hosts, and prints a row for each."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--hosts", default="10,100,1000,10000")
    options.add_argument("--schemes", default=",".join(SCHEMES))
    options.add_argument("--children", type=int, default=8)
    options.add_argument("--rate", type=float, default=100.0, help="activities a second, 0 for idle hosts")
    options.add_argument("--seconds", type=float, default=20.0, help="simulated ones that count")
    options.add_argument("--poll-ms", type=float, default=1.0)
    options.add_argument("--claim-ms", type=float, default=0.5)
    options.add_argument("--report-ms", type=float, default=2.0)
    options.add_argument("--lanes", type=int, default=8)
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    costs = {
        "poll_s": given.poll_ms / 1e3,
        "claim_s": given.claim_ms / 1e3,
        "report_s": given.report_ms / 1e3,
    }
    base = Shape(children=given.children, rate=given.rate, seconds=given.seconds, lanes=given.lanes, **costs)
    names = ("hosts", "scheme", "polls/s", "requests/s", "engine busy")
    names += ("pick-up p50", "p99 ms", "queue p50", "p99 ms", "unevenness")
    if not given.json:
        print("".join(f"{name:>12}" for name in names))
    for hosts in map(int, given.hosts.split(",")):
        for scheme in given.schemes.split(","):
            found = Model(replace(base, hosts=hosts, scheme=scheme)).run()
            if given.json:
                print(json.dumps(asdict(found)), flush=True)
                continue
            print(
                f"{found.hosts:>12,}{found.scheme:>12}{found.polls_per_s:>12,.0f}{found.requests_per_s:>12,.0f}"
                f"{found.busy:>12.0%}{found.pick_up_p50_ms:>12,.1f}{found.pick_up_p99_ms:>12,.1f}"
                f"{found.queue_p50_ms:>12,.1f}{found.queue_p99_ms:>12,.1f}{found.unevenness:>12.2f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
