"""The counts of the last quarter of an hour, a second: sampled, bounded, and another keeper goes on with them."""

from __future__ import annotations

import mmap

import pytest

from flowherd.ledger.activity_counts import ActivityCounts, Counts, Ended, Took, area_bytes
from flowherd.ledger.histogram import BUCKETS, Histogram
from flowherd.ledger.trend import AREA_BYTES, EVERY_S, KEPT_S, Trend


class Samples:
    def __init__(self) -> None:
        self.map = mmap.mmap(-1, AREA_BYTES)
        self.counts = ActivityCounts(memoryview(bytearray(area_bytes(1))))
        self.trend = Trend(self.map, 0)
        self.now = 100.0

    def pass_time(self, seconds: float = EVERY_S) -> None:
        self.now += seconds
        self.trend.note(self.now, lambda: self.counts.read(0))


@pytest.fixture
def samples() -> Samples:
    made = Samples()
    made.pass_time(0.0)
    return made


def test_rates_and_durations_are_those_of_their_interval(samples: Samples) -> None:
    for _ in range(50):
        samples.counts.ended(0, Ended.COMPLETED)
        samples.counts.took(0, Took.RUN, 0.003)
    samples.counts.ended(0, Ended.CRASHED)
    samples.pass_time()
    samples.pass_time()
    busy, idle = samples.trend.intervals(samples.now)
    assert (busy.completed, busy.failed, busy.lost) == (5.0, 0.1, 0.0)
    assert (busy.run_s_p50, busy.run_s_p95) == (pytest.approx(0.003, rel=0.05),) * 2
    assert (busy.ago_s, idle.ago_s) == (EVERY_S, 0.0)
    assert (idle.completed, idle.run_s_p50) == (0.0, None)


def test_samples_are_taken_every_ten_seconds_however_often_it_is_asked(samples: Samples) -> None:
    for _ in range(100):
        samples.pass_time(0.2)
    assert len(samples.trend.intervals(samples.now)) == 2


def test_a_quarter_of_an_hour_is_kept_and_no_more(samples: Samples) -> None:
    for _ in range(300):
        samples.counts.ended(0, Ended.COMPLETED)
        samples.pass_time()
    found = samples.trend.intervals(samples.now)
    assert len(found) == KEPT_S / EVERY_S
    assert {one.completed for one in found} == {0.1}
    assert samples.trend.intervals(samples.now + KEPT_S + EVERY_S + 1) == []


def test_another_keeper_goes_on_with_the_samples_of_the_one_before(samples: Samples) -> None:
    samples.counts.ended(0, Ended.COMPLETED)
    samples.trend = Trend(samples.map, 0)
    samples.pass_time(EVERY_S / 2)
    samples.pass_time(EVERY_S / 2)
    (found,) = samples.trend.intervals(samples.now)
    assert found.completed == 0.1


def test_a_pause_of_the_keeper_is_one_long_interval(samples: Samples) -> None:
    for _ in range(40):
        samples.counts.ended(0, Ended.COMPLETED)
    samples.pass_time(400.0)
    (found,) = samples.trend.intervals(samples.now)
    assert found.completed == 0.1


def test_sums_that_cannot_be_are_stored_as_the_largest(samples: Samples) -> None:
    """User code may scribble in what they are sums of; the keeper goes on."""
    everything = Histogram(dict.fromkeys(range(BUCKETS), 2**70))
    samples.trend.note(200.0, lambda: Counts((2**70,) * len(Ended), (everything,) * len(Took)))
    samples.pass_time(110.0)
    assert [one.seconds for one in samples.trend.intervals(samples.now)] == [100.0, 10.0]
