"""A host's reply to `flowherd explain`, as the command reads it."""

from __future__ import annotations

from typing import Any

from flowherd_supervisor.cli.explain_next import Explained, Present


def host(**more: Any) -> Explained:
    known: dict[str, Any] = {
        "pid": 7, "app": "app:r", "engine": "http://e", "worker": "py-std", "polled_s_ago": 0.4, "free_slots": 3,
        "activities": {}, "workflow_id": "w-1", "events": [], "present": [],
    }  # fmt: skip
    return Explained(**known | more)


def present(state: str, **more: Any) -> Present:
    known: dict[str, Any] = {
        "activity_id": "a", "key": "add", "name": "sum", "process": 2, "state": state, "for_s": 12.0,
        "limit_s": None, "waits_for": None, "lease_s": 60.0,
    }  # fmt: skip
    return Present(**known | more)
