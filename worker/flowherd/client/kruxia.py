"""The engine's calls over Kruxia Flow's REST API; only the `kruxia*` modules know its URLs and JSON."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd.client.bearer_tokens import BearerAuth
from flowherd.client.engine_protocol import Answer, Batch, Verdict
from flowherd.client.kruxia_poll_replies import decode_batch
from flowherd.client.kruxia_replies import TAKEN, answer_to, foreign, taken_failure
from flowherd.client.reply_classifier import ACKNOWLEDGED, UNREADABLE, is_receipt
from flowherd.counted import counted
from flowherd.errors import (
    EngineMisconfigured,
    EngineUnauthorized,
    EngineUnavailable,
    ForeignReply,
    ReplyTooLarge,
)
from flowherd.transport.direct_transport import DirectTransport
from flowherd.transport.transport import MAX_REPLY_BYTES, HttpxTransport, Reply, Transport, new_client

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine

    from flowherd.activities_and_outcomes import Completed, Failed, Usage
    from flowherd.client.bearer_tokens import TokenSource
    from flowherd.settings.worker_config import WorkerConfig

API = "/api/v1"
MAX_BODY_BYTES = 52_428_800  # protocol.md fact 16
_CREDENTIALS_MISSING = "set KRUXIAFLOW_CLIENT_ID and KRUXIAFLOW_CLIENT_SECRET"
_json = msgspec.json.Encoder(order="deterministic")
_EMPTY = Batch()
_SHORT = 200  # an empty poll reply of at most this many bytes is remembered


def connect(
    config: WorkerConfig,
    tokens: TokenSource | None,
    *,
    connections: int,
    undecoded: Collection[str] = frozenset(),
) -> KruxiaEngine:
    """Returns an engine client for `config.api_url`; without `tokens` it sends no Authorization header (§2.2)."""
    return KruxiaEngine(
        new_transport(config, tokens, connections=connections),
        api_url=config.api_url,
        max_reply_mb=config.max_reply_mb,
        anonymous=tokens is None,
        undecoded=undecoded,
    )


def new_transport(config: WorkerConfig, tokens: TokenSource | None, *, connections: int) -> Transport:
    """Returns the transport that `config.transport` names; without `tokens` it sends no token (§2.2).

    A proxy or a custom client needs httpx: pass the client to `HttpxTransport`.
    """
    if config.transport == "direct":
        return DirectTransport(config.api_url, tokens, connections=connections)
    auth = BearerAuth(tokens, config.api_url) if tokens is not None else None
    client = new_client(config.api_url, auth, connections=connections + 1, is_bounded=True)
    return HttpxTransport(client, connections=connections)


class KruxiaEngine:
    """`flowherd.client.engine_protocol.Engine` for Kruxia Flow.

    Args:
        api_url: the engine's URL, for errors.
        max_reply_mb: the largest reply to a poll, in MB.
        anonymous: True without credentials; then a 401 names the missing settings.
        undecoded: names of activities whose parameters stay encoded, because they are only passed on.

    """

    def __init__(
        self,
        transport: Transport,
        *,
        api_url: str = "",
        max_reply_mb: int = 256,
        anonymous: bool = False,
        undecoded: Collection[str] = frozenset(),
    ) -> None:
        self._transport = transport
        self._api_url = api_url
        self._anonymous = anonymous
        self._undecoded = undecoded
        self._max_reply_mb = max_reply_mb
        self._nothing: bytes | None = None

    async def poll(self, worker_type: str, worker_id: str, limit: int, deadline_s: float) -> Batch:
        """See `Engine.poll`; one malformed item never costs the batch (R4)."""
        body = _json.encode({"worker": worker_type, "worker_id": worker_id, "max_activities": limit})
        try:
            answer, reply = await self._call(
                "workers/poll", body, deadline_s, max_reply_bytes=self._max_reply_mb << 20, is_first=True
            )
        except ReplyTooLarge:
            reason = (
                f"{counted(limit, 'activity')} of type {worker_type!r}: more than {self._max_reply_mb} MB: "
                "see --max-reply-mb"
            )
            raise ReplyTooLarge(reason, in_doubt=True) from None
        except ForeignReply as error:
            error.is_of_the_call = False  # it speaks of all calls
            raise
        if answer.verdict is not Verdict.ACCEPTED:
            raise EngineMisconfigured(f"{self._api_url} refuses to be polled: {answer.detail}")
        if reply.body == self._nothing:
            return _EMPTY
        batch = decode_batch(reply.body, worker_id, self._undecoded)
        if len(reply.body) <= _SHORT and not batch.activities and not batch.undecodable:
            self._nothing = reply.body  # an idle host gets the same empty reply again and again
        return batch

    def read_reply(self, reply: bytes, worker_id: str) -> Batch:
        """See `Engine.read_reply`."""
        return decode_batch(reply, worker_id, self._undecoded)

    async def heartbeat(self, activity_id: str, worker_id: str, deadline_s: float) -> Answer:
        """See `Engine.heartbeat`."""
        body = _json.encode({"worker_id": worker_id})
        return await self._tell(activity_id, "heartbeat", body, deadline_s)

    def complete(self, activity_id: str, body: bytes, deadline_s: float) -> Coroutine[Any, Any, Answer]:
        """See `Engine.complete`."""
        return self._tell(activity_id, "complete", body, deadline_s)

    def fail(self, activity_id: str, body: bytes, deadline_s: float) -> Coroutine[Any, Any, Answer]:
        """See `Engine.fail`."""
        return self._tell(activity_id, "fail", body, deadline_s)

    async def stream_text(self, activity_id: str, text: str, index: int, deadline_s: float) -> int:
        """See `Engine.stream_text`; 0 may also mean that the subscribers are on another instance (§10)."""
        body = _json.encode({"text": text, "index": index})
        reply = await self._stream(activity_id, "token", body, deadline_s)
        try:
            return int(msgspec.json.decode(reply.body)["subscribers"])
        except UNREADABLE:
            raise foreign(reply, self._place("ws/token")) from None

    async def stream_end(self, activity_id: str, error: str | None, deadline_s: float) -> None:
        """See `Engine.stream_end`; the engine's reply has no body."""
        verb, body = ("complete", {"result": None}) if error is None else ("error", {"error": error})
        await self._stream(activity_id, verb, _json.encode(body), deadline_s)

    async def _stream(self, activity_id: str, verb: str, body: bytes, deadline_s: float) -> Reply:
        answer, reply = await self._call(f"activities/{activity_id}/ws/{verb}", body, deadline_s)
        if answer.verdict is not Verdict.ACCEPTED:
            raise EngineUnavailable(f"the engine refuses to stream: {answer.detail}")
        return reply

    async def _tell(self, activity_id: str, verb: str, body: bytes, deadline_s: float) -> Answer:
        route = f"{API}/activities/{activity_id}/{verb}"
        reply = await self._transport.call(route, body, deadline_s)
        if is_receipt(reply):
            return taken_failure(reply) if verb == "fail" else TAKEN
        answer = self._answer(route, reply, ACKNOWLEDGED)
        if verb == "fail" and answer.verdict is Verdict.ACCEPTED:
            return taken_failure(reply)
        return answer

    async def _call(
        self,
        path: str,
        body: bytes,
        deadline_s: float,
        *,
        max_reply_bytes: int = MAX_REPLY_BYTES,
        is_first: bool = False,
    ) -> tuple[Answer, Reply]:
        route = f"{API}/{path}"
        reply = await self._transport.call(
            route, body, deadline_s, max_reply_bytes=max_reply_bytes, is_first=is_first
        )
        return self._answer(route, reply, None), reply

    def _answer(self, route: str, reply: Reply, receipt: str | None) -> Answer:
        try:
            return answer_to(reply, self._place(route), receipt)
        except EngineUnauthorized as error:
            if self._anonymous:
                error.args = (f"{error}: {_CREDENTIALS_MISSING}",)
            raise

    def _place(self, route: str) -> str:
        return f"POST {self._api_url}{route}"

    def encode_completion(self, worker_id: str, outcome: Completed) -> bytes:
        """See `Engine.encode_completion`; the output is inserted as the bytes that were checked."""
        head = b'{"worker_id":%b,"output":%b' % (encoded(worker_id), outcome.output)
        if outcome.cost_usd is None and not outcome.usage:
            return head + b"}"
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


@lru_cache(maxsize=8)
def encoded(worker_id: str) -> bytes:
    """Returns the worker_id as JSON, cached because all activities of one poll share it."""
    return _json.encode(worker_id)


def _spent(outcome: Completed | Failed) -> bytes:
    """Returns the JSON members for cost and usage, each with a leading comma; empty when there are none."""
    cost = b',"cost_usd":%b' % _json.encode(outcome.cost_usd) if outcome.cost_usd is not None else b""
    return cost + (
        b',"usage":%b' % _json.encode([_usage(entry) for entry in outcome.usage]) if outcome.usage else b""
    )


def _usage(entry: Usage) -> dict[str, Any]:
    return {name: value for name, value in asdict(entry).items() if value is not None}
