"""`python tests/chaos/soak.py`: storms and measures as one table, with the seed that repeats them."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from chaos import endurance, measures, storm, suites
from chaos.kill_storm import killed_everywhere
from chaos.measures import Row

STORMS = {
    "short": (
        ("M1", storm.SHORT),
        ("M1f", storm.HARASSED_SHORT),
        ("M1p", storm.SUSPICIOUS),
        ("M2", storm.CALM_SHORT),
    ),
    "long": (("M1", storm.LONG), ("M1f", storm.HARASSED), ("M1p", storm.SUSPICIOUS), ("M2", storm.CALM)),
}
NAMES = {
    "M1": "soak: kills, restarts, resets",
    "M1f": "soak: killed and frozen",
    "M1p": "soak: killed, poison about",
    "M2": "calm duplicates",
}
MEASURES = (
    killed_everywhere,
    measures.kills,
    measures.unbegun,
    measures.orphans,
    measures.drains,
    endurance.blocked,
    endurance.crash_loops,
    endurance.poison,
    endurance.tokens,
    endurance.outage,
    endurance.drift,
    suites.hostile_replies,
    suites.hostile_code,
    suites.lease_model,
    suites.engine_fuzz,
    suites.mutations,
    suites.conformance,
)
SCALES = {"short": measures.SHORT, "long": measures.LONG}


def main() -> int:
    """Runs a profile; returns 0 when every target was met."""
    parser = argparse.ArgumentParser(description="The scorecard of faults.md §3, on this machine.")
    parser.add_argument("--profile", choices=sorted(STORMS), default="short")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--only", default="", help="names of storms and measures, such as M1,kills,outage")
    parser.add_argument("--transport", choices=("direct", "httpx"), default="direct")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not options.json:
        print(f"profile {options.profile}, seed {options.seed}", flush=True)
    rows = list(_rows(options, set(filter(None, options.only.split(",")))))
    if options.json:
        print(
            json.dumps(
                {"profile": options.profile, "seed": options.seed, "rows": [asdict(row) for row in rows]}
            )
        )
    return 0 if all(row.is_met for row in rows) else 1


def _rows(options: argparse.Namespace, only: set[str]):
    seed, quiet = options.seed, options.json
    for name, wanted in STORMS[options.profile]:
        if not only or name in only:
            stormy = replace(wanted, transport=options.transport)
            yield from _said(_storm(name, stormy, seed), quiet=quiet)
    for measure in MEASURES:
        if not only or measure.__name__ in only:
            with tempfile.TemporaryDirectory(prefix="soak-") as folder:
                yield from _said(measure(Path(folder), SCALES[options.profile], seed), quiet=quiet)


def _storm(name: str, profile: storm.Profile, seed: int) -> list[Row]:
    started_at = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        judgement = storm.storm(Path(folder), profile, seed)
    took = f" in {time.monotonic() - started_at:.0f} s"
    if not judgement.is_good:
        print(judgement, file=sys.stderr)
    secrets = judgement.complaints["secrets seen"]
    return [
        Row(name, NAMES[name], judgement.summary() + took, "0 of everything", judgement.is_good),
        Row("M18", "canary secrets seen", f"{len(secrets)} in {name}", "0", not secrets),
    ]


def _said(rows: list[Row], *, quiet: bool) -> list[Row]:
    if not quiet:
        for row in rows:
            print(
                f"{'ok  ' if row.is_met else 'MISS'} {row.id:4} {row.what:32} {row.result}  [{row.target}]",
                flush=True,
            )
    return rows


if __name__ == "__main__":
    sys.exit(main())
