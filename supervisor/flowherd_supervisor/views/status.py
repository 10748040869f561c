"""`flowherd status`: one snapshot of a running supervisor, as a table or as its JSON document."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import httpx
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flowherd.errors import ConfigurationError
from flowherd.exits import Exit
from flowherd_supervisor.admin import admin_folder, find_sockets

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_TIMEOUT_S = 5.0
_WIDTH_OF_A_PIPE = 200  # nothing is cut for grep
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def show_status(*, admin: str | None, pid: int | None, as_json: bool) -> int:
    """Prints the status of the supervisor at `admin`, of `pid`, or of the only one found.

    Raises:
        ConfigurationError: there is none, several and none chosen, or `admin` is no address.

    """
    where = (
        f"--admin {admin}" if admin is not None else f"--pid {pid}" if pid is not None else "the supervisor"
    )
    with open_admin(admin, pid) as client:
        try:
            reply = client.get("/api/status")
            document = reply.json() if reply.is_success else {}
        except httpx.HTTPError as error:
            sys.stderr.write(f"flowherd: {where}: no answer: {error or type(error).__name__}\n")
            return Exit.INTERNAL
        except ValueError:
            document = {}
    if not isinstance(document, dict) or "children" not in document:
        sys.stderr.write(
            f"flowherd: {where}: what answers there ({reply.status_code}) is no flowherd supervisor\n"
        )
        return Exit.INTERNAL
    if as_json:
        sys.stdout.write(reply.text + "\n")
    else:
        width = None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE
        Console(highlight=False, width=width).print(*render(document), sep="\n")
    return Exit.CLEAN


def open_admin(admin: str | None, pid: int | None) -> httpx.Client:
    """A client for a supervisor's admin pages (interface.md, Admin).

    Raises:
        ConfigurationError: as `show_status`.

    """
    if admin is None:
        return _through(_choose(pid))
    if admin.startswith("unix:"):
        return _through(admin.removeprefix("unix:"))
    host, _, port = admin.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigurationError(f"--admin {admin}: should be HOST:PORT or unix:PATH")
    return httpx.Client(base_url=f"http://{admin}", timeout=_TIMEOUT_S, trust_env=False)


def _through(path: Path | str) -> httpx.Client:
    transport = httpx.HTTPTransport(uds=str(path))
    return httpx.Client(transport=transport, base_url="http://flowherd", timeout=_TIMEOUT_S, trust_env=False)


def _choose(pid: int | None) -> Path:
    found = find_sockets()
    if pid is not None:
        if pid not in found:
            listed = _listed(found)
            raise ConfigurationError(f"--pid {pid}: no supervisor of yours answers there; running: {listed}")
        return found[pid]
    if not found:
        raise ConfigurationError(
            f"no running supervisor found in {admin_folder()}; start one: flowherd run APP"
        )
    if len(found) > 1:
        raise ConfigurationError(f"several supervisors are running: choose one with --pid: {_listed(found)}")
    return next(iter(found.values()))


def _listed(found: Mapping[int, Path]) -> str:
    return ", ".join(map(str, sorted(found))) or "none"


def render(document: Mapping[str, Any]) -> list[Text | Table]:
    """The snapshot for a terminal of 80 columns: a few lines about the whole, and a row for each process."""
    engine, sizes, slots = document["engine"], document["processes"], document["concurrency"]
    reach = f"reachable, {engine['rtt_ms']} ms" if engine["reachable"] else "NOT reachable"
    ready = f"{sizes['ready']} of {sizes['wanted']} processes ready"
    busy = f"{slots['in_use']} of {slots['total']} slots in use"
    age = f"{document['state']} for {_duration(document['uptime_s'])}"
    lines = (
        f"flowherd {document['version']}, pid {document['pid']}, {age}",
        f"engine {engine['url']}: {reach}",
        f"{ready}, {busy}, {document['restarts']} restarts",
        ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in document["totals"].items()),
    )
    return [Text("\n".join(lines)), _table(document["children"])]


def _table(children: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title in ("proc", "pid", "phase", "busy", "done", "failed", "restarts", "CPU%", "own MB", "up"):
        table.add_column(title, justify="left" if title == "phase" else "right", no_wrap=True)
    for row in children:
        table.add_row(
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
    return table


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
