"""Random histories of the attempt table: whatever happens in whatever order, its laws hold."""

from __future__ import annotations

import random

import pytest
from table_world import World

from flowherd.worker.attempt import PAIRS, Attempt, IllegalEvent

from table_world import activity_of  # isort: skip


@pytest.mark.parametrize("block", range(8))
def test_random_histories_keep_the_laws(block: int, request: pytest.FixtureRequest) -> None:
    """1,000 histories in CI, 30,000 with --soak; a failure names its seed."""
    each = 3_750 if request.config.getoption("--soak") else 125
    for seed in range(block * each, (block + 1) * each):
        try:
            World(seed).run()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error


def test_an_illegal_event_changes_nothing() -> None:
    """Law 1 of the file: of the events of each reachable pair, those that are not allowed raise."""
    rng = random.Random(7)
    refused = 0
    for _ in range(2_000):
        attempt = Attempt(activity_of("a1"), 0, 1, claimed_at=0.0, lease_s=3.0, limit_s=5.0)
        for _ in range(8):
            before = (attempt.pair, attempt.cancel_reason, attempt.outcome, attempt.due_at, attempt.begun_at)
            name, arguments = rng.choice(EVENTS)
            try:
                getattr(attempt, name)(*arguments)
            except IllegalEvent:
                refused += 1
                after = (
                    attempt.pair,
                    attempt.cancel_reason,
                    attempt.outcome,
                    attempt.due_at,
                    attempt.begun_at,
                )
                assert after == before
            assert attempt.pair in PAIRS
    assert refused > 1_000


from flowherd.activities_and_outcomes import Completed, Died  # noqa: E402
from flowherd.sdk.run_state import CancelReason  # noqa: E402

EVENTS = (
    ("admit", ()), ("begin", (1.0,)), ("stop", (CancelReason.TIMEOUT,)), ("report", (Completed(b"{}"),)),
    ("overrun", (Completed(b"{}"),)), ("crash", (Died("killed"),)), ("lose", ()), ("leave", ()), ("acknowledge", ()),
    ("settle", ()), ("end", ()),
)  # fmt: skip
