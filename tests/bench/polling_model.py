"""A host's polling in simulated time: idle requests, pick-up, spread, and engines that are slow with steps.

    python tests/bench/polling_model.py [--only PART] [--seeds 10]

A host is N processes that decide by the product's own rule (`flowherd.worker.polling.rule`) and publish in a real
ledger (`tests/support/polling_kit.py`); the engine answers in 1 ms.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from polling_kit import Item, SimHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Row = tuple[str, str]


def quantile(values: list[float], share: float) -> float:
    """One of the values."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def _ms(values: list[float]) -> str:
    return f"p50 {quantile(values, 0.5) * 1e3:6.1f} p95 {quantile(values, 0.95) * 1e3:6.1f} ms"


def idle(_: int) -> Iterator[Row]:
    """Requests a second of a host that had work lately, and of one that had none for long."""
    for children in (1, 8, 64):
        host = SimHost(children, longest_s=2.0)
        begun = host.run(20.0).now
        lately = len(host.run(60.0).polls_after(begun)) / 60
        begun = host.run(1200.0).now
        yield (
            f"idle, {children} processes",
            f"{lately:.1f} a second, long idle {len(host.run(60.0).polls_after(begun)) / 60:.1f}",
        )


def lone(_: int) -> Iterator[Row]:
    """A lone activity on a quiet host, and a stream of 20 a second."""
    for children in (1, 8, 64):
        host = SimHost(children)
        host.arrive(*(Item(1005.0 + number * 0.75 + host.rng.random() * 0.3) for number in range(300)))
        yield f"lone, {children} processes", _ms(host.run(240.0).pick_ups)
        host, at = SimHost(children), 1005.0
        for _number in range(2000):
            at += host.rng.expovariate(20.0)
            host.arrive(Item(at))
        host.run(at - 999.0)
        asked = len(host.polls) / (at - 1000)
        yield f"stream, {children} processes", f"{_ms(host.pick_ups)}, {asked:.0f} polls a second"


def spread(seeds: int) -> Iterator[Row]:
    """Bursts of activities that only wait, one after the other."""
    for children, count, least, most in ((2, 8, 4, 4), (2, 3, 1, 2), (4, 12, 2, 4)):
        even, late = 0, []
        for seed in range(seeds):
            host = SimHost(children, seed=seed).run(5.0)
            for _ in range(10):
                host.per_child.clear()
                host.pick_ups.clear()
                host.arrive(*[Item(host.now + 0.1 * host.rng.random(), 0.3)] * count)
                host.run(0.45)
                shares = [host.per_child[number] for number in host.children]
                even += min(shares) >= least and max(shares) <= most
                late += host.pick_ups
        yield f"{count} sleepers on {children}", f"{100 * even / seeds / 10:.0f} % even, {_ms(late)}"


def burst(_: int) -> Iterator[Row]:
    """10,000 no-ops at once."""
    for children in (1, 2, 8):
        host = SimHost(children, slots=64).run(5.0)
        begun = host.now
        host.arrive(*[Item(host.now, 0.001)] * 10_000)
        while host.queue or not host.pick_ups:
            host.run(0.01)
        polls = len(host.polls_after(begun))
        yield f"10,000 no-ops on {children}", f"{host.now - begun:.2f} s, {polls} polls"


def chains(_: int) -> Iterator[Row]:
    """Chains whose next step is ready a while after the receipt: polls a step, pick-up, learned pause."""
    delays: dict[str, Callable[[random.Random], float]] = {
        "2": lambda _: 0.002,
        "20": lambda rng: 0.02 * rng.uniform(0.9, 1.1),
        "50": lambda rng: 0.05 * rng.uniform(0.9, 1.1),
        "100": lambda rng: 0.1 * rng.uniform(0.9, 1.1),
        "150": lambda rng: 0.15 * rng.uniform(0.9, 1.1),
        "200": lambda rng: 0.2 * rng.uniform(0.9, 1.1),
        "50 to 200": lambda rng: rng.uniform(0.05, 0.2),
    }
    for children in (1, 2, 8):
        for name, delay in delays.items():
            for count in (1, 20):
                yield f"{count:2} chains, {name} ms, {children} processes", chain(children, delay, count)


def chain(children: int, delay: Callable[[random.Random], float], count: int) -> str:
    """Runs some chains beside each other, and measures them after 100 steps."""
    host, rng = SimHost(children, slots=32), random.Random(5)
    host.run(3.0)
    host.on_end = lambda item: host.arrive(Item(host.now + delay(rng), workflow=item.workflow))
    host.arrive(*(Item(host.now + rng.random()) for _ in range(count)))
    while len(host.pick_ups) < 100 * count:
        host.run(0.1)
    polls, begun = len(host.polls), len(host.pick_ups)
    while len(host.pick_ups) < begun + 200 * count:
        host.run(0.1)
    steps = host.pick_ups[begun:]
    rate = (len(host.polls) - polls) / len(steps)
    return f"{rate:.2f} polls a step, {_ms(steps)}{learned(host)}"


def learned(host: SimHost) -> str:
    """The pauses that the processes have learned."""
    steps = [child.rule.step.pause_s for child in host.children.values()]
    return f", learned {statistics.median(steps) * 1e3:.0f} ms"


PARTS = {"idle": idle, "lone": lone, "spread": spread, "burst": burst, "chains": chains}


def main() -> int:
    """Prints a row for each figure."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", choices=PARTS)
    options.add_argument("--seeds", type=int, default=10)
    given = options.parse_args()
    for name, part in PARTS.items():
        if given.only in (None, name):
            for what, figures in part(given.seeds):
                print(f"{what:40}{figures}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
