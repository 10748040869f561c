"""`flowherd advise` about a host that works, and what it says at the end; once, with everything real."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from harness import CEILING_S, Engine, Host, clean_environment, eventually

if TYPE_CHECKING:
    from collections.abc import Callable


def advise(host: Host, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flowherd_supervisor", "advise", *words],
        capture_output=True, text=True, env=clean_environment(XDG_RUNTIME_DIR=str(host.folder / "r")),
        timeout=CEILING_S, check=True, cwd=host.folder,
    )  # fmt: skip
    return done.stdout


def test_a_handler_that_blocks_its_loop_is_found_and_said_at_the_end(
    engine: Engine, run_host: Callable[..., Host]
) -> None:
    """Measured in the workers, added up by the keeper, read by the command, said in the log at drain."""
    host = run_host("sample_app:registry", processes=2, url=engine.url)
    engine.submit("block_loop", 40, seconds=0.03)
    engine.submit("wait", 40, seconds=0.01)
    engine.wait_for("complete", 80)

    def rows() -> dict[str, dict[str, object]]:
        return {row["activity"]: row for row in json.loads(advise(host, "--json"))["activities"]}

    found = eventually(
        lambda: (seen := rows())["block_loop"]["samples"] == seen["wait"]["samples"] == 40 and seen,
        "40 samples",
    )
    assert (found["block_loop"]["verdict"], found["block_loop"]["runs"]) == ("thread", "async")
    assert (found["wait"]["verdict"], found["wait"]["change"]) == ("async", False)
    assert found["noop"]["verdict"] == "unknown"
    assert "block_loop: thread: it blocks the loop for " in advise(host)
    short = {row["activity"]: row["verdict"] for row in host.status()["advice"]["activities"]}
    assert (short["block_loop"], short["wait"]) == ("thread", "async")
    host.signal(signal.SIGTERM)
    assert host.wait() == 0
    assert [(line["name"], line["verdict"]) for line in host.log("advice")] == [("block_loop", "thread")]
