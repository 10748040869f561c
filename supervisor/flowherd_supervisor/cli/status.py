"""`flowherd status`: one snapshot of a running supervisor, as a table or as its JSON document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from flowherd.counted import counted
from flowherd.logs import visible
from flowherd_supervisor.cli.ask_supervisor import ask
from flowherd_supervisor.cli.print_document import show
from flowherd_supervisor.cli.status_tables import (
    ACTIVITY_COLUMNS,
    activity_cells,
    busy_cell,
    duration,
    failure_lines,
    figure,
    finishing_line,
    lately_line,
    moved_lines,
    now_lines,
    standstill_lines,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

COLUMNS = ("proc", "pid", "phase", "busy", "done", "failed", "restarts", "CPU%", "own MB", "up")
ABOUT_PROCESSES = "processes (attempts they reported; CPU% and own MB without isolates)"
ABOUT_ACTIVITIES = "activities (all attempts; failed includes those whose process died)"
_WORDS = frozenset({"phase", "activity", "advice"})
_SEEN = ("running", "waiting", "completed", "failed", "lost")
SHOWN_NOW, SHOWN_FAILURES = 8, 5  # rows in `flowherd status`; `top` and the page show more


def show_status(*, admin: str | None, pid: int | None, as_json: bool) -> int:
    """Prints the status of the supervisor at `admin`, of `pid`, or of the only one found.

    Raises:
        ConfigurationError: no supervisor runs, several run and none is chosen, or `admin` is not an address.

    """

    def with_failures(document: Mapping[str, Any]) -> list[Text | Table]:
        failures = ask("/api/failures", "failures", admin=admin, pid=pid) if _has_failed(document) else None
        return render(document, failures[1]["failures"] if failures else ())

    return show(ask("/api/status", "children", admin=admin, pid=pid), with_failures, as_json=as_json)


def _has_failed(document: Mapping[str, Any]) -> bool:
    return bool(document.get("failures_so_far"))


def render(document: Mapping[str, Any], failures: Sequence[Mapping[str, Any]] = ()) -> list[Text | Table]:
    """Renders the status for 80 columns: headline, processes, activities, running attempts, last failures."""
    parts: list[Text | Table] = [
        Text("\n".join(map(visible, headline(document)))),
        Text(f"\n{ABOUT_PROCESSES}"),
        table_of(COLUMNS, map(cells, document["children"])),
    ]
    rows = document.get("by_activity", ())
    seen = [row for row in rows if any(row[name] for name in _SEEN)]
    if seen:
        parts += [Text(f"\n{ABOUT_ACTIVITIES}"), table_of(ACTIVITY_COLUMNS, map(activity_cells, seen))]
    if unseen := len(rows) - len(seen):
        parts.append(Text(f"and {counted(unseen, 'activity')} without any attempts"))
    if lines := now_lines(document, SHOWN_NOW):
        parts += [Text(), Text("\n".join(lines))]
    if failures:
        parts += [Text(), Text("\n".join(["last failures", *failure_lines(failures[:SHOWN_FAILURES])]))]
    return parts


def headline(document: Mapping[str, Any]) -> list[str]:
    """Returns the summary at the top: version, app, engine, counts and stalled processes."""
    engine, sizes, slots = document["engine"], document["processes"], document["concurrency"]
    reach = f"reachable, {engine['rtt_ms']} ms" if engine["reachable"] else "NOT reachable"
    ready = f"{sizes['ready']} of {counted(sizes['wanted'], 'process')} ready"
    busy = f"{slots['in_use']} of {counted(slots['total'], 'slot')} in use"
    paused = "" if document.get("polling", True) else ", polling is paused"
    age = f"{document['state']} for {duration(document['uptime_s'])}{paused}"
    return [
        f"flowherd {document['version']}, pid {document['pid']}, {age}",
        *([f"app {document['app']} on host {document.get('host', '')}"] if document.get("app") else []),
        f"engine {engine['url']}: {reach}",
        f"{ready}, {busy}, {counted(document['restarts'], 'restart')}",
        *finishing_line(document["children"]),
        "attempts: "
        + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in document["totals"].items()),
        *lately_line(document),
        *standstill_lines(document.get("children", ())),
        *moved_lines(document),
    ]


def table_of(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Builds a table without borders; text is left-aligned, numbers are right-aligned."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title in columns:
        table.add_column(title, justify="left" if title in _WORDS else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the cells of a process, one for each of `COLUMNS`."""
    return (
        str(row["process"]),
        str(row["pid"]),
        row["phase"],
        busy_cell(row),
        str(row["completed"]),
        str(row["failed"]),
        str(row["restarts"]),
        figure(row["cpu_percent"]),
        figure(row["uss_mb"]),
        duration(row["uptime_s"]),
    )
