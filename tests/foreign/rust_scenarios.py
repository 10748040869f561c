"""The scenarios of the Rust worker's protocol tests as rows: events and the calls that must follow.

The names are those of `tests/protocol_test.rs` in the crate kruxiaflow-worker; everything else is ours.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from scripted_engine import GOOD, Play, envelope

from flowherd import ActivityError

CRATE = "0.9.0"  # read when the rows were written; a newer one may have more
CONFLICT = envelope(409, "CONFLICT", "Conflict: Activity claimed by different worker")


@dataclass(frozen=True)
class Row:
    """One scenario of a whole worker.

    Attributes:
        item: what the engine hands out differs in this from a plain activity.
        settings: of the worker.
        replies: what the calls of a verb get first.
        until: number of calls of a verb after which the worker drains.
        drain_s: how long the drain may take; the handlers that wait are let go when it begins, if it is long.
        reports: the bodies that must be reported, and no others: by verb, as far as they are said here.
        least: at least so many calls of a verb.
        difference: where we differ on purpose.
    """

    name: str
    item: dict[str, Any]
    until: tuple[str, int]
    settings: dict[str, Any] = field(default_factory=dict)
    replies: dict[str, Play] = field(default_factory=dict)
    drain_s: float = 5.0
    reports: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    least: dict[str, int] = field(default_factory=dict)
    difference: str = ""


def failure(code: str, *, retryable: bool) -> dict[str, Any]:
    return {"error": {"code": code, "retryable": retryable}}


ROWS = (
    Row(
        "poll_execute_complete_roundtrip",
        {"activity_name": "say", "parameters": {"message": "hello"}},
        until=("complete", 1),
        reports={"complete": ({"output": {"echoed": "hello"}},)},
    ),
    Row(
        "panicking_handler_reports_retryable_failure",
        {"activity_name": "boom", "parameters": {}},
        until=("fail", 1),
        reports={"fail": (failure("EXECUTION_ERROR", retryable=True),)},
        difference="PANIC there; here whatever a handler raises has the code of the stock Python SDK",
    ),
    Row(
        "terminal_error_reports_retryable_false",
        {"activity_name": "reject", "parameters": {}},
        until=("fail", 1),
        reports={"fail": (failure("BAD_INPUT", retryable=False),)},
    ),
    Row(
        "invalid_typed_params_report_invalid_parameters",
        {"activity_name": "say", "parameters": {"unexpected": True}},
        until=("fail", 1),
        reports={"fail": (failure("INVALID_PARAMETERS", retryable=False),)},
    ),
    Row(
        "timeout_reports_retryable_timeout_failure",
        {"activity_name": "wait", "parameters": {}, "timeout_seconds": 1},
        until=("fail", 1),
        reports={"fail": (failure("TIMEOUT", retryable=True),)},
    ),
    Row(
        "conflict_on_complete_is_swallowed",
        {"activity_name": "say", "parameters": {"message": "x"}},
        until=("poll", 3),
        replies={"complete": CONFLICT},
        reports={"complete": ({"output": {"echoed": "x"}},)},
    ),
    Row(
        "shutdown_drains_in_flight_activity",
        {"activity_name": "wait", "parameters": {}},
        until=("poll", 2),
        reports={"complete": ({"output": {"waited": True}},)},
    ),
    Row(
        "drain_deadline_fails_stuck_activity_as_retryable",
        {"activity_name": "wait", "parameters": {}},
        until=("poll", 2),
        drain_s=0.2,
        reports={"fail": (failure("WORKER_SHUTDOWN", retryable=True),)},
    ),
    Row(
        "heartbeat_conflict_cancels_execution_without_reporting",
        {"activity_name": "stay", "parameters": {}, "timeout_seconds": 300},
        until=("heartbeat", 1),
        settings={"heartbeat_interval_s": 0.05},
        replies={"heartbeat": CONFLICT},
    ),
    Row(
        "heartbeats_sent_for_long_activities",
        {"activity_name": "wait", "parameters": {}, "timeout_seconds": 300},
        until=("heartbeat", 2),
        settings={"heartbeat_interval_s": 0.05},
        reports={"complete": ({"output": {"waited": True}},)},
        least={"heartbeat": 2},
    ),
)


def handlers_that_wait_for(go: asyncio.Event) -> list[Any]:
    """`say` returns, `boom` and `reject` raise, `wait` ends when it is released, `stay` never by itself."""

    async def say(message: str) -> dict[str, str]:
        return {"echoed": message}

    async def boom() -> None:
        raise RuntimeError("as intended")

    async def reject() -> None:
        raise ActivityError("no", code="BAD_INPUT", retryable=False)

    async def wait() -> dict[str, bool]:
        await go.wait()
        return {"waited": True}

    async def stay() -> None:
        await asyncio.Event().wait()

    return [say, boom, reject, wait, stay]


# Rows of the client alone: what is called, what the engine answers first, what follows.

USAGE = {"provider": "anthropic", "model": "claude", "input_tokens": 1000, "output_tokens": 50}


@dataclass(frozen=True)
class ClientRow:
    """One scenario of the client.

    Attributes:
        verb: the call to make.
        has_credentials: True if the client has an id and a secret.
        replies: what the call gets, in order; then the usual.
        tokens: number of requests to the token endpoint.
        bearers: the Authorization of each call.
        body: what must be in the body of the last call; None: must not be in it.
        result: how it ends: the verdict, or the name of the error.
    """

    name: str
    verb: str
    has_credentials: bool
    result: str
    replies: tuple[Play, ...] = ()
    tokens: int = 0
    bearers: tuple[str | None, ...] = (None,)
    body: dict[str, Any] = field(default_factory=dict)


CLIENT_ROWS = (
    ClientRow(
        "client_sends_bearer_token_from_credentials",
        "poll",
        has_credentials=True,
        result="Batch",
        tokens=1,
        bearers=("Bearer token-1",),
    ),
    ClientRow(
        "client_refreshes_token_on_401_and_retries_once",
        "poll",
        has_credentials=True,
        result="Batch",
        replies=(Play(401, b""),),
        tokens=2,
        bearers=("Bearer token-1", "Bearer token-2"),
    ),
    ClientRow(
        "client_without_credentials_sends_no_auth_header", "poll", has_credentials=False, result="Batch"
    ),
    ClientRow(
        "client_without_credentials_maps_401_to_auth_required",
        "poll",
        has_credentials=False,
        result="EngineUnauthorized",
        replies=(Play(401, b""),),
    ),
    ClientRow(
        "complete_sends_usage_entries_and_returns_warnings",
        "complete_paid",
        has_credentials=False,
        result="ACCEPTED",
        replies=(Play(200, {**GOOD["complete"], "warnings": ["unknown model recorded at cost 0"]}),),
        body={"output": {"n": 1}, "cost_usd": "0.002", "usage": [USAGE]},
    ),
    ClientRow(
        "complete_omits_usage_when_empty",
        "complete",
        has_credentials=False,
        result="ACCEPTED",
        body={"output": {"n": 1}, "cost_usd": None, "usage": None},
    ),
    ClientRow(
        "fail_sends_error_with_usage_and_cost",
        "fail_paid",
        has_credentials=False,
        result="ACCEPTED",
        body={**failure("RATE_LIMITED", retryable=True), "cost_usd": "0.002", "usage": [USAGE]},
    ),
    ClientRow(
        "conflict_is_a_distinct_error",
        "heartbeat",
        has_credentials=False,
        result="GONE",
        replies=(CONFLICT,),
    ),
)
