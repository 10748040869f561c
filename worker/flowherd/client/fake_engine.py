"""An in-memory engine for tests."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from flowherd.activities_and_outcomes import Activity, Completed, Failed, Usage
from flowherd.client.engine_protocol import Answer, Batch, Undecodable, Verdict


@dataclass(frozen=True, slots=True)
class Call:
    """A call that a worker made; `body` is the decoded request body."""

    verb: str
    activity_id: str
    worker_id: str
    deadline_s: float
    body: Any = None
    limit: int = 0


Step = Answer | Verdict | Batch | int | Exception | Callable[[], Awaitable[Any]]


@dataclass
class FakeEngine:
    """An in-memory engine: hands out the offered activities, answers from scripts and records every call.

    Without a script every call is accepted. A script is a list of steps for one method (`poll`, `heartbeat`,
    `complete`, `fail`, `stream_text`, `stream_end`): an Answer, a Verdict, a Batch, a number of subscribers, an
    exception to raise, or an async function whose result, if any, is the step.

    Attributes:
        calls: all calls so far, in order.

    """

    calls: list[Call] = field(default_factory=list)
    _queue: deque[Activity | Undecodable] = field(default_factory=deque)
    _scripts: defaultdict[str, deque[Step]] = field(default_factory=lambda: defaultdict(deque))
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False

    def offer(self, *items: Activity | Undecodable) -> None:
        """Queues activities; each is handed out once, with the worker_id of the poll."""
        self._queue.extend(items)
        self._changed.set()

    def script(self, verb: str, *steps: Step) -> None:
        """Sets the results of the next calls of this method, in order."""
        self._scripts[verb].extend(steps)

    def of(self, verb: str) -> list[Call]:
        """Returns the calls of one method, in order."""
        return [call for call in self.calls if call.verb == verb]

    async def until(self, condition: Callable[[FakeEngine], bool]) -> None:
        """Returns when the condition holds; checks it again after each call and offer."""
        while not condition(self):
            self._changed.clear()
            await self._changed.wait()

    async def settled(self, *activity_ids: str) -> None:
        """Returns when each of these activities has been completed or failed."""

        def all_settled(engine: FakeEngine) -> bool:
            done = {call.activity_id for call in engine.calls if call.verb in {"complete", "fail"}}
            return done >= set(activity_ids)

        await self.until(all_settled)

    async def poll(self, worker_type: str, worker_id: str, limit: int, deadline_s: float) -> Batch:
        """Hands out up to `limit` activities queued for this worker type."""
        self._note(Call("poll", "", worker_id, deadline_s, body={"worker": worker_type}, limit=limit))
        step = await self._step("poll")
        if isinstance(step, Batch):
            return step
        activities: list[Activity] = []
        undecodable: list[Undecodable] = []
        kept: deque[Activity | Undecodable] = deque()
        while self._queue:
            item = self._queue.popleft()
            if len(activities) + len(undecodable) >= limit or _is_of_other_type(item, worker_type):
                kept.append(item)
            elif isinstance(item, Activity):
                activities.append(msgspec.structs.replace(item, worker_id=worker_id))
            else:
                undecodable.append(replace(item, worker_id=worker_id))
        self._queue = kept
        return Batch(activities, undecodable)

    def read_reply(self, reply: bytes, worker_id: str) -> Batch:
        """Nothing: its polls bring no bytes."""
        del reply, worker_id
        return Batch()

    async def heartbeat(self, activity_id: str, worker_id: str, deadline_s: float) -> Answer:
        """Answers as scripted, else ACCEPTED."""
        return await self._answer(Call("heartbeat", activity_id, worker_id, deadline_s))

    async def complete(self, activity_id: str, body: bytes, deadline_s: float) -> Answer:
        """Answers as scripted, else ACCEPTED."""
        sent = json.loads(body)
        return await self._answer(Call("complete", activity_id, sent["worker_id"], deadline_s, sent))

    async def fail(self, activity_id: str, body: bytes, deadline_s: float) -> Answer:
        """Answers as scripted, else ACCEPTED."""
        sent = json.loads(body)
        return await self._answer(Call("fail", activity_id, sent["worker_id"], deadline_s, sent))

    async def stream_text(self, activity_id: str, text: str, index: int, deadline_s: float) -> int:
        """Returns 0 subscribers, unless a step of the script is a number."""
        self._note(Call("stream_text", activity_id, "", deadline_s, body={"text": text, "index": index}))
        step = await self._step("stream_text")
        return step if isinstance(step, int) else 0

    async def stream_end(self, activity_id: str, error: str | None, deadline_s: float) -> None:
        """Records the call."""
        self._note(Call("stream_end", activity_id, "", deadline_s, body={"error": error}))
        await self._step("stream_end")

    def encode_completion(self, worker_id: str, outcome: Completed) -> bytes:
        """Returns a JSON object with `worker_id`, `output`, `cost_usd` and `usage`."""
        return _encode(worker_id, outcome, output=json.loads(outcome.output))

    def encode_failure(self, worker_id: str, outcome: Failed) -> bytes:
        """Returns a JSON object with `worker_id`, `error`, `cost_usd` and `usage`."""
        error = {"code": outcome.code, "message": outcome.message, "retryable": outcome.retryable}
        return _encode(worker_id, outcome, error=error)

    async def aclose(self) -> None:
        """Sets `closed`."""
        self.closed = True

    async def _answer(self, call: Call) -> Answer:
        self._note(call)
        match await self._step(call.verb):
            case Answer() as answer:
                return answer
            case Verdict() as verdict:
                return Answer(verdict)
            case _:
                return Answer(Verdict.ACCEPTED)

    async def _step(self, verb: str) -> Any:
        script = self._scripts[verb]
        step: Any = script.popleft() if script else None
        if isinstance(step, Exception):
            raise step
        return await step() if callable(step) else step

    def _note(self, call: Call) -> None:
        self.calls.append(call)
        self._changed.set()


def _is_of_other_type(item: Activity | Undecodable, worker_type: str) -> bool:
    return isinstance(item, Activity) and item.worker_type != worker_type


def _encode(worker_id: str, outcome: Completed | Failed, **content: Any) -> bytes:
    usage: list[Mapping[str, Any]] = [
        {name: getattr(entry, name) for name in Usage.__dataclass_fields__} for entry in outcome.usage
    ]
    body = {"worker_id": worker_id, **content, "cost_usd": outcome.cost_usd, "usage": usage}
    return json.dumps(body).encode()
