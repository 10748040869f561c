"""What an attempt has spent, and how far it had come, outlives its process."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness import Engine, Host


def test_what_a_killed_process_had_spent_is_charged_once(
    engine: Engine, run_host: Callable[..., Host], tmp_path: Path
) -> None:
    """The failure that gives the activity back carries it; the next attempt adds its own."""
    host = run_host("mortal_app:registry", processes=1, url=engine.url)
    [workflow] = engine.submit("spend", marker=str(tmp_path / "first"))
    engine.wait_for("complete", 1)
    document = engine.http.get(f"/api/v1/workflows/{workflow}/output").json()
    assert document["total_cost_usd"] == "0.35"
    [line] = host.log("activity_settled")
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
