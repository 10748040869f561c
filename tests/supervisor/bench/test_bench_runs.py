"""The bench's figures from many runs: rates of the busy middle, curves, and verdicts in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowherd_supervisor.bench.report import Curve, Run, curves, document, doubts, rate, verdict

RUN = Run(
    load="cpu",
    repeat=0,
    processes=1,
    slots=16,
    activities=80,
    completed=80,
    failed=0,
    lost=0,
    duplicates=0,
    wall_s=5.0,
    activities_per_s=20.0,
    engine_cpu=0.05,
    others_cpu=0.02,
)


TWO = "Computing: 2 processes, 1.90 times the rate of one"
TWO_CPUS = f"{TWO}; more do not help because this machine has 2 usable CPUs."


def curve_of(rates: dict[int, float | list[float]], load: str = "cpu", **changes: float) -> Curve:
    runs = []
    for processes, given in rates.items():
        for number, one in enumerate(given if isinstance(given, list) else [given]):
            runs.append(
                replace(RUN, load=load, processes=processes, repeat=number, activities_per_s=one, **changes)
            )
    [curve] = curves(runs, 2)
    return curve


# Rates


def test_the_rate_is_that_of_the_busy_middle() -> None:
    """A slow start and the tail of the last process do not count; the order of times does not matter."""
    steady = [10.0 + number / 20 for number in range(100)]
    slow_start, tail = [1.0, 3.0, 6.0], [20.0, 25.0]
    assert rate([*tail, *steady, *slow_start], slots=16) == pytest.approx(20.0)


@pytest.mark.parametrize("times", [[], [1.0], [1.0, 1.0, 1.0]])
def test_no_time_gives_no_rate(times: list[float]) -> None:
    assert rate(times, slots=16) == 0.0


# Curves


def test_a_curve_has_medians_error_bars_speed_up_and_efficiency() -> None:
    curve = curve_of({2: [36.0, 38.0, 40.0], 1: [19.0, 20.0, 21.0]})
    one, two = curve.points
    assert (one.processes, one.median, one.least, one.most) == (1, 20.0, 19.0, 21.0)
    assert (two.speedup, two.efficiency) == (pytest.approx(1.9), pytest.approx(0.95))
    assert two.spread == pytest.approx(4 / 38)


def test_a_curve_that_begins_at_more_than_one_process_is_measured_against_each_of_them() -> None:
    [four, eight] = curve_of({4: 80.0, 8: 160.0}).points
    assert (four.speedup, eight.speedup) == (4.0, 8.0)


def test_a_disturbed_run_counts_only_where_there_is_no_calm_one() -> None:
    """Load from other programs is not a property of the machine; the report counts the runs left out."""
    calm, disturbed = replace(RUN, others_cpu=0.3), replace(RUN, others_cpu=0.31, activities_per_s=5.0)
    [curve] = curves([disturbed, calm, disturbed], 2)
    assert (curve.points[0].median, curve.points[0].least, curve.points[0].left_out) == (20.0, 20.0, 2)
    assert "2 runs left out" in " ".join(doubts([curve], cpus=2))
    [curve] = curves([disturbed, disturbed], 2)
    assert (curve.points[0].median, curve.points[0].left_out) == (5.0, 0)


def test_the_document_has_the_demos_keys_for_each_run() -> None:
    """A list of runs with the same keys."""
    first, second = document([RUN, replace(RUN, processes=2, activities_per_s=38.0)], 2)
    assert {"processes", "activities", "completed", "failed", "lost", "duplicates", "wall_s"} <= first.keys()
    assert (first["activities_per_s"], first["speedup"]) == (20.0, 1.0)
    assert second["speedup"] == 1.9


# Words


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (curve_of({1: 20.0, 2: 38.0, 3: 38.5}), TWO_CPUS),
        (
            curve_of({1: 80.0, 2: 80.0, 3: 79.0}, "io"),
            "Waiting: 1 process; more do not help because one event loop waits for all of them at once.",
        ),
        (
            curve_of({1: 20.0, 2: 20.5, 3: 20.0}, engine_cpu=0.97),
            "Computing: 1 process; more do not help because the engine is the bottleneck.",
        ),
        (
            curve_of({1: 20.0, 2: 20.5, 3: 20.0}, others_cpu=1.2),
            "Computing: 1 process; more do not help because other programs used the remaining CPUs.",
        ),
        (
            curve_of({1: [18.0, 20.0, 22.0], 2: 20.4}, "mixed"),
            "Both in turn: 1 process; more do not help because what they add (2%) is less than runs differ (20%).",
        ),
        (
            curve_of({1: 20.0, 2: 20.8}, "resize"),
            "resize: 1 process; more do not help because they add no more than 4%.",
        ),
        (curve_of({1: 20.0}), "Computing: 1 process was all that was measured."),
        (
            curve_of({1: 20.0, 2: 40.0, 3: 60.0}),
            "Computing: 3 processes, 3.00 times the rate of one; more were not measured.",
        ),
    ],
)
def test_the_verdict_says_how_many_and_why_not_more(curve: Curve, words: str) -> None:
    assert verdict(curve, cpus=2) == words


def test_what_was_not_measured_is_not_claimed() -> None:
    assert verdict(curve_of({1: 20.0, 2: 39.0}), cpus=8) == (
        "Computing: 2 processes, 1.95 times the rate of one; more may help, up to 8 CPUs, but were not measured."
    )


def test_a_good_run_leaves_no_doubt() -> None:
    assert doubts([curve_of({1: 20.0, 2: 38.0})], cpus=2) == []


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (curve_of({1: 20.0, 2: 20.0}, engine_cpu=0.9), "From 1 process on the engine"),
        (curve_of({2: 20.0, 3: 20.0}, engine_cpu=0.9), "From 2 processes on the engine"),
        (curve_of({1: 20.0}, others_cpu=0.5), "Other programs used up to 0.5 of 2 CPUs"),
        (curve_of({1: [15.0, 20.0, 25.0]}), "differ by up to 50%"),
        (curve_of({1: 20.0}, failed=3), "3 activities failed or got lost"),
    ],
)
def test_disturbances_are_reported(curve: Curve, words: str) -> None:
    """If the embedded engine is the bottleneck, the bench reports it."""
    [line] = doubts([curve], cpus=2)
    assert words in line


def test_cpus_that_are_not_ours_to_use_raise_no_doubt() -> None:
    [curve] = curves([replace(RUN, others_cpu=None)], 2)
    assert doubts([curve], cpus=2) == []
