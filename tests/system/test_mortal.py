"""An attempt's costs and checkpoints survive its process."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

import pytest
from harness import eventually, running_engine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness import Engine, Host


def test_what_a_killed_process_had_spent_is_charged_once(
    engine: Engine, run_host: Callable[..., Host], tmp_path: Path
) -> None:
    """The requeueing failure carries the costs; the next attempt adds its own."""
    host = run_host("mortal_app:registry", processes=1, url=engine.url)
    [workflow] = engine.submit("spend", marker=str(tmp_path / "first"))
    engine.wait_for("complete", 1)
    document = engine.http.get(f"/api/v1/workflows/{workflow}/output").json()
    assert document["total_cost_usd"] == "0.35"
    [line] = host.log("activity_failed")
    assert line["cost_usd"] == "0.05"


def test_the_attempt_after_a_kill_goes_on_where_a_checkpoint_was_kept(
    engine: Engine, run_host: Callable[..., Host], tmp_path: Path
) -> None:
    """Three steps, the process killed after the second: no step is done twice."""
    run_host("mortal_app:registry", processes=1, url=engine.url)
    trace = tmp_path / "trace"
    [workflow] = engine.submit("in_steps", marker=str(tmp_path / "first"), trace=str(trace))
    engine.wait_for("complete", 1)
    assert engine.output(workflow)["done"] == [0, 1, 2]
    assert trace.read_text().split() == ["0", "1", "2"]
    assert max(engine.claims_per_activity().values()) == 2


@pytest.mark.timeout(120)
def test_in_a_storm_of_kills_every_cent_is_charged_and_none_twice(
    run_host: Callable[..., Host], tmp_path: Path
) -> None:
    """The engine's totals equal the handlers' own trace of costs, through kills at any moment.

    A kill may fall between a cost and the line before or after it, so the trace gives two bounds. The lease is short,
    since a kill may also lose the reply to a poll (C2).
    """
    with running_engine("--default-lease", "3", "--sweep-interval", "0.5") as engine:
        storm(engine, run_host, tmp_path)


def at_work(host: Host) -> list[int]:
    """Waits for processes with running work, of which there are none right after a wave of completions."""
    return [row["process"] for row in host.status()["children"] if row["in_flight"]]


def storm(engine: Engine, run_host: Callable[..., Host], tmp_path: Path) -> None:
    """Kills a process four times while 150 activities spend two cents each."""
    flags = ("-c", "8", "--poison-after", "0", "--default-lease", "3")
    host = run_host("mortal_app:registry", *flags, processes=2, url=engine.url)
    trace = tmp_path / "trace"
    retry = {"max_attempts": 20, "strategy": "fixed", "base_seconds": 1}
    workflows = engine.submit("spend_twice", 150, settings={"retry": retry}, trace=str(trace))
    for completed in (2, 12, 25, 40):
        engine.wait_for("complete", completed)
        host.kill(eventually(partial(at_work, host), "a handler at work")[0])
        host.wait_ready()
    assert {engine.ended(one, within_s=60)["status"] for one in workflows} == {"completed"}
    paths = [f"/api/v1/workflows/{one}/output" for one in workflows]
    totals = [engine.http.get(path).json()["total_cost_usd"] for path in paths]
    cents = 100 * sum(map(Decimal, totals))
    spent = Counter(trace.read_text().split())
    assert spent["after"] <= cents <= spent["before"]
    assert spent["before"] > 2 * len(workflows), "no kill hit anything"
