"""One attempt that runs in an isolate, as its worker sees it: what goes there, and what its reports mean here.

The isolate runs the handler; all it has to say about files, money and progress is done here, as if the handler were.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from concurrent.futures import CancelledError
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd.errors import FileError
from flowherd.execution.invoke import failed
from flowherd.isolates.frames import FrameError
from flowherd.isolates.isolate_protocol import (
    Abandoned,
    Answered,
    Begin,
    CostRecorded,
    Download,
    Dropped,
    Measured,
    Progressed,
    Raised,
    Refused,
    Save,
    Saying,
    StreamClosed,
    TextStreamed,
    Unsuccessful,
    Upload,
    UsageRecorded,
)
from flowherd.model import Completed, Failed, Outcome
from flowherd.sdk.context import BaseContext
from flowherd.sdk.file_context import files_of
from flowherd.sdk.redaction import mask

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from flowherd.execution.environment import Outlet as TextOutlet
    from flowherd.execution.executor import Outlet
    from flowherd.isolates.frames import Buffer
    from flowherd.sdk.activity import ActivityDefinition
    from flowherd.worker.attempt import Attempt

MOST_AT_ONCE = 100  # transfers and streams that one handler may have under way, each


class IsolateRun:
    """One attempt and its isolate's part in it.

    Args:
        attempt: whose handler it is.
        definition: of the activity.
        outlet: is told when it begins and that it has ended.

    """

    def __init__(self, attempt: Attempt, definition: ActivityDefinition, outlet: Outlet) -> None:
        self.definition = definition
        self._state = attempt
        self._executor = outlet
        self._calls: dict[int, Future[Any]] = {}
        self._outlets: dict[int, TextOutlet] = {}

    def __repr__(self) -> str:
        return f"<IsolateRun {self._state!r}>"

    @property
    def waits(self) -> bool:
        """It has not begun, and may."""
        return self._state.may_begin

    def begin(self, stop: Callable[[], None]) -> bool:
        """The handler is about to begin; `stop` tells it to end. False when it must not begin any more."""
        self._state.handle = stop
        return self._executor.begin(self._state)

    @property
    def ids(self) -> dict[str, str]:
        """What each line about it in the log names."""
        activity = self._state.activity
        return {
            "activity_id": activity.activity_id,
            "workflow_id": activity.workflow_id,
            "activity_key": activity.key,
            "activity_name": activity.name,
        }

    @property
    def cancel_reason(self) -> str:
        """Why it is told to stop."""
        reason = self._state.cancel_reason
        return "" if reason is None else reason.value

    def order(self) -> tuple[Begin, Buffer]:
        """What the isolate is told, and the parameters: where they came undecoded, as the engine sent them."""
        activity = self._state.activity
        begin = Begin(
            activity_id=activity.activity_id,
            workflow_id=activity.workflow_id,
            key=activity.key,
            name=activity.name,
            worker_type=activity.worker_type,
            worker_id=activity.worker_id,
            limit_s=self._state.limit_s,
            timeout_s=activity.timeout_s,
            settings=dict(activity.settings),
            output_definitions=tuple(dict(definition) for definition in activity.output_definitions),
            signal_data=activity.signal_data,
            trace={} if self._state.trace is None else dict(self._state.trace.carrier()),
        )
        if isinstance(activity.parameters, msgspec.Raw):
            return begin, memoryview(activity.parameters)
        return begin, msgspec.json.encode(activity.parameters)

    def heed(self, saying: Saying, answer: Callable[[Saying], None]) -> None:
        """Does what the handler asks for; FrameError for what no handler can ask.

        Args:
            saying: its message.
            answer: sends one back, now or later.

        """
        try:
            if isinstance(saying, Measured):
                meter = self._state.environment.meter
                meter.offloaded(self.definition.name, **msgspec.structs.asdict(saying))
            elif isinstance(saying, Raised):
                self._note_raised(saying)
            else:
                self._heed(saying, answer)
        except (ValueError, TypeError) as error:
            raise FrameError(f"it reported {type(saying).__name__} that cannot be: {error}") from None

    def _note_raised(self, saying: Raised) -> None:
        if self._state.trace is not None:
            secrets = self._state.environment.secrets
            self._state.trace.raised(saying.kind, mask(saying.message, secrets), mask(saying.report, secrets))

    def _heed(self, saying: Saying, answer: Callable[[Saying], None]) -> None:
        context = BaseContext(self._state)
        match saying:
            case Progressed():
                self._state.heartbeat_at = monotonic()
            case UsageRecorded():
                context.record_usage(**msgspec.structs.asdict(saying))
            case CostRecorded(usd):
                context.record_cost(usd)
            case Download(call, reference):
                self._call(call, lambda: files_of(self._state).download(reference), answer)
            case Upload(call, path, filename, content_type):
                local = Path(os.fsdecode(path))
                begin = lambda: files_of(self._state).upload(local, filename, content_type)  # noqa: E731
                self._call(call, begin, answer)
            case Abandoned(call):
                if call in self._calls:
                    self._calls[call].cancel()
            case TextStreamed(stream=stream, text=text):  # by names, as there are many: see `Turns.next_at`
                if (outlet := self._outlet(stream)) is not None:
                    outlet.put(text)
            case StreamClosed(stream, error):
                if (outlet := self._outlet(stream)) is not None:
                    outlet.end(error and mask(error, self._state.environment.secrets))
                    del self._outlets[stream]
            case _:
                raise FrameError(f"it said {type(saying).__name__} out of turn")

    def save(self, saying: Save, content: bytes, answer: Callable[[Saying], None]) -> None:
        """Uploads what the isolate has sent."""
        name, kind = saying.filename, saying.content_type
        self._call(saying.call, lambda: files_of(self._state).save(content, name, kind), answer)

    def _outlet(self, stream: int) -> TextOutlet | None:
        """Where a stream goes; None where there is no engine."""
        streams = self._state.environment.streams
        if streams is None:
            return None
        if stream not in self._outlets:
            if len(self._outlets) >= MOST_AT_ONCE:
                raise FrameError("it has too many streams open")
            self._outlets[stream] = streams.open(self._state.activity.activity_id)
        return self._outlets[stream]

    def _call(self, call: int, begin: Callable[[], Future[Any]], answer: Callable[[Saying], None]) -> None:
        """Begins a transfer; its answer is sent from this loop when it has ended."""
        if call in self._calls or len(self._calls) >= MOST_AT_ONCE:
            raise FrameError("it has too many transfers under way")
        try:
            future = self._calls[call] = begin()
        except (FileError, asyncio.CancelledError) as error:
            answer(_refusal(call, error))
            return
        loop = asyncio.get_running_loop()

        def ended(_: Future[Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the worker has ended before its transfers
                loop.call_soon_threadsafe(self._answer, call, answer)

        future.add_done_callback(ended)

    def _answer(self, call: int, answer: Callable[[Saying], None]) -> None:
        future = self._calls.pop(call)
        try:
            answer(Answered(call, os.fsencode(future.result())))
        except BaseException as error:  # noqa: BLE001 - it is the handler's to know
            answer(_refusal(call, error))

    def succeeded(self, output: bytes) -> None:
        """The handler returned."""
        self.finish(Completed(output, *self._state.spent))

    def failed(self, saying: Unsuccessful) -> None:
        """The handler raised."""
        message = mask(saying.message, self._state.environment.secrets)
        self.finish(self.failure(saying.code, message, retryable=saying.retryable))

    def failure(self, code: str, message: str, *, retryable: bool) -> Failed:
        """A failure, with what was spent until now."""
        return failed(self._state, code, message, retryable=retryable)

    def finish(self, outcome: Outcome) -> None:
        """The handler has ended."""
        self._executor.finished(self._state, outcome)


def _refusal(call: int, error: BaseException) -> Saying:
    if isinstance(error, FileError):
        return Refused(call, error.code, str(error).encode(errors="replace").decode())
    if isinstance(error, asyncio.CancelledError | CancelledError):
        return Dropped(call)
    return Refused(call, "FILE_ERROR", f"{type(error).__name__} in the worker")


def checked_output(frame: bytes | bytearray) -> bytes:
    """An output as it is told to the engine; FrameError when it is no JSON object (faults.md A17)."""
    try:
        raw = msgspec.json.decode(frame, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise FrameError(f"its output is no JSON: {error}") from None
    if bytes(memoryview(raw)[:1]) != b"{":
        raise FrameError("its output is no JSON object")
    return bytes(frame)
