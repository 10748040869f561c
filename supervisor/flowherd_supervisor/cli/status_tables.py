"""Formats parts of the status document for a terminal of 80 columns: numbers, activities and failures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from flowherd.counted import counted
from flowherd.logs import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ACTIVITY_COLUMNS = ("activity", "run", "wait", "done", "failed", "p50", "p95", "CPU%", "advice")
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
_NAME_WIDTH = 22
_MESSAGE_WIDTH = 140  # two lines of a terminal
_ANY_EXCEPTION = "EXECUTION_ERROR"  # the code of an exception that has none of its own
OVER = "its outcome is decided, but its handler runs on and keeps a slot"
_ISOLATED = " (isolate)"
_NOW_WIDTH = 26  # with the other columns and the id of a workflow 76: `top` has margins
_NOW = f"{{:>7}} {{:>4}} {{:<{_NOW_WIDTH}}} {{}}"


def figure(value: float | None) -> str:
    """Formats a measurement; "-" for None, as of a process that has just ended."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if not 0 < value < 0.1 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Formats a duration in at most two units: `9s`, `3m20s`, `5h01m`, `12d04h`."""
    whole = int(seconds)
    if whole < _MINUTE_S:
        return f"{whole}s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S}m{whole % _MINUTE_S:02}s"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S}h{whole % _HOUR_S // _MINUTE_S:02}m"
    return f"{whole // _DAY_S}d{whole % _DAY_S // _HOUR_S:02}h"


def busy_cell(row: Mapping[str, Any]) -> str:
    """Returns the slots in use of those a process has; an old process that finishes its activities has none."""
    return str(row["in_flight"]) if row["phase"] == "finishing" else f"{row['in_flight']}/{row['slots']}"


def finishing_line(children: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns a line about old processes, after a reload or a scale-down, and the activities they still run."""
    held = [row["in_flight"] for row in children if row["phase"] == "finishing"]
    if not held:
        return []
    verb = "finishes" if len(held) == 1 else "finish"
    return [f"{counted(len(held), 'old process')} {verb} {counted(sum(held), 'activity')}"]


def activity_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the cells of an activity, one for each of `ACTIVITY_COLUMNS`."""
    ended = bool(row["ran"])
    share = row["cpu_share"]
    return (
        cut(row["activity"], _NAME_WIDTH),
        str(row["running"]),
        str(row["waiting"]),
        str(row["completed"]),
        str(row["failed"]),
        _took(row["run_ms_p50"], ended=ended),
        _took(row["run_ms_p95"], ended=ended),
        "-" if share is None else f"{100 * share:.0f}",
        _advice(row),
    )


def _took(milliseconds: float | None, *, ended: bool) -> str:
    """Formats a run time; `>16s` where the histogram ends, "-" if no run has ended."""
    if milliseconds is None:
        return ">16s" if ended else "-"
    return f"{milliseconds:.0f}ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f}s"


def lately_line(document: Mapping[str, Any]) -> list[str]:
    """Returns a line with rates and run times of the last 15 minutes, or since the start if that is less."""
    lately = document.get("lately")
    if not lately:
        return []
    rates = f"{figure(lately['completed'])}/s done, {figure(lately['failed'])}/s failed"
    if not lately["completed"] + lately["failed"]:
        return [f"last {duration(lately['seconds'])}: nothing ended"]
    half, most = (_took(lately[key], ended=True) for key in ("run_ms_p50", "run_ms_p95"))
    return [f"last {duration(lately['seconds'])}: {rates}, run time p50 {half}, p95 {most}"]


def _advice(row: Mapping[str, Any]) -> str:
    if row.get("moved"):
        return "moved"
    if row["verdict"] in {None, "unknown"}:
        return "-"
    return f"{row['runs']}→{row['verdict']}" if row["change"] else str(row["verdict"])


def now_lines(document: Mapping[str, Any], most: int) -> list[str]:
    """Returns a heading, then running activities, longest first, then waiting ones with the reason below each.

    The document lists only the oldest of each process; the rest appear as a count.
    """
    rows = [
        (row, child["process"])
        for child in document["children"]
        for row in (*child.get("activities", ()), *child.get("waiting", ()))
    ]
    rows.sort(key=lambda one: ("waits_for" in one[0], -one[0]["for_s"]))
    lines = [_NOW.format("running", "proc", "activity", "workflow")] if rows else []
    for row, process in rows[:most]:
        where = _ISOLATED if row.get("isolated") else ""
        name = cut(row["name"], _NOW_WIDTH - len(_ISOLATED)) + where
        lines.append(_NOW.format(duration(row["for_s"]), process, name, row.get("workflow_id", "")))
        if reason := row.get("waits_for"):
            lines.append(f"             waits for {reason}")
        if row.get("is_over"):
            lines.append(f"             {OVER}")
    there_are = sum(row["running"] + row["waiting"] for row in document.get("by_activity", ()))
    if rows and (more := max(there_are, len(rows)) - min(len(rows), most)) > 0:
        lines.append(f"             and {more} more")
    return [visible(line) for line in lines]


def moved_lines(document: Mapping[str, Any]) -> list[str]:
    """Returns a line for each activity that was moved to isolates, and one for those that an order keeps."""
    lines = [
        f"{one['activity']} was moved to isolates: it blocked the event loop for {duration(one['blocked_s'])}"
        + (f", at {one['place']}" if one["place"] else "")
        for one in document.get("moved", ())
    ]
    if kept := document.get("kept"):
        lines.append(f"kept on the event loop until a reload: {', '.join(kept)}")
    return [visible(line) for line in lines]


def standstill_lines(children: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns a line for each stalled process, with the cause if it is known."""
    return [
        visible(f"process {child['process']}: {standstill_words(child['standstill'])}")
        for child in children
        if child.get("standstill")
    ]


def standstill_words(found: Mapping[str, Any]) -> str:
    """Formats duration and cause of a standstill, as `flowherd_supervisor.keeper.standstill` reports them."""
    for_s = duration(found["for_s"])
    if found["is_stopped"]:
        return f"stopped by a signal or a debugger, no sign of life for {for_s}"
    by = f" by {found['name']}" if found["name"] else ""
    return f"its event loop has been blocked for {for_s}{by}" + (f", at {found['at']}" if found["at"] else "")


def failure_lines(failures: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns two lines for each failure: time, activity and workflow; then code and message."""
    lines = []
    for one in failures:
        when = time.strftime("%H:%M:%S", time.localtime(one["at"]))
        retried = "" if one["retryable"] else "  for good"
        lines.append(f"{when}  {cut(one['activity'], _NAME_WIDTH)}  {one['workflow_id']}{retried}")
        lines.append(f"          {cut(failure_text(one), _MESSAGE_WIDTH)}")
    return [visible(line) for line in lines]


def failure_text(failure: Mapping[str, Any]) -> str:
    """Returns code, class where the code does not name the cause, message and line of code of a failure."""
    code, kind, message = (failure.get(name) or "" for name in ("code", "type", "message"))
    is_named = kind == code or message.startswith(f"{kind}: ")  # the message of an exit begins with its class
    parts = (code, "" if is_named or code != _ANY_EXCEPTION else kind, message)
    text = ": ".join(part for part in parts if part)
    line = (failure.get("line") or "").rpartition("/")[2]  # the log and JSON have the whole path
    return f"{text}, at {line}" if line else text


def cut(text: str, width: int) -> str:
    """Shortens text to `width` characters with an ellipsis in the middle, since names differ at both ends."""
    text = visible(text)
    half = (width - 1) // 2
    return text if len(text) <= width else f"{text[: width - 1 - half]}…{text[-half:]}"
