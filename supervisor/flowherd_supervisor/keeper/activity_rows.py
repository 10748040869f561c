"""Rows of the status document about activities: by name, running ones, and waiting ones with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowherd.ledger import Handler, Ledger, Life
from flowherd.ledger.activity_counts import OTHER, Ended, Took, buckets
from flowherd.ledger.histogram import quantile_s
from flowherd.ledger.host_permits import waits_for_permit

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from flowherd.ledger import Record, Segment

WAITS_S = 1.0  # shorter waits are not shown
MOST_SHOWN = 8  # the oldest activities of one process


def by_activity(
    ledger: Ledger, advice: Iterable[Mapping[str, Any]], moved: Container[str] = ()
) -> list[dict[str, Any]]:
    """Returns a row for each activity of the app, and one for all others if there were any.

    `ran` counts ended handlers. Durations are upper bounds, None without any or beyond 16 s.

    Args:
        ledger: the ledger, which is only read.
        advice: the rows of `flowherd advise`.
        moved: the activities that run in isolates because they block the event loop.

    """
    counts = ledger.unmoved(ledger.activity_counts)
    running, waiting = dict.fromkeys(counts, 0), dict.fromkeys(counts, 0)
    for segment in ledger.segments:
        if segment.life is Life.LIVE and segment.readable:
            for record in segment.records():
                name = record.name if record.name in counts else OTHER
                running[name] += record.is_at_work
                waiting[name] += record.is_held and record.handler <= Handler.ADMITTED
    advised = {row["activity"]: row for row in advice}
    return [
        {
            "activity": name,
            "running": running[name],
            "waiting": waiting[name],
            "completed": numbers[Ended.COMPLETED],
            "failed": numbers[Ended.FAILED] + numbers[Ended.CRASHED],
            "lost": numbers[Ended.LOST],
            "ran": sum(buckets(numbers, Took.RUN)),
            "run_ms_p50": milliseconds(quantile_s(buckets(numbers, Took.RUN), 0.5)),
            "run_ms_p95": milliseconds(quantile_s(buckets(numbers, Took.RUN), 0.95)),
            "cpu_share": _advised(advised, name, "cpu_share"),
            "runs": _advised(advised, name, "runs"),
            "verdict": _advised(advised, name, "verdict"),
            "moved": name in moved,
            "change": bool(_advised(advised, name, "change")),
        }
        for name, numbers in sorted(counts.items(), key=lambda item: (item[0] == OTHER, item[0]))
        if name != OTHER or any(numbers) or running[name] or waiting[name]
    ]


def _advised(rows: Mapping[str, Mapping[str, Any]], name: str, key: str) -> Any:
    """Returns a figure of the advice; None for an activity without measurements."""
    row = rows.get(name, {})
    return row.get(key) if row.get("samples") else None


def running_in(segment: Segment, now: float) -> list[dict[str, Any]]:
    """Returns the activities whose handlers have run longest, oldest first; `is_over` if the outcome is decided."""
    running = (record for record in segment.records() if record.is_at_work)
    oldest = sorted(running, key=lambda record: record.started_at)[:MOST_SHOWN]
    return [
        {
            **_ids(record),
            "for_s": round(now - record.started_at, 1),
            "limit_s": record.limit_s,
            "is_over": not record.is_held,
            "isolated": record.is_isolated,
        }
        for record in oldest
    ]


def not_begun_in(segment: Segment, now: float, after_s: float) -> list[dict[str, Any]]:
    """Returns activities claimed at least `after_s` seconds ago that have not begun, oldest first."""
    waiting = (
        record
        for record in segment.records()
        if waits_for(segment, record) and now - record.claimed_at >= after_s
    )
    oldest = sorted(waiting, key=lambda record: record.claimed_at)[:MOST_SHOWN]
    return [
        {
            **_ids(record),
            "for_s": round(now - record.claimed_at, 1),
            "waits_for": waits_for(segment, record),
        }
        for record in oldest
    ]


def waits_for(segment: Segment, record: Record) -> str | None:
    """Returns the reason why a handler has not begun; None if it has, or never will."""
    if not record.is_held or record.handler > Handler.ADMITTED:
        return None
    if record.handler is Handler.WAITING:
        return "a slot"
    if waits_for_permit(segment, record.name):
        return "a permit (max_concurrent)"
    return "a permit, an isolate or the loop"


def _ids(record: Record) -> dict[str, str]:
    return {
        "name": record.name,
        "activity_id": record.activity_id,
        "key": record.key,
        "workflow_id": record.workflow_id,
    }


def milliseconds(seconds: float | None) -> float | None:
    """Converts seconds to milliseconds, rounded to tenths."""
    return None if seconds is None else round(seconds * 1000, 1)
