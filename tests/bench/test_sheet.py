"""The common form of all benches' results: no gate is lost, and a ratio shows its direction."""

from __future__ import annotations

import json

import pytest
from bench.sheet import STOCK, TUNED, Gate, Sheet, omissions, shown, table

CPU, RATE = "CPU, us", "a second"


def a_sheet(*gates: Gate) -> Sheet:
    """Stock needs 1,500 us, tuned 800, we 50."""
    sheet = Sheet("noop", "no-ops", list(gates))
    for who, readings in ((STOCK, (1400, 1500, 1700)), (TUNED, (800,)), ("ours", (50, 40, 60))):
        for reading in readings:
            sheet.note(who, {CPU: reading})
    return sheet


def test_a_row_has_the_median_its_spread_and_both_ratios() -> None:
    [stock, tuned, ours] = [row.cells() for row in a_sheet().rows()]
    assert stock[:5] == (CPU, STOCK, "1,500 (1,400 - 1,700)", "", "")
    assert tuned[:5] == (CPU, TUNED, "800", "", "")
    assert ours[:5] == (CPU, "ours", "50 (40 - 60)", "1/30", "1/16")


@pytest.mark.parametrize(
    ("gate", "text", "met"),
    [
        (Gate(CPU, "ours", "<=", 50), "<= 50", "yes"),
        (Gate(CPU, "ours", "<=", 49), "<= 49", "NO"),
        (Gate(CPU, "ours", "<=", 1 / 30, STOCK), "<= 1/30 of stock", "yes"),
        (Gate(CPU, "ours", "<=", 1 / 31, STOCK), "<= 1/31 of stock", "NO"),
        (Gate(CPU, STOCK, ">=", 2.5, "ours"), ">= 2.50 x of ours", "yes"),
        (Gate(CPU, "ours", "<=", 1, "rust"), "<= 1 x of rust", "not measured"),
        (Gate(CPU, "theirs", "<=", 1), "<= 1", "not measured"),
        (Gate(RATE, "ours", ">=", 1), ">= 1", "not measured"),
    ],
)
def test_a_gate_is_judged_by_the_medians_or_said_to_be_open(gate: Gate, text: str, met: str) -> None:
    """A contender that was left out must not take its gates with it."""
    judged = [row.cells()[5:] for row in a_sheet(gate).rows() if row.gates]
    assert judged == [(text, met)]


def test_a_sheet_survives_its_document() -> None:
    sheet = a_sheet(Gate(CPU, "ours", "<=", 1 / 30, STOCK))
    sheet.left_out["rust"] = "no cargo"
    assert Sheet.read(json.loads(json.dumps(sheet.document()))) == sheet


def test_what_was_not_measured_is_named_below_the_table() -> None:
    sheet = a_sheet()
    sheet.left_out["rust"], sheet.failed["ours"] = "no cargo", "TimeoutError"
    assert omissions([sheet]) == ["left out: noop, rust: no cargo", "FAILED: noop, ours: TimeoutError"]


def test_a_ratio_to_nothing_is_none() -> None:
    sheet = Sheet("light", "twice")
    sheet.note(STOCK, {"ran twice": 0})
    sheet.note("ours", {"ran twice": 0})
    assert [line.split()[-1] for line in table([sheet])[2:]] == ["0", "0"]


def test_contenders_without_a_stock_are_compared_with_one_of_them() -> None:
    sheet = a_sheet()
    sheet.compare(CPU, "ours")
    assert sheet.medians(f"{CPU}, of ours") == {STOCK: 30, TUNED: 16}


def test_what_was_not_measured_is_compared_with_nothing() -> None:
    sheet = a_sheet()
    sheet.compare(CPU, "pool")
    sheet.compare(RATE, "ours")
    assert [*sheet.readings] == [CPU]


NUMBERS = {0: "0", 14: "14", 1 / 3: "0.33", 0.0133: "0.013", 12.34: "12.3", 123.4: "123", 12345.6: "12,346"}


@pytest.mark.parametrize(("value", "text"), NUMBERS.items())
def test_numbers_have_the_digits_that_count(value: float, text: str) -> None:
    assert shown(value) == text
