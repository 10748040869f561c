"""The next try of a failed activity, as its settings say it (protocol.md §3.1, §3.2)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowherd.client.retry_rules import NextTry, next_try
from flowherd_engine.definition_schema import Retry

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("max_attempts", "strategy", "base_seconds", "factor", "max_seconds")


@pytest.mark.parametrize("attempt", range(1, 12))
@pytest.mark.parametrize(
    "retry",
    [
        {"max_attempts": 20},
        {"max_attempts": 20, "base_seconds": 3, "factor": 1.5, "max_seconds": 40},
        {"max_attempts": 20, "strategy": "fixed", "base_seconds": 7},
        {"max_attempts": 20, "strategy": "fixed", "base_seconds": 7, "max_seconds": 5},
        {"max_attempts": 20, "factor": 0.5},
    ],
)
def test_the_seconds_are_those_of_the_engine(retry: dict[str, Any], attempt: int) -> None:
    """The embedded engine's rule is held against the server's by the contract tests."""
    after_s = next_try({"retry": retry}, attempt).after_s
    assert after_s == Retry(**retry).backoff_s(attempt)


@pytest.mark.parametrize(
    ("retry", "attempt", "is_last"),
    [
        ({}, 1, True),
        ({"max_attempts": 2}, 1, False),
        ({"max_attempts": 2}, 2, True),
        ({"max_attempts": 0}, 1, True),
    ],
)
def test_a_retry_block_says_which_attempt_is_the_last(
    retry: dict[str, Any],
    attempt: int,
    is_last: bool,  # noqa: FBT001
) -> None:
    assert next_try({"retry": retry}, attempt).is_last == is_last


def test_without_a_retry_block_the_engine_alone_knows_which_is_the_last() -> None:
    """Its number is a setting of the server."""
    assert next_try({}, 4) == NextTry(is_last=False, after_s=16.0)
    assert next_try({}, 100) == NextTry(is_last=False, after_s=300.0)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), JSON) | JSON, st.integers(1, 1 << 16))
def test_nothing_in_the_settings_raises(retry: Any, attempt: int) -> None:
    """A line of the log must cost no outcome."""
    found = next_try({"retry": retry}, attempt)
    assert (found.after_s is None) == found.is_last
    assert found.is_last or 0 <= (found.after_s or 0.0) < float("inf")
