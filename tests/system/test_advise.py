"""`flowherd advise` about a real host, its log at the end, and the gain of following the advice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from harness import (
    CEILING_S,
    Engine,
    Host,
    clean_environment,
    eventually,
    running_engine,
    running_host,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def advise(host: Host, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "flowherd_supervisor", "advise", *words],
        capture_output=True, text=True, env=clean_environment(XDG_RUNTIME_DIR=str(host.folder / "r")),
        timeout=CEILING_S, check=True, cwd=host.folder,
    )  # fmt: skip
    return done.stdout


def test_a_handler_that_blocks_its_loop_is_found_and_logged_at_the_end(
    engine: Engine, run_host: Callable[..., Host]
) -> None:
    """Measured in the workers, summed by the keeper, read by the command, logged at the drain."""
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


def load(engine: Engine, heavies: int) -> float:
    """Runs light activities beside two heavy ones at a time; returns the p95 of the light ones."""
    lights: list[str] = []
    heavy = engine.submit("python", 2, cpu_s=0.05)
    while len(heavy) < heavies:
        lights += engine.submit("light", 1)
        threading.Event().wait(0.03)
        under_way = [one for one in heavy[-2:] if not step(engine, one)["completed_at"]]
        heavy += engine.submit("python", 2 - len(under_way), cpu_s=0.05)
    took = sorted(eventually(lambda one=one: age_s(engine, one), "a light one's end") for one in lights)
    eventually(
        lambda: all(step(engine, one)["completed_at"] for one in heavy[-2:]), "the last heavy one's end"
    )
    return took[int(0.95 * (len(took) - 1))]


def step(engine: Engine, workflow_id: str) -> dict[str, Any]:
    return engine.workflow(workflow_id)["activities"][0]


def age_s(engine: Engine, workflow_id: str) -> float | None:
    """Seconds from submission to the accepted completion, on the engine's clock; None before it."""
    workflow = engine.workflow(workflow_id)
    ended = workflow["activities"][0]["completed_at"]
    if ended is None:
        return None
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(workflow["created_at"])).total_seconds()


def follow(folder: Path) -> tuple[float, float]:
    """Returns the p95 of the light ones, before and after the heavy ones were moved as advised."""
    with running_engine() as engine:
        flags = ("-p", "1", "-c", "8")
        with running_host(folder, "advised_app:registry", *flags, url=engine.url) as host:
            before_s = load(host.ready(1) and engine, 34)
            row = next(
                row for row in json.loads(advise(host, "--json"))["activities"] if row["activity"] == "python"
            )
            assert (row["verdict"], row["criteria"]["cpu_bound"]["met"]) == ("process", True), row
            gain = row["criteria"]["gain"]
            assert gain["estimated"] < gain["now"]
        (folder / "flowherd.toml").write_text(f'[activities.python]\noffload = "{row["verdict"]}"\n')
        with running_host(folder, "advised_app:registry", *flags, url=engine.url) as host:
            after_s = load(host.ready(1) and engine, 34)
            now = {row["activity"]: row for row in json.loads(advise(host, "--json"))["activities"]}
            assert (now["python"]["runs"], now["python"]["change"]) == ("process", False)
            assert now["python"]["cpu_ms_p50"] > 30
    return before_s, after_s


def test_what_keeps_the_gil_is_moved_by_configuration_alone_and_the_others_feel_it(tmp_path: Path) -> None:
    """The predicted direction is measured again."""
    before_s, after_s = follow(tmp_path)
    assert after_s < before_s


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_moving_it_helps_twenty_times_of_twenty(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Advice must be right every time."""
    pairs = [follow(tmp_path_factory.mktemp("h")) for _ in range(20)]
    assert [pair for pair in pairs if pair[1] >= pair[0]] == []
