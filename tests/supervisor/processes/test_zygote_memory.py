"""The zygote's preparation of memory that its children share, after the import of the app."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

_PROBE = """
import gc, json
from flowherd import Registry
from flowherd.transport.wire_format import Origin
from flowherd.settings.worker_config import WorkerConfig
from flowherd.ledger import Ledger, records_needed
from flowherd.execution.load_app import LoadedApp
from flowherd.ledger.wakeups import Wakeups
from flowherd.worker.attempt_coordinator import Attempts
from flowherd.worker.polling import Poller
from flowherd.worker.reporter import Reporter
from flowherd_supervisor.processes import zygote
from flowherd_supervisor.processes.child_specs import Setups
config = WorkerConfig(client_id="me", client_secret="s")
ledger = Ledger(processes=1, records=records_needed(config.concurrency, config.poll_max))
setups = Setups("app:registry", ".", None, config, {}, config.concurrency, ledger, Wakeups(len(ledger.segments)))
loaded = LoadedApp("app:registry", Registry(worker_type="pictures"))
zygote._prepare(zygote.ZygoteSetup(setups, 1, 3), loaded)
read, sized = Origin.of.cache_info().misses, dict(setups.sizes)
Origin.of(config.api_url)
print(json.dumps({
    "read_again": Origin.of.cache_info().misses - read,
    "sizes": {slots: (one.concurrency, one.worker_type) for slots, one in sized.items()},
    "born": [setups._worker(0, ledger.segments[0], slots, 3, loaded).config is sized.get(slots) for slots in (5, 6, 7)],
    "frozen": gc.get_freeze_count(), "left": len(gc.get_objects()),
}))
"""


def told() -> dict[str, Any]:
    """Runs a program that prepares itself for forks, as after an import; returns its output."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=60, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_shared_memory_is_prepared_before_the_first_fork() -> None:
    """Each child then copies some pages instead of hundreds."""
    found = told()
    assert found["frozen"] > 10_000
    assert found["left"] < 1000, "a collection in a child would walk through what it shares"
    assert not found["read_again"], "the engine's URL"
    assert found["sizes"] == {"6": [6, "pictures"], "5": [5, "pictures"]}
    assert found["born"] == [True, True, False]
