"""Limits at which a process is replaced, as a table of usage and reasons."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowherd_supervisor.core.plan import Plan
from flowherd_supervisor.core.recycling import Wear, used_up

PLAN = Plan(1, 4, max_tasks_per_child=100, max_memory_mb_per_child=50)
FRESH = Wear(done=0, slots=[(0, 4)], descriptors=(10, 1024), grown_mb=[1.0, 1.0, 1.0])
MIDDLE, LEAST, MOST = 0.5, 0.0, 1.0


@pytest.mark.parametrize(
    ("change", "chance", "reasons"),
    [
        ({}, MIDDLE, []),
        ({"done": 99}, MIDDLE, []),
        ({"done": 100}, MIDDLE, ["100 activities"]),
        ({"done": 90}, LEAST, ["90 activities"]),
        ({"done": 109}, MOST, []),
        ({"slots": [(3, 4)]}, MIDDLE, []),
        ({"slots": [(4, 4)]}, MIDDLE, ["all 4 slots are held by handlers that do not end"]),
        ({"slots": [(0, 0)]}, MIDDLE, []),
        ({"slots": [(0, 4), (2, 2)]}, MIDDLE, ["all 2 slots are held by handlers that do not end"]),
        ({"descriptors": (921, 1024)}, MIDDLE, []),
        ({"descriptors": (922, 1024)}, MIDDLE, ["922 of at most 1024 descriptors are open"]),
        ({"descriptors": (0, 0)}, MIDDLE, []),
        ({"grown_mb": [51.0, 52.0]}, MIDDLE, []),
        ({"grown_mb": [51.0, 49.0, 52.0]}, MIDDLE, []),
        ({"grown_mb": [51.0, 52.0, 53.0]}, MIDDLE, ["53 MB more than when fresh"]),
        ({"grown_mb": [51.0, 52.0, 53.0]}, MOST, []),
        (
            {"done": 100, "slots": [(4, 4)]},
            MIDDLE,
            ["100 activities", "all 4 slots are held by handlers that do not end"],
        ),
    ],
)
def test_a_process_is_used_up_by_tasks_slots_descriptors_or_memory(
    change: dict[str, object], chance: float, reasons: list[str]
) -> None:
    """C17, C26: limits vary by a tenth, and memory must exceed its limit three times."""
    assert list(used_up(replace(FRESH, **change), PLAN, chance)) == reasons  # type: ignore[arg-type]


def test_without_limits_a_process_does_and_grows_as_it_likes() -> None:
    """Both limits are off by default."""
    worn = replace(FRESH, done=10**9, grown_mb=[1e6] * 3)
    assert list(used_up(worn, Plan(1, 4), MIDDLE)) == []
