"""Numbers and their nouns."""

from __future__ import annotations

import pytest

from flowherd.counted import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "process", "1 process"),
        (2, "process", "2 processes"),
        (0, "activity", "0 activities"),
        (2, "day", "2 days"),
        (3, "usable CPU", "3 usable CPUs"),
        (1, "restart", "1 restart"),
    ],
)
def test_a_noun_agrees_with_its_number(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text
