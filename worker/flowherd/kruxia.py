"""The engine's verbs over Kruxia Flow's REST; the only file that knows its URLs and JSON (protocol.md §4-§7)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import msgspec

from flowherd.activity import Activity, Completed, Failed, Usage
from flowherd.auth import BearerAuth, TokenSource
from flowherd.config import WorkerConfig
from flowherd.engine import Answer, Batch, Undecodable, Verdict
from flowherd.errors import EngineMisconfigured, EngineUnauthorized, EngineUnavailable
from flowherd.transport import HttpxTransport, Reply, Transport, new_client

API = "/api/v1"
MAX_BODY_BYTES = 52_428_800  # protocol.md fact 16
_SHORTEST_LEASE_S, _LONGEST_LEASE_S = 1.0, 7 * 86_400.0
_PLAIN_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_json = msgspec.json.Encoder(order="deterministic")


def connect(config: WorkerConfig, tokens: TokenSource | None, *, connections: int) -> KruxiaEngine:
    """An engine client for `config.api_url`; without `tokens` it sends no Authorization header (protocol.md §2.2)."""
    auth = BearerAuth(tokens, config.api_url) if tokens is not None else None
    client = new_client(config.api_url, auth, connections=connections)
    return KruxiaEngine(HttpxTransport(client, max_reply_bytes=config.max_reply_mb << 20))


class KruxiaEngine:
    """`flowherd.engine.Engine` for Kruxia Flow."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def poll(self, worker_type: str, worker_id: str, limit: int, deadline_s: float) -> Batch:
        """See `Engine.poll`. Items are decoded one by one: a bad one never costs the batch (R4)."""
        body = _json.encode({"worker": worker_type, "worker_id": worker_id, "max_activities": limit})
        reply = await self._transport.call(f"{API}/workers/poll", body, deadline_s)
        answer = _answer(reply)
        if answer.verdict is not Verdict.ACCEPTED:
            raise EngineMisconfigured(f"the engine refuses to be polled: {answer.detail}")
        return decode_batch(reply.body, worker_id)

    async def heartbeat(self, activity_id: str, worker_id: str, deadline_s: float) -> Answer:
        """See `Engine.heartbeat`."""
        body = _json.encode({"worker_id": worker_id})
        return await self._tell(activity_id, "heartbeat", body, deadline_s)

    async def complete(self, activity_id: str, body: bytes, deadline_s: float) -> Answer:
        """See `Engine.complete`."""
        return await self._tell(activity_id, "complete", body, deadline_s)

    async def fail(self, activity_id: str, body: bytes, deadline_s: float) -> Answer:
        """See `Engine.fail`."""
        return await self._tell(activity_id, "fail", body, deadline_s)

    async def _tell(self, activity_id: str, verb: str, body: bytes, deadline_s: float) -> Answer:
        return _answer(await self._transport.call(f"{API}/activities/{activity_id}/{verb}", body, deadline_s))

    def encode_completion(self, worker_id: str, outcome: Completed) -> bytes:
        """See `Engine.encode_completion`; the output is spliced in as it was checked."""
        head = b'{"worker_id":%b,"output":%b' % (_json.encode(worker_id), outcome.output)
        return head + _spent(outcome) + b"}"

    def encode_failure(self, worker_id: str, outcome: Failed) -> bytes:
        """See `Engine.encode_failure`."""
        error = {"code": outcome.code, "message": outcome.message, "retryable": outcome.retryable}
        return (
            b'{"worker_id":%b,"error":%b' % (_json.encode(worker_id), _json.encode(error))
            + _spent(outcome)
            + b"}"
        )

    async def aclose(self) -> None:
        """See `Engine.aclose`."""
        await self._transport.aclose()


def _spent(outcome: Completed | Failed) -> bytes:
    """The cost and usage members, with their leading comma, or nothing."""
    cost = b',"cost_usd":%b' % _json.encode(outcome.cost_usd) if outcome.cost_usd is not None else b""
    return cost + (
        b',"usage":%b' % _json.encode([_usage(entry) for entry in outcome.usage]) if outcome.usage else b""
    )


def _usage(entry: Usage) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if value is not None}


def _answer(reply: Reply) -> Answer:
    """Sorts a reply into the classes of protocol.md §1.5; what is no verdict is raised."""
    match reply.status:
        case 200 | 201:
            return Answer(Verdict.ACCEPTED, _warnings(reply.body))
        case 409:
            return Answer(Verdict.GONE, _words(reply))
        case 404 if _envelope(reply) is not None:
            return Answer(Verdict.UNKNOWN, _words(reply))
        case 400 | 413 | 415 | 422:
            return Answer(Verdict.REFUSED, _words(reply))
        case 401:
            raise EngineUnauthorized(_words(reply))
        case status if status in _PASSING or status >= 500:
            raise EngineUnavailable(_words(reply), retry_after_s=_retry_after_s(reply))
        case _:
            raise EngineMisconfigured(_words(reply))


def _envelope(reply: Reply) -> Mapping[str, Any] | None:
    """The engine's JSON error, None for text/plain, HTML and everything else (protocol.md §1.4)."""
    try:
        error = msgspec.json.decode(reply.body)["error"]
    except (msgspec.DecodeError, RecursionError, KeyError, TypeError, ValueError):
        return None
    return error if isinstance(error, dict) else None


def _words(reply: Reply) -> str:
    """What the engine said, on one line, at most 200 characters and without control characters (faults.md E15)."""
    error = _envelope(reply)
    text = str(error.get("message", "")) if error else reply.body[:200].decode(errors="replace")
    if error and isinstance(details := error.get("details"), dict):
        text += f" {details}"
    target = reply.headers.get("location", "") if 300 <= reply.status < 400 else ""
    line = " ".join(f"{text} {target}".split())
    return f"status {reply.status}: " + "".join(c if c.isprintable() else "?" for c in line[:200])


def _warnings(body: bytes) -> str:
    """The engine's warnings about a completion; the usual short reply is not even decoded (protocol.md §6.2)."""
    if b'"warnings"' not in body:
        return ""
    try:
        return "; ".join(str(warning) for warning in msgspec.json.decode(body)["warnings"])[:500]
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""


def _retry_after_s(reply: Reply) -> float:
    """Retry-After in seconds; dates and junk are ignored, the caller caps it (faults.md E7)."""
    try:
        wish = float(reply.headers.get("retry-after", "0"))
    except ValueError:
        return 0.0
    return wish if math.isfinite(wish) and wish > 0 else 0.0


def decode_batch(body: bytes, worker_id: str) -> Batch:
    """A poll reply; `count` is ignored, the list counts (faults.md E20).

    Raises:
        EngineUnavailable: not a poll reply; whatever it claimed stays claimed until its lease ends (fact 2).
    """
    try:
        items = msgspec.json.decode(body)["activities"]
    except (msgspec.DecodeError, RecursionError, KeyError, TypeError, ValueError) as error:
        raise EngineUnavailable(
            f"an unreadable poll reply of {len(body)} bytes ({type(error).__name__})"
        ) from None
    if not isinstance(items, list):
        raise EngineUnavailable("a poll reply whose activities are not a list")
    decoded = [_decode_item(item, worker_id) for item in items]
    return Batch(
        activities=[item for item in decoded if isinstance(item, Activity)],
        undecodable=[item for item in decoded if isinstance(item, Undecodable)],
    )


def _decode_item(item: Any, worker_id: str) -> Activity | Undecodable | None:
    """One activity; None when not even its id is readable, so that nothing can be said to the engine about it."""
    if not isinstance(item, dict):
        return None
    activity_id = item.get("activity_id")
    if not isinstance(activity_id, str) or not _PLAIN_ID.match(activity_id):
        return None
    texts = [item.get(name) for name in ("workflow_id", "activity_key", "worker")]
    if not all(isinstance(text, str) for text in texts):
        return Undecodable(
            activity_id, worker_id, "workflow_id, activity_key or worker is missing or not a string"
        )
    name = item.get("activity_name") or ""
    if not isinstance(name, str):
        return Undecodable(activity_id, worker_id, "activity_name is not a string")
    settings = item.get("settings")
    outputs = item.get("output_definitions")
    return Activity(
        activity_id=activity_id,
        workflow_id=texts[0],  # type: ignore[arg-type]  # all three are strings: checked above
        key=texts[1],  # type: ignore[arg-type]
        name=name,
        worker_type=texts[2],  # type: ignore[arg-type]
        worker_id=worker_id,
        parameters=item.get("parameters"),
        timeout_s=_timeout_s(item.get("timeout_seconds")),
        settings=settings if isinstance(settings, dict) else {},
        output_definitions=tuple(o for o in outputs if isinstance(o, dict))
        if isinstance(outputs, list)
        else (),
        signal_data=item.get("signal_data"),
    )


def _timeout_s(value: Any) -> float | None:
    """`timeout_seconds` as a lease; None when there is none, clamped to 1 s … 7 days (faults.md E23)."""
    if value is None or isinstance(value, bool):
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(seconds) else min(max(seconds, _SHORTEST_LEASE_S), _LONGEST_LEASE_S)
