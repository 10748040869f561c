"""The CPU cost of the ledger for an activity, and for the keeper that reads it.

python tests/bench/ledger_cost.py [--repeat 7] [--activities 20000] [--json FILE]
"""

from __future__ import annotations

import sys
import time
from functools import partial

from bench_kit import arguments, run
from sheet import Sheet

from flowherd.ledger import Ledger, RecordWriter, Segment
from flowherd.ledger.attempt_history import End

IDS = [f"0193a1b2-0000-7000-8000-{number:012x}" for number in range(64)]
FLOW = "0193a1b2-0000-7000-8000-ffffffffffff"
WORKER_ID = "a-host-name-3121-9f2c01-1234"
COMPLETION = b'{"worker_id":"a-host-name-3121-9f2c01-1234","output":{"result":42}}'
SCANS, HELD = 100, 100
LIFE, SCAN = "claim to clear, us", f"a look at {HELD} records, us"


def opened(records: int) -> tuple[Segment, RecordWriter]:
    """Opens the segment of one process; returns it with the process's own view."""
    segment = Ledger(processes=1, records=records).segments[0]
    segment.open(index=0, incarnation=1, now=0.0)
    return segment, RecordWriter(segment)


def life(completion: bytes | None, activities: int) -> dict[str, float]:
    """Measures the CPU for claim, running, reporting, clear and an entry in the history."""
    _, writer = opened(110)
    begun_s = time.process_time()
    for number in range(activities):
        index, sequence = writer.claim(
            IDS[number & 63], WORKER_ID, "resize_image", now=1.0, lease_s=60.0, workflow_id=FLOW, key="resize"
        )
        writer.running(index, now=1.0, limit_s=300.0)
        writer.reporting(index, completion)
        writer.clear(index)
        writer.remember(index, sequence, 1.0, 1.1, 1.2, End.COMPLETED, None)
    return {LIFE: (time.process_time() - begun_s) / activities * 1e6}


def scan() -> dict[str, float]:
    """Measures the CPU for a keeper's scan of the records of a process."""
    segment, writer = opened(500)
    for number in range(HELD):
        writer.claim(IDS[number & 63], WORKER_ID, "resize_image", now=1.0, lease_s=60.0)
    begun_s = time.process_time()
    for _ in range(SCANS):
        assert sum(1 for _ in segment.records()) == HELD
    return {SCAN: (time.process_time() - begun_s) / SCANS * 1e6}


def main() -> int:
    """Measures all in turn, `--repeat` times."""
    parser = arguments(__doc__, repeat=7)
    parser.add_argument("--activities", type=int, default=20_000)
    options = parser.parse_args()
    sheet = Sheet("ledger", f"{options.activities} activities, one after the other")
    return run(
        sheet,
        options,
        {
            "result kept": partial(life, COMPLETION, options.activities),
            "nothing kept": partial(life, None, options.activities),
            "keeper": scan,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
