"""What the process that all others are forked from does for their memory, after it has imported the app."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

_PROBE = """
import gc, json
from inspect import isfunction
from flowherd import Registry
from flowherd.client.gate import Gate
from flowherd.client.pool.connection import HttpConnection
from flowherd.config import WorkerConfig
from flowherd.ledger import Ledger, records_needed
from flowherd.sdk.loading import LoadedApp
from flowherd.shared.bells import Bells
from flowherd.working.attempts import Attempts
from flowherd.working.poller import Poller
from flowherd.working.reporter import Reporter
from flowherd_supervisor.forking import mold
from flowherd_supervisor.forking.setups import Setups
config = WorkerConfig(client_id="me", client_secret="s")
ledger = Ledger(seats=1, records=records_needed(config.concurrency, config.poll_max))
setups = Setups("app:registry", ".", None, config, {}, config.concurrency, ledger, Bells(len(ledger.berths)))
kinds = (Attempts, Gate, HttpConnection, Poller, Reporter)
code = {one: one.__code__ for kind in kinds for one in vars(kind).values() if isfunction(one)}
mold._prepare(setups, LoadedApp("app:registry", Registry()))
print(json.dumps({
    "functions": len(code), "gathered": sum(one.__code__ is not before for one, before in code.items()),
    "frozen": gc.get_freeze_count(), "left": len(gc.get_objects()),
}))
"""


def test_the_code_of_workers_is_gathered_and_all_that_they_share_is_frozen() -> None:
    """Of what each of them runs and writes to, some pages instead of hundreds are its own."""
    done = subprocess.run(
        [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=60, check=True
    )
    told: dict[str, Any] = json.loads(done.stdout)
    assert told["gathered"] > told["functions"] / 3, told
    assert told["frozen"] > 10_000
    assert told["left"] < 1000, "a collection in a child would walk through what it shares"
