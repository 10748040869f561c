"""The status document, from the ledger and /proc."""

from __future__ import annotations

import socket
import time
from math import inf
from typing import TYPE_CHECKING, Any

import psutil

from flowherd.ledger import Cell, Clock, Host, Ledger, Life, ProcessTotal, Segment
from flowherd_supervisor.advise.advice_document import Adviser, summary
from flowherd_supervisor.keeper.activity_rows import (
    WAITS_S,
    by_activity,
    milliseconds,
    not_begun_in,
    running_in,
)
from flowherd_supervisor.keeper.history import History
from flowherd_supervisor.keeper.standstill import loop_lag_s, standstill
from flowherd_supervisor.processes.cpus import usable_cpus

if TYPE_CHECKING:
    from flowherd.link.messages import Serves, SupervisorState

MEASURED_EVERY_S = 1.0  # the kernel walks through the memory, and the heartbeat loop waits for the GIL
GOOD_POLL_WITHIN_S = 15.0  # duration of an outage after which the host is not ready


class StatusBoard:
    """Builds the document of `flowherd status --json` and `GET /api/status`.

    Attributes:
        supervisor: the supervisor's last state, None before the first.
        serves: the app's activities and their parameters, None before its import.
        history: the host's history.
        version: version of flowherd.
        started_at: start of the supervisor in monotonic seconds.

    """

    def __init__(
        self,
        ledger: Ledger,
        api_url: str,
        version: str,
        supervisor_pid: int,
        started_at: float,
        *,
        app: str = "",
        folder: str = "",
    ) -> None:
        self._app = app
        self._folder = folder
        self.serves: Serves | None = None
        self._host = socket.gethostname()
        self.history = History(ledger)
        self._ledger = ledger
        self._api_url = api_url
        self.version = version
        self._supervisor_pid = supervisor_pid
        self.started_at = started_at
        self._meters: dict[int, _Meter] = {}
        self._adviser = Adviser(ledger, usable_cpus())
        self.supervisor: SupervisorState | None = None

    def document(self) -> dict[str, Any]:
        """Returns the whole document; memory and CPU come from /proc, also for a blocked process."""
        now = time.monotonic()
        live = [segment for segment in self._ledger.segments if segment.life is Life.LIVE]
        pids = {segment.get(Cell.PID) for segment in live}
        self._meters = {pid: meter for pid, meter in self._meters.items() if pid in pids}
        children = sorted(
            (
                self._child(segment, now) for segment in live if segment.get(Cell.PID)
            ),  # else the zygote has not forked it yet
            key=lambda row: (row["process"], row["incarnation"]),
        )
        told = self.supervisor
        _mark_finishing(children, told.wanted if told else inf)
        advice = self.advice()
        return {
            "version": self.version,
            "pid": self._supervisor_pid,
            "app": self._app,
            "host": self._host,
            "folder": self._folder,
            "state": told.state if told else "starting",
            "polling": told.polling if told else True,
            "uptime_s": round(now - self.started_at, 1),
            "engine": self._engine(live),
            "concurrency": {
                "total": told.total_slots if told else 0,
                "in_use": sum(row["in_flight"] for row in children),
            },
            "processes": {
                "wanted": told.wanted if told else 0,
                "ready": sum(row["phase"] == "running" for row in children),
            },
            "parallel": "threads" if told and told.threads else "processes",
            "restarts": sum(told.restarts.values()) if told else 0,
            "totals": self._ledger.unmoved(self._totals),
            "children": children,
            "by_activity": by_activity(self._ledger, advice["activities"], told.moved if told else ()),
            **self._moved(),
            "lately": self.history.lately(),
            "failures_so_far": self.history.failures_so_far,
            "advice": summary(advice),
        }

    def activities(self) -> dict[str, Any]:
        """Returns the document of `/api/activities`: engine, worker type, last poll, parameters by activity."""
        now = time.monotonic()
        live = [one for one in self._ledger.segments if one.life is Life.LIVE and one.readable]
        polled_at = max((segment.clock(Clock.LAST_GOOD_POLL) for segment in live), default=0.0)
        free = sum(max(segment.get(Cell.LIMIT) - segment.get(Cell.RUNNING), 0) for segment in live)
        return {
            "pid": self._supervisor_pid,
            "app": self._app,
            "engine": self._api_url,
            "worker": self.serves.worker_type if self.serves else None,
            "free_slots": free,
            "polled_s_ago": round(now - polled_at, 1) if polled_at else None,
            "activities": self.serves.takes if self.serves else {},
            **self._moved(),
            "standstills": [
                {"process": segment.get(Cell.PROCESS), **found}
                for segment in live
                if (found := standstill(segment, now))
            ],
        }

    def _moved(self) -> dict[str, Any]:
        """Returns the activities that were moved to isolates, and those that an order keeps on the loop."""
        told = self.supervisor
        moved = [
            {"activity": name, "place": one.place, "blocked_s": round(one.blocked_s, 3)}
            for name, one in sorted((told.moved if told else {}).items())
        ]
        return {"moved": moved, "kept": list(told.kept) if told else []}

    def advice(self) -> dict[str, Any]:
        """Returns the document of `flowherd advise --json`."""
        return self._adviser.document(self.supervisor)

    def is_ready(self) -> bool:
        """True if at least half of the processes are ready (faults.md C21) and polls are answered.

        Polls may fail for `GOOD_POLL_WITHIN_S` without making the host unready.
        """
        now = time.monotonic()
        live = [segment for segment in self._ledger.segments if segment.life is Life.LIVE]
        wanted = self.supervisor.wanted if self.supervisor else 1
        return 2 * self.ready_processes() >= wanted and any(_gets_work(segment, now) for segment in live)

    def ready_processes(self) -> int:
        """Returns the number of process numbers with a ready process; an old and a new incarnation count once."""
        ready = (
            segment.get(Cell.PROCESS)
            for segment in self._ledger.segments
            if segment.life is Life.LIVE and segment.readable and segment.clock(Clock.READY_AT)
        )
        return len(set(ready))

    def is_reachable(self) -> bool:
        """True if the last poll was answered."""
        return bool(self._engine([b for b in self._ledger.segments if b.life is Life.LIVE])["reachable"])

    def _engine(self, live: list[Segment]) -> dict[str, Any]:
        """Returns URL, reachability by the last poll of any worker, and round-trip time."""
        heard = [segment for segment in live if segment.readable]
        latest = max(heard, key=lambda segment: segment.clock(Clock.LAST_GOOD_POLL), default=None)
        rtt_s = latest.clock(Clock.POLL_RTT_S) if latest else 0.0
        return {
            "url": self._api_url,
            "reachable": bool(rtt_s) and not _last_poll_failed(heard),
            "rtt_ms": round(rtt_s * 1000, 2) if rtt_s else None,
        }

    def _totals(self) -> dict[str, int]:
        names = {
            "claimed": Cell.CLAIMED,
            "completed": Cell.COMPLETED,
            "failed": Cell.FAILED,
            "lost": Cell.LOST,
        }
        totals = {
            name: sum(self._ledger.count(segment, cell) for segment in self._ledger.segments)
            + self._ledger.ended_total(ProcessTotal[cell.name])
            for name, cell in names.items()
        }
        return totals | {"settled_after_crash": self._ledger.get(Host.SETTLED)}

    def _child(self, segment: Segment, now: float) -> dict[str, Any]:
        process, told = segment.get(Cell.PROCESS), self.supervisor
        is_first = (
            next(iter(self._ledger.process_of(segment)), segment) is segment
        )  # memory and CPU are the process's
        restarts = told.restarts.get(0 if told.threads else process, 0) if told else 0
        return {
            "process": process,
            "pid": segment.get(Cell.PID),
            "incarnation": segment.get(Cell.INCARNATION),
            **_work_of(segment, now),
            "completed": self._counted(segment, Cell.COMPLETED),
            "failed": self._counted(segment, Cell.FAILED),
            **(self._measure(segment.get(Cell.PID), now) if is_first else _NOTHING),
            "uptime_s": round(now - segment.clock(Clock.STARTED_AT), 1),
            "restarts": restarts,
            "activities": running_in(segment, now),
            "waiting": not_begun_in(segment, now, WAITS_S),
            "blocked_at": segment.blocked_at if segment.readable else "",
            "standstill": standstill(segment, now) if segment.readable else None,
        }

    def _counted(self, segment: Segment, cell: Cell) -> int:
        """Returns a counter of this incarnation plus those of earlier, settled ones."""
        ledger, total = self._ledger, ProcessTotal[cell.name]
        return ledger.unmoved(
            lambda: ledger.count(segment, cell) + ledger.process_total(segment.get(Cell.PROCESS), total)
        )

    def _measure(self, pid: int, now: float) -> dict[str, float | None]:
        """Returns measurements at most a second old; None values once the process has ended."""
        meter = self._meters.get(pid)
        if pid and (meter is None or now - meter.read_at >= MEASURED_EVERY_S):
            meter = self._meters[pid] = meter or _Meter(pid)
            meter.read(now)
        return meter.found if meter is not None else _NOTHING


_NOTHING: dict[str, float | None] = {"rss_mb": None, "uss_mb": None, "cpu_percent": None}


class _Meter:
    """Memory in MB, and CPU in percent since the previous reading, of one process."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._process: psutil.Process | None = None
        self.read_at = 0.0
        self.found = _NOTHING

    def read(self, now: float) -> None:
        """Measures the process through /proc, which also works for a blocked one."""
        self.read_at = now
        try:
            process = self._process = self._process or psutil.Process(self._pid)
            memory = process.memory_full_info()
            cpu_percent = process.cpu_percent()
        except psutil.Error:
            self._process, self.found = None, _NOTHING
        else:
            self.found = {
                "rss_mb": round(memory.rss / 1e6, 1),
                "uss_mb": round(memory.uss / 1e6, 1),
                "cpu_percent": cpu_percent,
            }


def _work_of(segment: Segment, now: float) -> dict[str, Any]:
    """Returns an incarnation's counters; zeros and None before it has opened its segment."""
    is_open = segment.readable
    return {
        "phase": "running" if is_open and segment.clock(Clock.READY_AT) else "starting",
        "slots": segment.get(Cell.LIMIT) if is_open else 0,
        "in_flight": segment.get(Cell.RUNNING) if is_open else 0,
        "loop_lag_ms": milliseconds(loop_lag_s(segment, now)) if is_open else 0.0,
        "loops_blocked": segment.get(Cell.BLOCKS) if is_open else 0,
    }


def _mark_finishing(children: list[dict[str, Any]], wanted: float) -> None:
    """Marks processes that have a ready successor, or whose index is no longer wanted."""
    newest = {row["process"]: row["incarnation"] for row in children if row["phase"] == "running"}
    for row in children:
        is_newest = row["incarnation"] == newest.get(row["process"])
        if row["phase"] == "running" and not (is_newest and row["process"] < wanted):
            row["phase"] = "finishing"


def _last_poll_failed(segments: list[Segment]) -> bool:
    """True if the newest poll of all these segments failed; segments without a poll do not count."""
    good_at = max((segment.clock(Clock.LAST_GOOD_POLL) for segment in segments), default=0.0)
    bad_at = max((segment.clock(Clock.LAST_BAD_POLL) for segment in segments), default=0.0)
    return bad_at > good_at


def _gets_work(segment: Segment, now: float) -> bool:
    good_at = segment.clock(Clock.LAST_GOOD_POLL) if segment.readable else 0.0
    return good_at > 0 and (not _last_poll_failed([segment]) or now - good_at < GOOD_POLL_WITHIN_S)
