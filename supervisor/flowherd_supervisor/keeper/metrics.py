"""`/metrics`: the ledger as Prometheus text. Labels are from closed lists; it counts nothing itself.

Names and units follow Prometheus' conventions. The label `process` is a process number, never a pid, so that the
number of series is bounded by the number of processes (faults.md S2).
"""

from __future__ import annotations

import platform
import time
from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from flowherd.ledger import Host, Ledger, Life, ProcessTotal, Timing
from flowherd.ledger.activity_counts import OTHER, Ended, Took, buckets, total_s
from flowherd_supervisor.keeper.counters import bounded, counters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client import Metric

    from flowherd_supervisor.keeper.counters import Tally
    from flowherd_supervisor.keeper.status import StatusBoard

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
STATES = ("starting", "running", "draining", "releasing", "finishing", "ended")
_PROCESS, _NAME = "process", "name"

_GAUGES: Mapping[str, tuple[str, Callable[[Tally], float]]] = {
    "flowherd_slots": ("Activities the process may run at the same time.", lambda tally: tally.slots),
    "flowherd_slots_held": (
        "Slots in use: by running activities, by a poll under way, or by handlers that run on after their outcome.",
        lambda tally: tally.held,
    ),
    "flowherd_activities_running": ("Activities whose handlers run.", lambda tally: tally.running),
    "flowherd_demand_slots": (
        "Busy slots, plus the share of the free slots that polls fill; for autoscaling.", lambda tally: tally.demand
    ),
    "flowherd_loop_lag_seconds": ("Delay of the event loop.", lambda tally: tally.loop_lag_s),
    "flowherd_process_resident_memory_bytes": ("Resident memory of the process.", lambda tally: tally.memory_bytes),
}  # fmt: skip
_COUNTERS: Mapping[str, tuple[str, Callable[[Tally], float]]] = {
    "flowherd_activities_claimed": (
        "Activities claimed from the engine.", lambda tally: tally.total(ProcessTotal.CLAIMED)
    ),
    "flowherd_loop_blocks": (
        "Times a handler blocked the event loop for 0.25 s or more.", lambda tally: tally.total(ProcessTotal.BLOCKS)
    ),
    "flowherd_loop_blocked_seconds": (
        "Time in which handlers blocked the event loop for 0.1 s or more.",
        lambda tally: tally.total(ProcessTotal.BLOCKED_US) / 1e6,
    ),
    "flowherd_process_cpu_seconds": ("CPU time of the processes that run now.", lambda tally: tally.cpu_s),
}  # fmt: skip
_DURATIONS: Mapping[str, tuple[str, Took]] = {
    "flowherd_activity_wait_seconds": (
        "Time from the claim of an activity to the first step of its handler.",
        Took.WAIT,
    ),
    "flowherd_activity_run_seconds": ("Run time of handlers.", Took.RUN),
    "flowherd_report_seconds": ("Time from an outcome to the engine's answer.", Took.REPORT),
}


class HostMetrics(Collector):
    """Everything `/metrics` shows, read anew for each scrape.

    Args:
        ledger: the counters of workers and keeper.
        board: the status of the host and of its supervisor.

    """

    def __init__(self, ledger: Ledger, board: StatusBoard) -> None:
        self._ledger = ledger
        self._board = board

    def describe(self) -> Iterable[Metric]:
        """Returns nothing: the registry need not know the names beforehand."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yields all metrics."""
        rows = self._ledger.unmoved(lambda: counters(self._ledger, self._board.supervisor))
        yield from _of_each(rows)
        yield from self._by_name()
        yield from self._restarts(rows)
        yield self._moves()
        yield from self._host()

    def page(self) -> bytes:
        """Returns the text that Prometheus scrapes."""
        return generate_latest(self)

    def _by_name(self) -> Iterator[Metric]:
        """Yields the metrics by name of the activity."""
        ledger = self._ledger
        counts = ledger.unmoved(ledger.activity_counts)
        ended = CounterMetricFamily(
            "flowherd_activities",
            "Attempts that ended, by outcome; lost: the engine gave it to another worker; crashed: its process died.",
            labels=[_NAME, "outcome"],
        )
        for name, numbers in counts.items():
            for how in Ended:
                ended.add_metric([name, how.name.lower()], numbers[how])
        yield ended
        for metric, (text, took) in _DURATIONS.items():
            histogram = HistogramMetricFamily(metric, text, labels=[_NAME])
            for name, numbers in counts.items():
                rows = bounded(buckets(numbers, took), is_detailed=took is Took.RUN)
                histogram.add_metric([name], rows, total_s(numbers, took))
            yield histogram
        running = Counter(
            record.name if record.name in counts else OTHER
            for segment in ledger.segments
            if segment.life is Life.LIVE and segment.readable
            for record in segment.records()
            if record.is_at_work
        )
        gauge = GaugeMetricFamily(
            "flowherd_activities_in_progress", "Activities whose handlers run.", labels=[_NAME]
        )
        for name in counts:
            gauge.add_metric([name], running[name])
        yield gauge

    def _restarts(self, rows: list[Tally]) -> Iterator[Metric]:
        told = self._board.supervisor
        family = CounterMetricFamily(
            "flowherd_process_restarts",
            "Processes replaced after a crash (exit, signal, out_of_memory, hung, damaged, boot) or on purpose "
            "(reload, recycle).",
            labels=[_PROCESS, "cause"],
        )
        for row in rows:
            for cause, count in sorted((told.causes.get(row.process, {}) if told else {}).items()):
                family.add_metric([str(row.process), cause], count)
        yield family

    def _moves(self) -> Metric:
        told = self._board.supervisor
        family = CounterMetricFamily(
            "flowherd_activities_moved",
            "Moves of an activity to isolates because it blocked the event loop.",
            labels=[_NAME],
        )
        for name, count in sorted((told.moves if told else {}).items()):
            family.add_metric([name], count)
        return family

    def _host(self) -> Iterator[Metric]:
        ledger, board, told = self._ledger, self._board, self._board.supervisor
        yield _labelled(
            "flowherd_build_info",
            "Versions of flowherd and Python.",
            ("version", "python"),
            {(board.version, platform.python_version()): 1},
        )
        state = told.state if told else STATES[0]
        states: dict[tuple[str, ...], float] = {(one,): one == state for one in STATES}
        yield _labelled("flowherd_state", "1 for the current state of the host.", ("state",), states)
        for name, text, value in (
            ("flowherd_ready", "1 if /readyz answers 200.", float(board.is_ready())),
            ("flowherd_engine_reachable", "1 if the last poll was answered.", float(board.is_reachable())),
            ("flowherd_processes_wanted", "Processes that should run.", told.wanted if told else 0),
            ("flowherd_processes_ready", "Processes that are ready.", board.ready_processes()),
            ("flowherd_concurrency_slots", "Slots of the whole host.", told.total_slots if told else 0),
            (
                "flowherd_start_time_seconds",
                "Start time of the host, in seconds since 1970.",
                time.time() - time.monotonic() + board.started_at,
            ),
            (
                "flowherd_lease_scan_age_seconds",
                "Time since the keeper last checked leases; 2 s or more is dangerous.",
                max(time.monotonic() - ledger.get(Host.KEEPER_TICK) / 1e6, 0.0),
            ),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        yield CounterMetricFamily(
            "flowherd_leases_lost", "Leases the engine gave to another worker.", ledger.get(Host.LEASES_LOST)
        )
        yield CounterMetricFamily(
            "flowherd_token_errors", "Refused requests for a token.", ledger.get(Host.TOKEN_ERRORS)
        )
        settled = CounterMetricFamily(
            "flowherd_settlements",
            "Activities of dead processes: reported to the engine (told) or not (given_up).",
            labels=["outcome"],
        )
        settled.add_metric(["told"], ledger.get(Host.SETTLED))
        settled.add_metric(["given_up"], ledger.get(Host.UNSETTLED))
        yield settled


def _of_each(rows: list[Tally]) -> Iterator[Metric]:
    """The metrics of each process."""
    for name, (text, value) in _GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=[_PROCESS])
        for row in rows:
            gauge.add_metric([str(row.process)], value(row))
        yield gauge
    for name, (text, value) in _COUNTERS.items():
        counter = CounterMetricFamily(name, text, labels=[_PROCESS])
        for row in rows:
            counter.add_metric([str(row.process)], value(row))
        yield counter
    histogram = HistogramMetricFamily(
        "flowherd_poll_seconds", "Time the engine took to answer a poll.", labels=[_PROCESS]
    )
    for row in rows:
        histogram.add_metric([str(row.process)], row.buckets(Timing.POLL), row.total_s(Timing.POLL))
    yield histogram
    yield _polls(rows)


def _polls(rows: list[Tally]) -> Metric:
    polls = CounterMetricFamily("flowherd_polls", "Polls, by result.", labels=[_PROCESS, "outcome"])
    for row in rows:
        process, empty = str(row.process), row.total(ProcessTotal.EMPTY_POLLS)
        polls.add_metric([process, "work"], row.total(ProcessTotal.POLLS) - empty)
        polls.add_metric([process, "empty"], empty)
        polls.add_metric([process, "error"], row.total(ProcessTotal.POLL_ERRORS))
    return polls


def _labelled(
    name: str, text: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], float]
) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, text, labels=labels)
    for words, value in values.items():
        gauge.add_metric(words, float(value))
    return gauge
