"""When a process polls: the rules are tried in `test_pacing.py`; here is what following them must not cost."""

from __future__ import annotations

import subprocess
import sys

_KEPT = """
import gc, sys
from flowherd.settings.worker_config import WorkerConfig
from flowherd.ledger import Ledger, RecordWriter
from flowherd.ledger.wakeups import Wakeups
from flowherd.ledger.siblings import Siblings
from flowherd.worker.turns import Turns
ledger = Ledger(processes=1, records=4)
segment = ledger.segments[0]
segment.open(index=0, incarnation=1, now=1.0)
RecordWriter(segment)
turns = Turns(WorkerConfig(), Siblings(ledger.segments, segment, Wakeups(len(ledger.segments))), 1.0)
turns.began(1.0)
turns.found(1, 0, began_at=1.0, now=1.0, is_light=True)
def look():
    waits = 0
    between = []  # so that nothing is made where something else has just gone
    for _ in range(500):
        waits += turns.next_at(1.0, is_roomy=True) > 1.0
        between.append(bytes(20))
    return waits
look()
getattr(sys, "_clear_type_cache", int)()
gc.collect()
before = sys.getallocatedblocks()
waits = look()
gc.collect()
print(waits, sys.getallocatedblocks() - before)
"""


def test_to_look_again_and_again_leaves_nothing_in_the_interpreters_caches() -> None:
    """Python 3.11 matches by place with a name that is new each time, and a cache of thousands keeps each."""
    done = subprocess.run(
        [sys.executable, "-c", _KEPT], capture_output=True, text=True, check=True, timeout=60
    )
    waits, kept = map(int, done.stdout.split())
    assert waits == 500, "a turn that polls shows nothing"
    assert kept < 100
