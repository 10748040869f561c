"""What `/metrics` shows as OpenTelemetry's data: the same names, units and numbers; it counts nothing itself."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from flowherd.telemetry.resource import SCOPE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import prometheus_client
    from opentelemetry.sdk.resources import Resource

_UNITS = {"_seconds": "s", "_bytes": "By"}  # as UCUM writes what the names end in
_SINCE_START = AggregationTemporality.CUMULATIVE

Labels = tuple[tuple[str, str], ...]


def otlp(
    families: Iterable[prometheus_client.Metric], resource: Resource, began_ns: int, now_ns: int
) -> MetricsData:
    """The families as one export.

    Args:
        families: counters, gauges and histograms; those without samples are left out.
        resource: whose they are.
        began_ns: since when counters and histograms count, in nanoseconds since 1970; the same in every export.
        now_ns: as of when.

    """
    metrics = [
        Metric(
            _name(family), family.documentation, _unit(family.name), _Points(family, began_ns, now_ns).data()
        )
        for family in families
        if family.samples
    ]
    scope = ScopeMetrics(InstrumentationScope(*SCOPE), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _name(family: prometheus_client.Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def _unit(name: str) -> str:
    return next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), "")


class _Points:
    """The samples of one family."""

    def __init__(self, family: prometheus_client.Metric, began_ns: int, now_ns: int) -> None:
        self._family = family
        self._began_ns = began_ns
        self._now_ns = now_ns

    def data(self) -> Sum | Gauge | Histogram:
        """All of them."""
        match self._family.type:
            case "counter":
                return Sum(list(self._numbers(self._began_ns)), _SINCE_START, is_monotonic=True)
            case "gauge":
                return Gauge(list(self._numbers(0)))
            case _:
                return Histogram(list(self._histograms()), _SINCE_START)

    def _numbers(self, began_ns: int) -> Iterator[NumberDataPoint]:
        for sample in self._family.samples:
            yield NumberDataPoint(dict(sample.labels), began_ns, self._now_ns, float(sample.value))

    def _histograms(self) -> Iterator[HistogramDataPoint]:
        """Cumulative buckets become counts between bounds; the least and the greatest value are not known."""
        unknown: Any = None
        buckets: dict[Labels, list[tuple[float, int]]] = {}
        sums: dict[Labels, float] = {}
        for sample in self._family.samples:
            labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
            if sample.name.endswith("_bucket"):
                upper = (float(sample.labels["le"]), int(sample.value))
                buckets.setdefault(labels, []).append(upper)
            elif sample.name.endswith("_sum"):
                sums[labels] = float(sample.value)
        for labels, uppers in buckets.items():
            counts = [after - before for (_, before), (_, after) in pairwise([(0.0, 0), *uppers])]
            yield HistogramDataPoint(
                attributes=dict(labels),
                start_time_unix_nano=self._began_ns,
                time_unix_nano=self._now_ns,
                count=uppers[-1][1],
                sum=sums[labels],
                bucket_counts=counts,
                explicit_bounds=[upper for upper, _ in uppers[:-1]],
                min=unknown,
                max=unknown,
            )
