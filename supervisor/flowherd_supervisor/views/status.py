"""`flowherd status`: one snapshot of a running supervisor, as a table or as its JSON document."""

from __future__ import annotations

import sys
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from flowherd.errors import ConfigurationError
from flowherd.exits import Exit
from flowherd_supervisor.admin import admin_folder, find_sockets

_TIMEOUT_S = 5.0


def show_status(*, admin: str | None, pid: int | None, as_json: bool) -> int:
    """Prints the status of the supervisor at `admin`, of `pid`, or of the only one found.

    Raises:
        ConfigurationError: there is none, or several and none chosen.
    """
    with open_admin(admin, pid) as client:
        try:
            reply = client.get("/api/status")
        except httpx.HTTPError as error:
            sys.stderr.write(f"flowherd: the supervisor does not answer: {error}\n")
            return Exit.INTERNAL
    if as_json:
        sys.stdout.write(reply.text + "\n")
    else:
        Console().print(*render(reply.json()), sep="\n")
    return Exit.CLEAN


def open_admin(admin: str | None, pid: int | None) -> httpx.Client:
    """A client for a supervisor's admin pages (interface.md, Admin)."""
    if admin is not None and not admin.startswith("unix:"):
        return httpx.Client(base_url=f"http://{admin}", timeout=_TIMEOUT_S, trust_env=False)
    path = admin.removeprefix("unix:") if admin is not None else _choose(pid)
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://flowherd", timeout=_TIMEOUT_S)


def _choose(pid: int | None) -> object:
    found = find_sockets()
    if pid is not None:
        if pid not in found:
            raise ConfigurationError(f"--pid {pid}: no supervisor of yours answers there; running: {_listed(found)}")
        return found[pid]
    if not found:
        raise ConfigurationError(f"no running supervisor found in {admin_folder()}; start one: flowherd run APP")
    if len(found) > 1:
        raise ConfigurationError(f"several supervisors are running: choose one with --pid: {_listed(found)}")
    return next(iter(found.values()))


def _listed(found: dict[int, Any]) -> str:
    return ", ".join(map(str, sorted(found))) or "none"


def render(document: dict[str, Any]) -> list[Any]:
    """The snapshot for a terminal: a line about the whole, and a row for each process."""
    engine, totals, sizes = document["engine"], document["totals"], document["processes"]
    reach = f"reachable, {engine['rtt_ms']} ms" if engine["reachable"] else "NOT reachable"
    head = (
        f"flowherd {document['version']}, pid {document['pid']}, {document['state']} for {document['uptime_s']:.0f} s\n"
        f"engine {engine['url']}: {reach}\n"
        f"{sizes['ready']} of {sizes['wanted']} processes ready, "
        f"{document['concurrency']['in_use']} of {document['concurrency']['total']} slots in use, "
        f"{document['restarts']} restarts\n"
        + ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in totals.items())
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = {
        "process": "process", "pid": "pid", "phase": "phase", "slots": "slots", "in_flight": "running",
        "completed": "completed", "failed": "failed", "restarts": "restarts", "cpu_percent": "CPU %",
        "uss_mb": "own MB", "uptime_s": "up s",
    }  # fmt: skip
    for name, title in columns.items():
        table.add_column(title, justify="left" if name == "phase" else "right")
    for row in document["children"]:
        table.add_row(*("-" if row[name] is None else str(row[name]) for name in columns))
    return [head, table]
