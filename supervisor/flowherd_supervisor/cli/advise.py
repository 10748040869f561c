"""`flowherd advise`: recommends a kind for each activity and a size for the host, as text or JSON."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from flowherd.counted import counted, plural
from flowherd.errors import ConfigurationError
from flowherd.logs import visible
from flowherd_supervisor.cli.ask_supervisor import ask
from flowherd_supervisor.cli.print_document import show
from flowherd_supervisor.shell.admin_socket import find_sockets

if TYPE_CHECKING:
    from collections.abc import Mapping

HOW_TO_GET_A_SAMPLE = (
    "no running host found: advice rests on measurements of real work. To get a sample, start "
    "`flowherd run APP`, let it work (30 attempts of each activity), and ask again"
)
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_COLUMNS = ("activity", "runs", "advice", "samples", "cpu ms", "cpu %", "wall ms", "block ms", "GIL free")


def show_advice(*, admin: str | None, pid: int | None, as_json: bool) -> int:
    """Prints the advice of the supervisor at `admin`, of `pid`, or of the only one found.

    Raises:
        ConfigurationError: no supervisor runs, several run and none is chosen, or `admin` is not an address.

    """
    if admin is None and pid is None and not find_sockets():
        raise ConfigurationError(HOW_TO_GET_A_SAMPLE)
    return show(ask("/api/advice", "activities", admin=admin, pid=pid), render, as_json=as_json)


def render(document: Mapping[str, Any]) -> list[Text | Table]:
    """Returns a row of figures and a line with the reason for each activity, then three lines about the host."""
    rows, host = document["activities"], document["host"]
    reasons = [Text(f"{visible(row['activity'])}: {_reason(row)}") for row in rows]
    sizes = [Text(_size(host["processes"], "process")), Text(_size(host["slots"], "slot"))]
    way = host["parallel"]
    sizes.append(Text(f"parallel: {way['advised']}: {way['reason']}"))
    return [_table(rows), Text(), *reasons, Text(), *sizes, *_settings(rows)]


def _settings(rows: list[Mapping[str, Any]]) -> list[Text]:
    """Returns the lines for the settings file that put the advice into effect."""
    moves = [(row["activity"], row["verdict"]) for row in rows if row["change"]]
    if not moves:
        return []
    tables = [f'[activities.{_key(name)}]\noffload = "{verdict}"' for name, verdict in moves]
    return [Text("\nTo follow it, without touching the code, in flowherd.toml:\n"), Text("\n\n".join(tables))]


def _key(name: str) -> str:
    """Returns the name as a TOML key: bare if possible, else quoted as in JSON."""
    return name if _BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _table(rows: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title in _COLUMNS:
        is_word = title in {"activity", "runs", "advice"}
        table.add_column(
            title, justify="left" if is_word else "right", no_wrap=title != "activity", overflow="fold"
        )
    for row in rows:
        table.add_row(
            visible(row["activity"]),
            row["runs"],
            _advice(row),
            str(row["samples"]),
            f"{row['cpu_ms_p50']:.2f}",
            f"{100 * row['cpu_share']:.0f}",
            f"{row['wall_ms']:.1f}",
            f"{row['block_ms_max']:.1f}",
            _percent(row["gil_released_share"]),
        )
    return table


def _advice(row: Mapping[str, Any]) -> str:
    if row["verdict"] == "unknown":
        return "-"
    return row["verdict"] if row["change"] else "no change"


def _reason(row: Mapping[str, Any]) -> str:
    if row["moved"]:
        return 'moved: it blocked the event loop; say offload = "process" to have it there from the start'
    if row["verdict"] == "unknown":
        return str(row["reason"])
    return f"{_advice(row)}: {row['reason']}{_gain(row)}"


def _gain(row: Mapping[str, Any]) -> str:
    """Returns the gain and the cost of a change; "" if none is advised."""
    if not row["change"]:
        return ""
    gain = row["criteria"]["gain"]
    return f"; others wait {gain['now']:.0f} ms now, {gain['estimated']:.0f} ms then (cost: {gain['cost']})"


def _size(size: Mapping[str, Any], noun: str) -> str:
    now, advised = size["now"], size["advised"]
    if advised is None:
        return f"{plural(noun)}: unknown: {size['reason']}"
    if advised == now:
        return f"{counted(now, noun)}, no change: {size['reason']}"
    return f"{counted(advised, noun)} instead of {now}: {size['reason']}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
