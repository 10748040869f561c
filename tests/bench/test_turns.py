"""Turns of contenders: a failure ends only its own, and an interrupt still prints the results."""

from __future__ import annotations

import argparse
import itertools

from bench.bench_kit import in_turn, quantile
from bench.sheet import Sheet


def turns(repeat: int = 3, only: str = "") -> argparse.Namespace:
    """As the command line has them."""
    return argparse.Namespace(repeat=repeat, only=only)


def test_all_contenders_meet_the_same_neighbours() -> None:
    """One after the other, again and again."""
    order: list[str] = []

    def measured(who: str) -> dict[str, float]:
        order.append(who)
        return {"CPU": len(order)}

    sheet = Sheet("noop", "")
    in_turn(sheet, turns(2), {who: lambda who=who: measured(who) for who in ("stock", "ours")})
    assert order == ["stock", "ours", "stock", "ours"]
    assert sheet.readings == {"CPU": {"stock": [1, 3], "ours": [2, 4]}}


def test_a_contender_that_fails_is_not_tried_again_and_keeps_what_it_has() -> None:
    tries = itertools.count(1)

    def failing() -> dict[str, float]:
        if (number := next(tries)) == 2:
            raise TimeoutError("too long")
        return {"CPU": number}

    sheet = Sheet("noop", "")
    in_turn(sheet, turns(), {"stock": failing, "ours": lambda: {"CPU": 0}})
    assert sheet.failed == {"stock": "TimeoutError: too long"}
    assert sheet.readings == {"CPU": {"stock": [1], "ours": [0, 0, 0]}}


def test_an_interrupt_ends_all_turns_and_keeps_what_there_is() -> None:
    def interrupted() -> dict[str, float]:
        raise KeyboardInterrupt

    sheet = Sheet("noop", "")
    in_turn(sheet, turns(), {"stock": lambda: {"CPU": 1}, "ours": interrupted, "theirs": lambda: {"CPU": 2}})
    assert sheet.failed == {"ours": "interrupted"}
    assert sheet.readings == {"CPU": {"stock": [1]}}


def test_only_chooses_contenders_by_a_part_of_their_names() -> None:
    sheet = Sheet("noop", "")
    in_turn(sheet, turns(1, "-p"), {who: lambda: {"CPU": 1} for who in ("stock", "flowherd -p 1")})
    assert [*sheet.medians("CPU")] == ["flowherd -p 1"]


def test_a_quantile_is_one_of_the_values() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert [quantile(values, share) for share in (0.5, 0.99, 1.0)] == [51, 100, 100]
    assert quantile([7.0], 0.99) == 7
