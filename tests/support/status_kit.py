"""A status document as views get it; it asserts nothing."""

from __future__ import annotations

from typing import Any

CHILD: dict[str, Any] = {
    "process": 0, "pid": 4711, "incarnation": 1, "phase": "running", "slots": 4, "in_flight": 2,
    "completed": 17, "failed": 3, "loop_lag_ms": 0.6, "rss_mb": 24.2, "uss_mb": 4.1, "cpu_percent": 97.0,
    "uptime_s": 12.5, "restarts": 1,
}  # fmt: skip
DOCUMENT: dict[str, Any] = {
    "version": "0.1.0",
    "pid": 4710,
    "state": "running",
    "uptime_s": 12.0,
    "engine": {"url": "http://engine:8080", "reachable": True, "rtt_ms": 3.1},
    "concurrency": {"total": 16, "in_use": 7},
    "processes": {"wanted": 4, "ready": 3},
    "restarts": 1,
    "totals": {"claimed": 20, "completed": 17, "failed": 3, "lost": 0, "settled_after_crash": 1},
    "children": [CHILD, CHILD | {"process": 1, "phase": "starting", "uss_mb": None, "cpu_percent": None}],
}
