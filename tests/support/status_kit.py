"""A status document for tests of views."""

from __future__ import annotations

from typing import Any

FLOW = "0193a1b2-5c1e-7d03-a9f2-3f6f4e1d2c11"
CHILD: dict[str, Any] = {
    "process": 0, "pid": 4711, "incarnation": 1, "phase": "running", "slots": 4, "in_flight": 2,
    "completed": 17, "failed": 3, "loop_lag_ms": 0.6, "rss_mb": 24.2, "uss_mb": 4.1, "cpu_percent": 97.0,
    "uptime_s": 12.5, "restarts": 1,
    "activities": [
        {"name": "resize", "activity_id": "a-1", "key": "step", "workflow_id": FLOW, "for_s": 200.0, "limit_s": 300.0},
    ],
    "waiting": [
        {"name": "crop", "activity_id": "a-2", "key": "step", "workflow_id": FLOW, "for_s": 3.0, "waits_for": "a slot"},
    ],
}  # fmt: skip
RESIZE: dict[str, Any] = {
    "activity": "resize", "running": 2, "waiting": 0, "completed": 17, "failed": 3, "lost": 0, "ran": 20,
    "run_ms_p50": 8.0, "run_ms_p95": 2048.0, "cpu_share": 0.97, "runs": "async", "verdict": "process", "change": True,
}  # fmt: skip
FAILURE: dict[str, Any] = {
    "at": 1.5, "activity": "resize", "key": "step", "activity_id": "a-9", "workflow_id": FLOW, "process": 1,
    "code": "EXECUTION_ERROR", "type": "ValueError", "message": "no such size", "retryable": True,
}  # fmt: skip
DOCUMENT: dict[str, Any] = {
    "version": "0.1.0",
    "pid": 4710,
    "app": "shop:registry",
    "host": "worker-3",
    "state": "running",
    "uptime_s": 12.0,
    "engine": {"url": "http://engine:8080", "reachable": True, "rtt_ms": 3.1},
    "concurrency": {"total": 16, "in_use": 7},
    "processes": {"wanted": 4, "ready": 3},
    "restarts": 1,
    "totals": {"claimed": 20, "completed": 17, "failed": 3, "lost": 0, "settled_after_crash": 1},
    "by_activity": [
        RESIZE,
        RESIZE | {"activity": "crop", "running": 0, "waiting": 2, "change": False, "verdict": "unknown"},
    ],
    "lately": {
        "seconds": 900.0,
        "completed": 12.34,
        "failed": 0.05,
        "lost": 0.0,
        "run_ms_p50": 8.0,
        "run_ms_p95": 2048.0,
        "wait_ms_p95": 1.0,
    },
    "failures_so_far": 1,
    "children": [CHILD, CHILD | {"process": 1, "phase": "starting", "uss_mb": None, "cpu_percent": None}],
}
