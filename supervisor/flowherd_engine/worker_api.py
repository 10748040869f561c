"""The routes for workers: poll, heartbeat, complete, fail (protocol.md §4-§7), token streaming (§10)."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from . import request_bodies
from .engine import Engine
from .queue import Failure, Report, Verdict
from .replies import (
    ACKNOWLEDGED,
    BEATING,
    EMPTY,
    WILL_FAIL,
    WILL_RETRY,
    ApiError,
    conflict,
    json_bytes,
    not_found,
    refuse,
)

_POLL = msgspec.json.Decoder(request_bodies.Poll)
_HEARTBEAT = msgspec.json.Decoder(request_bodies.Heartbeat)
_COMPLETE = msgspec.json.Decoder(request_bodies.Complete)
_FAIL = msgspec.json.Decoder(request_bodies.Fail)
_IDLE = json_bytes(b'{"activities":[],"count":0}')
_NO_WORKER_ID = "Worker ID cannot be empty"


class _StreamToken(msgspec.Struct):
    text: str
    index: request_bodies.U32


class _StreamResult(msgspec.Struct):
    result: Any


class _StreamError(msgspec.Struct):
    error: str


_TOKEN = msgspec.json.Decoder(_StreamToken)
_RESULT = msgspec.json.Decoder(_StreamResult)
_ERROR = msgspec.json.Decoder(_StreamError)


class WorkerApi:
    """The routes for workers: one decode, one transaction, one prebuilt reply."""

    def __init__(self, engine: Engine) -> None:
        self._queue = engine.queue
        self._database = engine.database

    async def poll(self, request: Request) -> Response:
        """Claims at most `max_activities`; replies at once (protocol.md §4)."""
        wanted, _ = await request_bodies.read_json(request, _POLL)
        refuse(
            {
                "worker": not wanted.worker and "Worker type cannot be empty",
                "worker_id": not wanted.worker_id and _NO_WORKER_ID,
                "max_activities": (wanted.max_activities == 0 and "max_activities must be at least 1")
                or (wanted.max_activities > 100 and "max_activities must be at most 100"),
            }
        )
        claims = await self._database.transact(
            self._queue.claim, wanted.worker, wanted.worker_id, wanted.max_activities
        )
        if not claims:
            return _IDLE
        items = ",".join([claim.document for claim in claims])
        return json_bytes(f'{{"activities":[{items}],"count":{len(claims)}}}'.encode())

    async def heartbeat(self, request: Request) -> Response:
        """Extends a lease (protocol.md §5)."""
        activity_id = request_bodies.path_uuid(request, "activity_id")
        beat, _ = await request_bodies.read_json(request, _HEARTBEAT)
        refuse({"worker_id": not beat.worker_id and _NO_WORKER_ID})
        verdict = await self._database.transact(self._queue.heartbeat, activity_id, beat.worker_id)
        return _answer(activity_id, verdict, {Verdict.ACCEPTED: BEATING})

    async def complete(self, request: Request) -> Response:
        """Records a success (protocol.md §6)."""
        activity_id = request_bodies.path_uuid(request, "activity_id")
        report, body = await request_bodies.read_json(request, _COMPLETE)
        faults: dict[str, str | bool] = {
            "worker_id": not report.worker_id and _NO_WORKER_ID,
            "output": not isinstance(report.output, dict) and "Output must be a JSON object",
        }
        cost, usage = request_bodies.cost_of(report.cost_usd, report.usage, faults)
        refuse(faults)
        request_bodies.refuse_nul(body, "output")
        outputs = msgspec.json.encode(request_bodies.as_stored(report.output, body)).decode()
        verdict = await self._database.transact(
            self._queue.complete, activity_id, report.worker_id, outputs, Report(cost, usage)
        )
        return _answer(activity_id, verdict, {Verdict.ACCEPTED: ACKNOWLEDGED})

    async def fail(self, request: Request) -> Response:
        """Records a failure (protocol.md §7)."""
        activity_id = request_bodies.path_uuid(request, "activity_id")
        report, body = await request_bodies.read_json(request, _FAIL)
        faults: dict[str, str | bool] = {
            "worker_id": not report.worker_id and _NO_WORKER_ID,
            "error.code": not report.error.code and "Error code cannot be empty",
            "error.message": not report.error.message and "Error message cannot be empty",
        }
        cost, usage = request_bodies.cost_of(report.cost_usd, report.usage, faults)
        refuse(faults)
        request_bodies.refuse_nul(body, "error")
        failure = Failure(report.error.code, report.error.message, report.error.retryable)
        verdict = await self._database.transact(
            self._queue.fail, activity_id, report.worker_id, failure, Report(cost, usage)
        )
        return _answer(activity_id, verdict, {Verdict.WILL_RETRY: WILL_RETRY, Verdict.ACCEPTED: WILL_FAIL})

    @staticmethod
    async def stream_token(request: Request) -> Response:
        """Accepts a streamed token and drops it; this engine has no subscribers (protocol.md §10)."""
        request_bodies.path_uuid(request, "activity_id")
        await request_bodies.read_json(request, _TOKEN)
        return json_bytes(b'{"subscribers":0}')

    @staticmethod
    async def stream_complete(request: Request) -> Response:
        """Ends a stream; replies with an empty 200."""
        request_bodies.path_uuid(request, "activity_id")
        await request_bodies.read_json(request, _RESULT)
        return EMPTY

    @staticmethod
    async def stream_error(request: Request) -> Response:
        """Ends a stream with an error; replies with an empty 200."""
        request_bodies.path_uuid(request, "activity_id")
        await request_bodies.read_json(request, _ERROR)
        return EMPTY

    @staticmethod
    async def stream_subscribers(request: Request) -> Response:
        """Replies with the number of subscribers, always 0."""
        request_bodies.path_uuid(request, "activity_id")
        return json_bytes(b'{"count":0}')


def _answer(activity_id: str, verdict: Verdict, accepted: Mapping[Verdict, Response]) -> Response:
    reply = accepted.get(verdict)
    if reply is None:
        raise _refusal(activity_id, verdict)
    return reply


def _refusal(activity_id: str, verdict: Verdict) -> ApiError:
    match verdict:
        case Verdict.UNKNOWN:
            return not_found(f"Activity '{activity_id}' not found")
        case Verdict.SETTLED:
            return conflict("Activity already completed")
        case _:
            return conflict("Activity claimed by different worker")
