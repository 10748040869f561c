"""Writes the supervisor's log: the banner once, then one line for each event."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from flowherd.counted import counted
from flowherd.exit_codes import Exit
from flowherd.wait_status import describe_status
from flowherd_supervisor.core.events import KEEPER, ZYGOTE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd_supervisor.core.actions import Note
    from flowherd_supervisor.processes.process_table import Child

log = structlog.stdlib.get_logger("flowherd")


def say(note: Note) -> None:
    """Logs one note, with its traceback, if any, as `exception`."""
    report = {"exception": note.report.rstrip()} if note.report else {}
    log.log(_LEVELS[note.level.value], note.event, **readable(note.fields), **report)


def reason_of(note: Note) -> str:
    """Returns the reason for giving up in one line if the note reports one, else ""."""
    fields = note.fields
    match note.event:
        case "boot_failed" | "credentials_refused":
            return str(fields["reason"])
        case "boot_timed_out":
            place = f": {fields['at']}" if "at" in fields else ""
            return f"not ready within {fields['after_s']:g} s (--boot-timeout){place}"
        case "crash_loop":
            return f"{counted(fields['short_ends'], 'short end')} within {fields['window_s']:g} s (--max-restarts)"
        case _:
            return ""


def say_end(code: int, reason: str) -> None:
    """Writes the last line of a host's log, with its exit code."""
    reason = _REASONS.get(Exit(code), reason)  # a failed reload before a clean end is no reason for it
    levels = {Exit.CLEAN: logging.INFO, Exit.RELEASED: logging.WARNING}
    log.log(levels.get(Exit(code), logging.ERROR), "ended", code=int(code), reason=reason)


def _write(text: str) -> None:
    """Writes to stderr and ignores a closed pipe (faults.md C27)."""
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


_REASONS = {
    Exit.CLEAN: "all work was reported or requeued in time",
    Exit.RELEASED: "some activities did not end in time: they were requeued or killed",
}
_LEVELS = {"info": 20, "warning": 30, "error": 40}


def readable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces wait statuses by words, `how` a process ended, and the index of keeper and zygote by their names."""
    shown = dict(fields)
    if "status" in shown:
        shown["how"] = describe_status(shown.pop("status"), shown.pop("killed_for", ""))
    if "process" in shown:
        shown["process"] = name_of(shown["process"])
    return shown


def say_last_words(child: Child) -> None:
    """Logs the stacks that a fatal signal has left, if any."""
    if stacks := child.last_words():
        log.error("stacks_of_dead_process", process=name_of(child.index), pid=child.pid, stacks=stacks)


def name_of(index: int) -> int | str:
    """Returns the name of a process in the log."""
    return {KEEPER: "keeper", ZYGOTE: "preload"}.get(index, index)


@dataclass(frozen=True, slots=True)
class Banner:
    """The facts that a supervisor logs once, before it starts; `worker_type` is "" if the app decides it."""

    version: str
    app: str
    worker_type: str
    worker_id: str
    api_url: str
    shares: tuple[int, ...]
    usable_cpus: int
    automatic: bool
    admin: str
    numeric_threads: str = ""
    threads: bool = False

    def say(self, style: str) -> None:
        """Writes a few aligned lines in text mode, one record in JSON mode."""
        versions = {"version": self.version, "python": platform.python_version(), "pid": os.getpid()}
        facts = {
            "app": self.app,
            "engine": self.api_url,
            "worker": f"type {self.worker_type or 'from the app'}, id {self.worker_id}",
            "processes": self._processes(),
            "concurrency": self._concurrency(),
            "threads": self.numeric_threads,
            "status": self.admin,
        }
        facts = {name: fact for name, fact in facts.items() if fact}
        if style == "json":
            log.info("starting", **versions, **facts)
            return
        facts = {"version": "{version}, Python {python}, pid {pid}".format_map(versions), **facts}
        width = max(map(len, facts))
        lines = [f"  {name:<{width}}  {fact}" for name, fact in facts.items()]
        _write("\n".join(["flowherd", *lines, ""]))

    def _processes(self) -> str:
        cpus = f"({counted(self.usable_cpus, 'usable CPU')})"
        if not self.threads:
            return f"{len(self.shares)} {cpus}"
        return f"{len(self.shares)} as threads of one {cpus}: what ends one thread ends all"

    def _concurrency(self) -> str:
        total = sum(self.shares)
        parts = "+".join(map(str, self.shares)) if len(self.shares) <= 8 else f"{len(self.shares)} shares"
        return f"{total} = {parts}" + (" (auto)" if self.automatic else "")
