"""Run times as counts that add up."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowherd.ledger import Ledger, RecordWriter, Timing
from flowherd.ledger.histogram import BUCKETS, bucket_of, quantile_s, upper_s


@given(st.floats(0, 1e9))
def test_a_duration_lies_below_the_end_of_its_bucket_and_not_below_the_one_before(seconds: float) -> None:
    """Otherwise a quantile would not be a bound."""
    bucket = bucket_of(seconds)
    assert seconds < upper_s(bucket)
    assert bucket == 0 or seconds >= upper_s(bucket - 1) * (1 - 1e-9)


def test_quantiles_are_upper_bounds() -> None:
    """Half of these ran for less than 2 ms, nearly all for less than 128 ms, one for very long."""
    counts = [0] * BUCKETS
    for seconds in [0.0015] * 50 + [0.1] * 49 + [3600.0]:
        counts[bucket_of(seconds)] += 1
    assert quantile_s(counts, 0.5) == pytest.approx(0.002)
    assert quantile_s(counts, 0.99) == pytest.approx(0.128)
    assert quantile_s(counts, 1.0) is None
    assert upper_s(BUCKETS - 1) == inf
    assert quantile_s([0] * BUCKETS, 0.5) is None


def test_a_new_incarnation_begins_with_an_empty_histogram() -> None:
    """A segment's cells outlive the process that wrote them."""
    [segment, *_] = Ledger(processes=1, records=2).segments
    segment.open(index=0, incarnation=1, now=0.0)
    RecordWriter(segment)
    segment.count(Timing.POLL, 0.5)
    assert sum(segment.counts(Timing.POLL)) == 1
    assert segment.counts(Timing.POLL)[bucket_of(0.5)] == 1
    RecordWriter(segment)
    assert not sum(segment.counts(Timing.POLL))
