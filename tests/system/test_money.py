"""Money that was spent is charged, whatever becomes of the process that spent it."""

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
    host = run_host("money_app:registry", processes=1, url=engine.url)
    [workflow] = engine.submit("spend", marker=str(tmp_path / "first"))
    engine.wait_for("complete", 1)
    document = engine.http.get(f"/api/v1/workflows/{workflow}/output").json()
    assert document["total_cost_usd"] == "0.35"
    [line] = host.log("activity_settled")
    assert line["cost_usd"] == "0.05"
