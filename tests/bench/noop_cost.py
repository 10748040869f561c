"""The CPU cost of hosting an activity: no-ops through the stock worker and through flowherd.

    python tests/bench/noop_cost.py [--activities 4000] [--repeat 3] [--slots 64] [--delay-ms 0] [--json FILE]
                                    [--tuned PYTHON] [--rust PROGRAM] [--only PART]

The same unchanged worker program with one activity that does nothing, against a stub engine each, with the same
concurrency and batches of 100; *own handler* is that activity written for flowherd, without the stock SDK's objects,
*rust* the same written for the public Rust SDK. Counted is user + system CPU time of every process of the host
(flowherd: supervisor, keeper, worker), after a warm-up, for each completed activity; the stub is shown, not counted.
Who is ten times as fast gets ten times as many: on a shared machine, whose speed changes from one second to the next,
all must be measured for about as long.
`--delay-ms` is how long the engine takes to answer. `--tuned` names the Python of an environment with `kruxiaflow`,
`sniffio` and `uvloop`: the stock worker at its best.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING

from bench_kit import STUB, arguments, cpu_s, flowherd, quantile, rivals, run, running, running_stub, slots
from sheet import STOCK, Gate, Sheet

if TYPE_CHECKING:
    import argparse

WARM_UP = 300
CPU, RATE, P99 = "CPU, ms for 1,000", "a second", "handed out to acknowledged, p99 ms"
DIRECT, OWN = "flowherd, direct", "flowherd, own handler"
AS_MANY = {DIRECT: 10, OWN: 10}  # times as the stock worker


def gates(options: argparse.Namespace) -> list[Gate]:
    """Returns the targets for these slots and this engine."""
    match options.delay_ms, options.slots:
        case 0.0, 64:
            return [
                Gate(CPU, DIRECT, "<=", 1 / 25, STOCK),
                Gate(CPU, OWN, "<=", 1 / 30, STOCK),
                Gate(P99, DIRECT, "<=", 10),
            ]
        case 5.0, 16:
            return [Gate(RATE, DIRECT, ">=", 3, STOCK)]
        case 5.0, 256:
            return [Gate(RATE, DIRECT, ">=", 20, STOCK)]
    return []


def measure(words: tuple[str, ...], count: int, options: argparse.Namespace) -> dict[str, float]:
    """Measures one run of `count`: CPU per activity, activities per second, and their durations."""
    with (
        running_stub(options.delay_ms) as stub,
        running(words, stub.url, **slots(options.slots, 100)) as root,
    ):
        stub.wait_for_pollers(1, root)
        stub.do(WARM_UP)
        stub.tell("clear")
        stub_before_s = stub.tell("fill", count=count)["cpu_s"]
        cpu_before_s, begun_at = cpu_s(root), time.monotonic()
        report = stub.tell("wait", count=count)
        wall_s = time.monotonic() - begun_at
        return {
            CPU: (cpu_s(root) - cpu_before_s) / count * 1e6,
            RATE: count / wall_s,
            P99: quantile(report["acknowledged_s"], 0.99) * 1e3,
            STUB: (report["cpu_s"] - stub_before_s) / wall_s * 100,
        }


def main() -> int:
    """Runs all in turn, `--repeat` times."""
    parser = arguments(__doc__, has_rust=True)
    parser.add_argument("--activities", type=int, default=4000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    options = parser.parse_args()
    engine = f"an engine that takes {options.delay_ms:g} ms"
    sheet = Sheet(
        "noop",
        f"{options.activities} no-ops and up to ten times as many, {options.slots} slots, {engine}",
        gates(options),
    )
    sheet.asides.append(STUB)
    contenders = rivals("noop_worker", options, sheet)
    contenders[DIRECT] = flowherd("noop_worker", "-p", "1")
    contenders[OWN] = flowherd("native_noop:registry", "-p", "1")
    counts = {who: options.activities * AS_MANY.get(who, 1) for who in contenders}
    return run(
        sheet,
        options,
        {who: partial(measure, words, counts[who], options) for who, words in contenders.items()},
    )


if __name__ == "__main__":
    sys.exit(main())
