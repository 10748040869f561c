"""Run times as counts that add up: near enough for a percentile, exact at every published bound."""

from __future__ import annotations

from math import ceil, inf

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowherd.ledger import Ledger, RecordWriter, Timing
from flowherd.ledger.activity_counts import ActivityCounts, Took, area_bytes
from flowherd.ledger.histogram import (
    BOUNDS,
    BUCKETS,
    LONGEST_S,
    UNITS_A_SECOND,
    Histogram,
    bound_of,
    bound_s,
    bucket_of,
    ends_of,
    quantile_s,
)

SHORTEST_S = 16e-6  # shorter durations are right to a microsecond
PUBLISHED_S = [bound_s(index) for index in range(BOUNDS - 1)]
around_a_bound = st.builds(
    lambda bound_s, by_s: bound_s + by_s, st.sampled_from(PUBLISHED_S), st.sampled_from([-1e-9, 0.0, 1e-9])
)


@st.composite
def durations(draw: st.DrawFn) -> list[float]:
    """Draws durations as they come: even, with a long tail, of two kinds, all the same, or anything."""
    middle_s = draw(st.floats(1e-4, 3600.0))
    rng, count = draw(st.randoms(use_true_random=False)), draw(st.integers(1, 300))
    shape = {
        "even": lambda: rng.uniform(middle_s / 10, middle_s * 2),
        "long tail": lambda: middle_s * rng.lognormvariate(0.0, 1.5),
        "very long tail": lambda: middle_s * rng.paretovariate(1.1),
        "two kinds": lambda: middle_s * rng.gauss(1.0, 0.02) * rng.choice([1, 1, 1, 40]),
        "the same": lambda: middle_s,
        "anything": lambda: 10 ** rng.uniform(-4.7, 4.8),
    }[draw(st.sampled_from(["even", "long tail", "very long tail", "two kinds", "the same", "anything"]))]
    return [min(max(shape(), SHORTEST_S), LONGEST_S) for _ in range(count)]


def table_of(durations_s: list[float]) -> ActivityCounts:
    table = ActivityCounts(memoryview(bytearray(area_bytes(1))))
    for seconds in durations_s:
        table.took(0, Took.RUN, seconds)
    return table


def filled(durations_s: list[float]) -> Histogram:
    return table_of(durations_s).read(0).took[Took.RUN]


@given(durations())
def test_every_percentile_is_within_5_percent_of_the_true_one(durations_s: list[float]) -> None:
    """N26, by nearest rank: buckets of a power of two showed 300 ms as 512 ms."""
    found, ordered = filled(durations_s), sorted(durations_s)
    for hundredths in (50, 95, 99):
        true_s = ordered[ceil(hundredths * len(ordered) / 100) - 1]
        assert found.quantile_s(hundredths / 100) == pytest.approx(true_s, rel=1 / 33 + 1e-9)


@given(st.lists(st.floats(0, 1e6) | around_a_bound, max_size=50))
@example([0.0, 0.001, 0.002, 16.384, 16.385, LONGEST_S, LONGEST_S * 2])
def test_the_count_at_every_published_bound_is_exact(durations_s: list[float]) -> None:
    """`le` means: at most so long. The bounds are ends of buckets, so nothing is divided between two."""
    counts = filled(durations_s).bounded()
    assert sum(counts) == len(durations_s)
    for index, bound in enumerate(PUBLISHED_S):
        assert sum(counts[: index + 1]) == sum(seconds <= bound for seconds in durations_s), bound
    by_bound = [0] * BOUNDS
    for seconds in durations_s:
        by_bound[bound_of(seconds)] += 1
    assert tuple(by_bound) == counts


def test_the_buckets_are_in_order_without_gaps_and_narrow_and_the_last_is_open() -> None:
    """`took` writes `bucket_of` out; both are held against the ends."""
    assert ends_of(0) == (0, 1)
    for bucket in range(1, BUCKETS):
        low, high = ends_of(bucket)
        assert low == ends_of(bucket - 1)[1]
        assert low < 16 or (high - low) * 16 <= low
        assert {bucket_of(low), bucket_of(high - 1)} == {bucket}
        assert filled([high / UNITS_A_SECOND]).counts == {bucket: 1}
    assert bucket_of(10 * ends_of(BUCKETS - 1)[0]) == BUCKETS - 1
    assert ends_of(BUCKETS - 1)[0] == LONGEST_S * UNITS_A_SECOND


def test_no_duration_and_one_beyond_the_end_have_no_percentile() -> None:
    assert Histogram().quantile_s(0.5) is None
    assert filled([1.0, 2 * LONGEST_S]).quantile_s(0.95) is None
    assert filled([-1.0, 0.0]).counts == {0: 2}, "a clock may jump"


@given(durations(), durations())
def test_sums_and_moves_lose_nothing(one: list[float], other: list[float]) -> None:
    """Over processes, and when one has ended; the next in its place begins with none."""
    assert filled(one) + filled(other) == filled(one + other)
    table, to = table_of(one), table_of(one)
    table.move(0, to, 0)
    assert to.read(0).took[Took.RUN] == filled(one + one)
    assert not table.read(0)
    to.clear(0)
    assert not any(table._cells)
    assert not any(to._cells)


def test_of_counts_by_published_bound_a_quantile_is_an_upper_bound() -> None:
    """The loop's lag has these alone."""
    counts = [0] * BOUNDS
    for seconds in [0.0015] * 50 + [0.1] * 49 + [3600.0]:
        counts[bound_of(seconds)] += 1
    assert quantile_s(counts, 0.5) == pytest.approx(0.002)
    assert quantile_s(counts, 0.99) == pytest.approx(0.128)
    assert quantile_s(counts, 1.0) is None
    assert bound_s(BOUNDS - 1) == inf
    assert quantile_s([0] * BOUNDS, 0.5) is None


def test_a_new_incarnation_begins_with_an_empty_histogram() -> None:
    """A segment's cells outlive the process that wrote them."""
    [segment, *_] = Ledger(processes=1, records=2).segments
    segment.open(index=0, incarnation=1, now=0.0)
    RecordWriter(segment)
    segment.count(Timing.POLL, 0.5)
    assert sum(segment.counts(Timing.POLL)) == 1
    assert segment.counts(Timing.POLL)[bound_of(0.5)] == 1
    RecordWriter(segment)
    assert not sum(segment.counts(Timing.POLL))
