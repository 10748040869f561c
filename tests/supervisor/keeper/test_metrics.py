"""`/metrics`: names and units by Prometheus' conventions, sums that never decrease, no label from user text."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from flowherd.ledger import Cause, Cell, Clock, Ledger, RecordWriter, Timing
from flowherd.ledger.activity_cost_table import Where
from flowherd.ledger.activity_counts import Ended, Took
from flowherd.link.messages import SupervisorState
from flowherd_supervisor.keeper.metrics import HostMetrics
from flowherd_supervisor.keeper.status import StatusBoard

if TYPE_CHECKING:
    from prometheus_client import Metric

    from flowherd.ledger import Segment

LABELS = {
    "process": {"0", "1", "2", "3"},
    "name": {"resize", "crop", "other"},
    "outcome": {"completed", "failed", "lost", "crashed", "work", "empty", "error", "told", "given_up"},
    "cause": {cause.label for cause in Cause},
    "planned": {"true", "false"},
    "state": {"starting", "running", "draining", "releasing", "finishing", "ended"},
}
UNITS = ("_seconds", "_bytes", "_slots", "_info")


class Page:
    """A ledger with a status board, and its metrics page."""

    def __init__(self) -> None:
        self.ledger = Ledger(processes=4, records=8)
        self.board = StatusBoard(self.ledger, "http://engine:8080", "0.1.0", 4710, time.monotonic() - 12.0)
        self.metrics = HostMetrics(self.ledger, self.board)

    def worker(self, index: int, incarnation: int = 1) -> tuple[Segment, RecordWriter]:
        segment = self.ledger.free_segment()
        assert segment is not None
        segment.open(index=index, incarnation=incarnation, now=time.monotonic())
        writer = RecordWriter(segment)
        segment.work.add("resize", Where.LOOP)
        segment.work.add("crop", Where.THREAD)
        return segment, writer

    def families(self) -> dict[str, Metric]:
        text = self.metrics.page().decode()
        return {family.name: family for family in text_string_to_metric_families(text)}

    def value(self, metric: str, /, **labels: str) -> float:
        for family in self.families().values():
            for sample in family.samples:
                if sample.name == metric and labels.items() <= sample.labels.items():
                    return sample.value
        raise AssertionError(f"no {metric} {labels}")


@pytest.fixture
def page() -> Page:
    return Page()


def told(**causes: dict[Cause, int]) -> SupervisorState:
    return SupervisorState("running", 2, 8, {}, {int(name[1:]): counts for name, counts in causes.items()})


def test_every_family_has_a_help_text_a_known_type_and_only_labels_from_closed_lists(page: Page) -> None:
    """What `promtool check metrics` looks at, and faults S2."""
    page.board.supervisor = told(p0={Cause.SIGNAL: 2}, p3={Cause.RELOAD: 1})
    page.worker(0)
    page.worker(1)
    families = page.families()
    assert len(families) > 20
    for name, family in families.items():
        assert name.startswith("flowherd_"), name
        assert family.documentation.endswith("."), name
        assert family.type in {"counter", "gauge", "histogram"}, name
        assert not name.endswith(("_total", "_count", "_sum", "_bucket")), name
        if family.type == "counter":
            assert all(sample.name == f"{name}_total" for sample in family.samples), name
        assert not any(word in name for word in ("_ms", "_milliseconds", "_mb", "_percent")), name
        for sample in family.samples:
            for label, text in sample.labels.items():
                assert label in {"le", "version", "python"} or text in LABELS[label], (name, label, text)


def test_time_is_in_seconds_and_memory_in_bytes(page: Page) -> None:
    """Prometheus: base units, and the unit ends the name."""
    page.worker(0)
    measured = [name for name, family in page.families().items() if family.type == "histogram"]
    assert len(measured) == 4
    assert all(name.endswith(UNITS) for name in measured)


def test_a_histogram_is_cumulative_and_ends_with_all(page: Page) -> None:
    """The ledger's buckets are separate, those of Prometheus are cumulative."""
    segment, _ = page.worker(0)
    for seconds in (0.0005, 0.003, 0.003, 100.0):
        segment.work.counts.took(0, Took.RUN, seconds)
    samples = page.families()["flowherd_activity_run_seconds"].samples
    buckets = [s.value for s in samples if s.name.endswith("_bucket") and s.labels["name"] == "resize"]
    assert buckets == sorted(buckets)
    assert page.value("flowherd_activity_run_seconds_bucket", name="resize", le="0.001") == 1
    assert page.value("flowherd_activity_run_seconds_bucket", name="resize", le="0.004") == 3
    assert page.value("flowherd_activity_run_seconds_bucket", name="resize", le="+Inf") == 4
    assert page.value("flowherd_activity_run_seconds_count", name="resize") == 4
    assert page.value("flowherd_activity_run_seconds_sum", name="resize") == pytest.approx(100.0065, abs=1e-4)
    segment.work.counts.took(1, Took.REPORT, 100.0)
    assert page.value("flowherd_report_seconds_bucket", name="crop", le="16.384") == 0
    assert page.value("flowherd_report_seconds_bucket", name="crop", le="+Inf") == 1
    assert page.value("flowherd_report_seconds_count", name="resize") == 0


def test_no_counter_falls_when_a_process_ends_or_its_segment_is_used_again(page: Page) -> None:
    """A decreasing counter looks like a reset in its rate."""
    segment, _ = page.worker(1)
    for cell in (Cell.CLAIMED, Cell.POLLS, Cell.BLOCKS):
        segment.put(cell, 7)
    for _ in range(7):
        segment.work.counts.ended(0, Ended.COMPLETED)
    segment.put(Cell.BLOCKED_US, 1_500_000)
    segment.count(Timing.POLL, 0.25)

    def seen() -> list[float]:
        return [
            page.value("flowherd_activities_claimed_total", process="1"),
            page.value("flowherd_activities_total", name="resize", outcome="completed"),
            page.value("flowherd_polls_total", process="1", outcome="work"),
            page.value("flowherd_loop_blocked_seconds_total", process="1"),
            page.value("flowherd_poll_seconds_sum", process="1"),
        ]

    before = seen()
    assert before == [7, 7, 7, 1.5, 0.25]
    segment.end(Cause.SIGNAL, 9)
    assert seen() == before
    page.ledger.absorb(segment)
    assert seen() == before, "the process is gone, its number is not"
    again, _ = page.worker(1, 2)
    assert seen() == before
    again.work.counts.ended(0, Ended.COMPLETED)
    assert page.value("flowherd_activities_total", name="resize", outcome="completed") == 8


def test_running_activities_are_counted_by_name_and_unknown_names_share_one(page: Page) -> None:
    """Faults S2: names from the engine must not create series."""
    _, writer = page.worker(0)
    for number, name in enumerate(("resize", "resize", "a stranger's", "another's")):
        index, _ = writer.claim(f"a-{number}", "w-1", name, now=1.0, lease_s=60.0)
        writer.running(index, now=1.0, limit_s=60.0)
    assert page.value("flowherd_activities_in_progress", name="resize") == 2
    assert page.value("flowherd_activities_in_progress", name="crop") == 0
    assert page.value("flowherd_activities_in_progress", name="other") == 2


def test_what_is_read_while_a_counter_moves_is_read_again(page: Page) -> None:
    """The keeper adds an ended process's counters to its process beside the thread that reads them."""
    segment, _ = page.worker(0)
    segment.put(Cell.COMPLETED, 5)
    segment.end(Cause.SIGNAL)
    readings: list[int] = []

    def read() -> int:
        readings.append(len(readings))
        if len(readings) == 1:
            page.ledger.absorb(segment)
        return len(readings)

    assert page.ledger.unmoved(read) == 2


def test_demand_is_what_is_busy_and_what_would_be_if_there_were_slots_for_it(page: Page) -> None:
    """For an autoscaler: full polls mean that more processes would have work."""
    segment, _ = page.worker(0)
    segment.put(Cell.LIMIT, 10)
    segment.put(Cell.RUNNING, 4)
    assert page.value("flowherd_demand_slots", process="0") == 4
    segment.set_clock(Clock.FILL, 0.5)
    assert page.value("flowherd_demand_slots", process="0") == 7
    segment.put(Cell.RUNNING, 12)  # the limit has just been lowered
    assert page.value("flowherd_demand_slots", process="0") == 12


def test_restarts_are_counted_by_process_and_cause(page: Page) -> None:
    """They survive the process and the keeper, since the supervisor stores them."""
    page.board.supervisor = told(p0={Cause.SIGNAL: 2, Cause.HUNG: 1}, p3={Cause.OUT_OF_MEMORY: 1})
    assert page.value("flowherd_process_restarts_total", process="0", cause="hung") == 1
    assert page.value("flowherd_process_restarts_total", process="3", cause="out_of_memory") == 1


@given(st.text(min_size=1, max_size=40).filter(lambda name: name.isprintable()))
def test_s2_an_activitys_name_adds_no_series_and_shows_nowhere(name: str) -> None:
    """Faults S2: names of activities must not fill Prometheus."""
    page = Page()
    _, writer = page.worker(0)
    count = sum(len(family.samples) for family in page.families().values())
    marked = f"canary{name}"
    index, _ = writer.claim("a-1", "w-1", marked, now=1.0, lease_s=60.0)
    writer.running(index, now=1.0, limit_s=5.0)
    assert "canary" not in page.metrics.page().decode()
    assert sum(len(family.samples) for family in page.families().values()) == count


def test_before_the_supervisors_first_message_there_is_a_page(page: Page) -> None:
    """The pages are served before anything else."""
    assert page.value("flowherd_state", state="starting") == 1
    assert page.value("flowherd_ready") == 0
    assert page.value("flowherd_start_time_seconds") == pytest.approx(time.time() - 12.0, abs=5.0)
