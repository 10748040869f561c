"""What hosting an activity costs in CPU: no-ops through the stock worker and through flowherd.

    python tests/bench/noop_cost.py [--activities 20000] [--repeat 3] [--slots 64] [--delay-ms 0] [--json]
                                    [--tuned PYTHON]

The same unchanged worker program with one activity that does nothing, against a stub engine each, with the same
concurrency and batches of 100; *own handler* is that activity written for flowherd, without the stock SDK's objects.
Counted is user + system CPU time of every process of the host (flowherd: supervisor, keeper, worker), after a
warm-up, for each completed activity; the stub is shown, not counted. `--delay-ms` is how long the engine takes to
answer. `--tuned` names the Python of an environment with `kruxiaflow`, `sniffio` and `uvloop`: the stock worker at
its best; without it these runs are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

from bench_kit import cpu_s, flowherd, medians, quantile, running, running_stub, slots, stock

WARM_UP = 300
STOCK, TUNED = "stock", "stock, tuned"


def contenders(tuned: str | None) -> dict[str, tuple[str, ...]]:
    """Every way to run the program."""
    found = {STOCK: stock("noop_worker")}
    if tuned:
        found[TUNED] = stock("noop_worker", tuned, tuned=True)
    for transport in ("httpx-pool", "direct"):
        found[f"flowherd, {transport}"] = flowherd("noop_worker", "-p", "1", "--transport", transport)
    found["flowherd, own handler"] = flowherd("native_noop:registry", "-p", "1")
    return found


def measure(words: tuple[str, ...], options: argparse.Namespace) -> dict[str, float]:
    """One run: CPU for each activity, activities a second, and how long each was out."""
    with (
        running_stub(options.delay_ms) as stub,
        running(words, stub.url, **slots(options.slots, 100)) as root,
    ):
        stub.tell("fill", count=WARM_UP)
        stub.tell("wait", count=WARM_UP)
        stub.tell("clear")
        stub_before_s = stub.tell("fill", count=options.activities)["cpu_s"]
        cpu_before_s, begun_at = cpu_s(root), time.monotonic()
        report = stub.tell("wait", count=options.activities)
        wall_s = time.monotonic() - begun_at
        return {
            "cpu_us": (cpu_s(root) - cpu_before_s) / options.activities * 1e6,
            "per_s": options.activities / wall_s,
            "stub_us": (report["cpu_s"] - stub_before_s) / options.activities * 1e6,
            "polls": report["counts"]["polls"],
            "out_p50_ms": quantile(report["acknowledged_s"], 0.5) * 1e3,
            "out_p99_ms": quantile(report["acknowledged_s"], 0.99) * 1e3,
        }


def main() -> None:
    """Runs all in turn, `--repeat` times, and prints medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activities", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--tuned", metavar="PYTHON")
    parser.add_argument("--only", help="a part of the names of those to run")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chosen = {n: w for n, w in contenders(options.tuned).items() if (options.only or "") in n}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    for _ in range(options.repeat):
        for name, words in chosen.items():
            runs[name].append(measure(words, options))
    rows: dict[str, dict[str, Any]] = {name: medians(found) for name, found in runs.items()}
    for row in rows.values():
        row["of"] = {base: rows[base]["cpu_us"] / row["cpu_us"] for base in (STOCK, TUNED) if base in rows}
    if options.json:
        print(json.dumps({"options": vars(options), "cores": os.cpu_count(), "medians": rows, "runs": runs}))
        return
    print(
        f"{options.activities} no-ops, {options.slots} slots, an engine that takes {options.delay_ms:g} ms; "
        f"{os.cpu_count()} cores, shared; medians of {options.repeat}"
    )
    print(f"{'':24}{'CPU us':>8}{'a second':>10}{'out p50':>9}{'p99 ms':>8}{'polls':>7}{'stub us':>9}")
    for name, row in rows.items():
        print(
            f"{name:24}{row['cpu_us']:8.0f}{row['per_s']:10.0f}{row['out_p50_ms']:9.1f}{row['out_p99_ms']:8.1f}"
            f"{row['polls']:7.0f}{row['stub_us']:9.1f}"
            + "".join(f"  1/{ratio:.1f} of {base}" for base, ratio in row["of"].items() if base != name)
        )


if __name__ == "__main__":
    main()
