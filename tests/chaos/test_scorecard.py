"""The table of the scorecard: every measure has a row, and a measure that did not run is not met."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from chaos import soak, suites
from chaos.measures import SHORT

if TYPE_CHECKING:
    from pathlib import Path


def test_every_measure_of_the_scorecard_is_in_the_table_of_one_command() -> None:
    """faults.md §3: M1 to M20; secrets (M18) are looked for in every storm."""
    named = " ".join([*soak.NAMES, "M18", *(measure.__doc__ for measure in soak.MEASURES)])
    named = re.sub(
        r"M(\d+) to M(\d+)",
        lambda span: " ".join(f"M{n}" for n in range(int(span[1]), int(span[2]) + 1)),
        named,
    )
    assert {int(number) for number in re.findall(r"\bM(\d+)", named)} == set(range(1, 21))
    assert {name for names in soak.STORMS.values() for name, _ in names} == set(soak.NAMES)


@pytest.mark.parametrize(
    ("body", "is_met", "says"),
    [
        ("def test_a(record_property): record_property('things broke', 7)", True, "0 of 7 things broke"),
        ("def test_a(): assert False", False, "1 of 1 tests failed: test_a"),
        ("import nothing_like_it", False, "1 of 1 tests failed"),
        ("", False, "0 of 0 tests failed"),
    ],
)
def test_a_row_of_tests_is_met_only_when_they_ran_and_passed(
    tmp_path: Path, *, body: str, is_met: bool, says: str
) -> None:
    """A suite that cannot be collected must not count as one without failures."""
    (tmp_path / "test_it.py").write_text(body)
    row = suites.none_of("M0", "it", suites.run_tests(tmp_path, str(tmp_path / "test_it.py"), *SHORT.words))
    assert row.is_met is is_met
    assert says in row.result
