"""Rolling restarts for a whole minute under a steady load: nothing lost, run twice or released (`--soak`)."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness import Engine, Host

APP = "sample_app:registry"
EVERY_S, ROUNDS = 5.0, 12
BURST = 20


@dataclass(frozen=True)
class Load:
    """A steady rate of activities, in bursts that fill the whole budget."""

    per_s: int
    each_s: float
    budget: int


CALM, HEAVY = Load(40, 0.05, 8), Load(500, 0.02, 64)


@pytest.mark.soak
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("processes", "load"), [(2, CALM), (4, CALM), (2, HEAVY)])
def test_a_minute_of_rolling_restarts_loses_nothing_and_never_exceeds_the_budget(
    engine: Engine, run_host: Callable[..., Host], tmp_path: Path, processes: int, load: Load
) -> None:
    """P6: HUP every 5 s; the handlers' own journal shows every run and overlap."""
    journal = tmp_path / "journal"
    host = run_host(APP, "-c", str(load.budget), url=engine.url, processes=processes)
    submitted = _submit(load, engine, host, journal)
    host.wait_for_log("reloaded", ROUNDS, within_s=30)
    engine.wait_for("complete", submitted, within_s=60)
    starts, most = _read(journal)
    claims = engine.claims_per_activity()
    print(
        f"-p {processes}: {submitted} activities, {ROUNDS} restarts, at most {most} of {load.budget} at a time"
    )
    assert len(claims) == submitted, "lost"
    assert set(claims.values()) == {1}, "handed out twice"
    assert set(starts.values()) == {1}, "run twice"
    assert len(starts) == submitted
    assert engine.entries("fail") == [], "released"
    assert most <= load.budget
    host.signal(signal.SIGTERM)
    assert host.wait() == 0


def _submit(load: Load, engine: Engine, host: Host, journal: Path) -> int:
    """Submits at a steady rate while HUP is repeated; returns the number submitted."""
    submitted, rounds, begun_at = 0, 0, time.monotonic()
    while (past_s := time.monotonic() - begun_at) < EVERY_S * (ROUNDS + 0.5):
        if past_s >= EVERY_S * (rounds + 1) and rounds < ROUNDS:
            host.signal(signal.SIGHUP)
            rounds += 1
        if submitted <= past_s * load.per_s:
            engine.submit("wait", BURST, seconds=load.each_s, journal=str(journal))
            submitted += BURST
        else:
            threading.Event().wait(0.02)
    return submitted


def _read(journal: Path) -> tuple[dict[str, int], int]:
    """How often each activity began, and how many overlapped at most, by the order of the lines."""
    starts: dict[str, int] = {}
    running = most = 0
    for line in journal.read_text().splitlines():
        event, activity_id, _ = line.split()
        if event == "start":
            starts[activity_id] = starts.get(activity_id, 0) + 1
        running += 1 if event == "start" else -1
        most = max(most, running)
    return starts, most
