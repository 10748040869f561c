"""The run times that users read: each p50 and p95 is within 5 % of the true one, also after it is rounded."""

from __future__ import annotations

import re
from math import ceil
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowherd.ledger import Ledger, RecordWriter
from flowherd.ledger.activity_cost_table import Where
from flowherd.ledger.activity_counts import Ended, Took
from flowherd_supervisor.cli.status_tables import activity_cells, lately_line
from flowherd_supervisor.keeper.activity_rows import by_activity
from flowherd_supervisor.keeper.history import History

WITHIN = 0.05
UNITS_MS = {"ms": 1.0, "s": 1e3, "m": 60e3, "h": 3.6e6}


def shown_ms(text: str) -> float:
    """Reads a run time as a terminal shows it."""
    found = re.fullmatch(r"([\d.]+)(\D+)", text)
    assert found, text
    return float(found[1]) * UNITS_MS[found[2]]


@settings(deadline=None)
@given(st.lists(st.floats(0.0002, 60_000.0), min_size=1, max_size=40), st.integers(0, 39))
def test_status_top_page_and_trend_show_true_percentiles(durations_s: list[float], split: int) -> None:
    """N26: 300 ms was shown as 512 ms. Two processes have run them, and no reader sees one alone."""
    ledger, now = Ledger(processes=2, records=2), [100.0]
    history = History(ledger, clock=lambda: now[0], wall=lambda: now[0])
    ledger.remember(now[0])
    for index, part in enumerate((durations_s[:split], durations_s[split:])):
        [segment] = ledger.free_segments(1)
        segment.open(index=index, incarnation=1, now=0.0)
        RecordWriter(segment)
        entry = segment.work.add("resize", Where.LOOP)
        assert entry is not None
        for seconds in part:
            segment.work.counts.took(entry, Took.RUN, seconds)
            segment.work.counts.took(entry, Took.WAIT, seconds)
            segment.work.counts.ended(entry, Ended.COMPLETED)
    now[0] += 10.0
    ledger.remember(now[0])
    [row] = by_activity(ledger, ())
    lately, [interval] = history.lately(), history.trend()["intervals"]
    assert lately is not None
    line: dict[str, Any] = {"lately": lately}
    texts = re.findall(r"p\d\d ([^,\s]+)", lately_line(line)[0])
    ordered = sorted(durations_s)
    for place, hundredths in enumerate((50, 95)):
        true_ms = pytest.approx(1000 * ordered[ceil(hundredths * len(ordered) / 100) - 1], rel=WITHIN)
        key = f"run_ms_p{hundredths}"
        assert [row[key], lately[key], interval[key]] == [true_ms] * 3
        assert [shown_ms(text) for text in (activity_cells(row)[5 + place], texts[place])] == [true_ms] * 2
        if hundredths == 95:
            assert interval["wait_ms_p95"] == true_ms
