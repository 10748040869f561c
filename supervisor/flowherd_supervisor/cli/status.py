"""`flowherd status`: one snapshot of a running supervisor, as a table or as its JSON document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from flowherd.logs import visible
from flowherd_supervisor.cli.ask_supervisor import ask
from flowherd_supervisor.cli.print_document import show

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS = ("proc", "pid", "phase", "busy", "done", "failed", "restarts", "CPU%", "own MB", "up")
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def show_status(*, admin: str | None, pid: int | None, as_json: bool) -> int:
    """Prints the status of the supervisor at `admin`, of `pid`, or of the only one found.

    Raises:
        ConfigurationError: there is none, several and none chosen, or `admin` is no address.

    """
    return show(ask("/api/status", "children", admin=admin, pid=pid), render, as_json=as_json)


def render(document: Mapping[str, Any]) -> list[Text | Table]:
    """The snapshot for a terminal of 80 columns: a few lines about the whole, and a row for each process."""
    return [Text("\n".join(map(visible, headline(document)))), _table(document["children"])]


def headline(document: Mapping[str, Any]) -> list[str]:
    """The whole in four lines."""
    engine, sizes, slots = document["engine"], document["processes"], document["concurrency"]
    reach = f"reachable, {engine['rtt_ms']} ms" if engine["reachable"] else "NOT reachable"
    ready = f"{sizes['ready']} of {sizes['wanted']} processes ready"
    busy = f"{slots['in_use']} of {slots['total']} slots in use"
    paused = "" if document.get("polling", True) else ", polling is paused"
    age = f"{document['state']} for {_duration(document['uptime_s'])}{paused}"
    return [
        f"flowherd {document['version']}, pid {document['pid']}, {age}",
        f"engine {engine['url']}: {reach}",
        f"{ready}, {busy}, {document['restarts']} restarts",
        ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in document["totals"].items()),
    ]


def _table(children: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title in COLUMNS:
        table.add_column(title, justify="left" if title == "phase" else "right", no_wrap=True)
    for row in children:
        table.add_row(*cells(row))
    return table


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The texts of a process, one for each of `COLUMNS`."""
    return (
        str(row["process"]),
        str(row["pid"]),
        row["phase"],
        f"{row['in_flight']}/{row['slots']}",
        str(row["completed"]),
        str(row["failed"]),
        str(row["restarts"]),
        _figure(row["cpu_percent"]),
        _figure(row["uss_mb"]),
        _duration(row["uptime_s"]),
    )


def _figure(value: float | None) -> str:
    """A measured number; a process that has just ended has none."""
    return "-" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _duration(seconds: float) -> str:
    """Two units at most: `9s`, `3m20s`, `5h01m`, `12d04h`."""
    whole = int(seconds)
    if whole < _MINUTE_S:
        return f"{whole}s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S}m{whole % _MINUTE_S:02}s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S}h{whole % _HOUR_S // _MINUTE_S:02}m"
    return f"{whole // _DAY_S}d{whole % _DAY_S // _HOUR_S:02}h"
