"""What a handler in an isolate sees of its process: the usual names, with the worker behind them; it runs nothing."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flowherd.errors import FileError, FileMissing, FileTransferFailed, InvalidFile
from flowherd.files.file_ends import CHUNK_BYTES
from flowherd.isolates.isolate_protocol import (
    Abandoned,
    Answered,
    CostRecorded,
    Download,
    Dropped,
    Progressed,
    Refused,
    Save,
    StreamClosed,
    TextStreamed,
    Upload,
    UsageRecorded,
)
from flowherd.sdk.costs import Costs, checked_cost
from flowherd.sdk.run_state import RunState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from flowherd.execution.environment import RunEnvironment
    from flowherd.isolates.inside.voice import Voice
    from flowherd.isolates.isolate_protocol import Saying
    from flowherd.model import Activity, Usage
    from flowherd.sdk.context import ActivityContext
    from flowherd.sdk.costs import Money

PROGRESS_EVERY_S = 0.25  # what the worker is told of heartbeats
_PIECE_CHARS = 8000  # of streamed text: a message has a limit
_SCHEME = "postgres://"

T = TypeVar("T")


class RemoteState(RunState):
    """The state of an attempt whose record is the worker's."""

    __slots__ = ("_heartbeat_at", "_said_at", "_voice")

    def __init__(self, activity: Activity, environment: RunEnvironment, voice: Voice) -> None:
        self._voice = voice
        self._said_at = self._heartbeat_at = 0.0
        super().__init__(activity, environment)
        self.costs = RemoteCosts(voice)

    @property
    def heartbeat_at(self) -> float:
        """Monotonic seconds of the handler's last heartbeat()."""
        return self._heartbeat_at

    @heartbeat_at.setter
    def heartbeat_at(self, now: float) -> None:
        self._heartbeat_at = now
        if now - self._said_at >= PROGRESS_EVERY_S:
            self._said_at = now
            self._voice.say(Progressed())


class RemoteCosts(Costs):
    """Tells the worker of each record at once, so that it outlives this process."""

    __slots__ = ("_voice",)

    def __init__(self, voice: Voice) -> None:
        super().__init__()
        self._voice = voice

    def add_cost(self, usd: Money) -> None:
        """See `Costs.add_cost`."""
        super().add_cost(usd)
        self._voice.say(CostRecorded(format(checked_cost(usd), "f")))

    def add_usage(self, usage: Usage) -> None:
        """See `Costs.add_usage`."""
        super().add_usage(usage)
        cost = None if usage.cost_usd is None else format(checked_cost(usage.cost_usd), "f")
        self._voice.say(
            UsageRecorded(
                provider=usage.provider,
                model=usage.model,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cache_read_tokens=usage.cache_read_tokens,
                cache_creation_tokens=usage.cache_creation_tokens,
                cache_storage_token_hours=usage.cache_storage_token_hours,
                cost_usd=cost,
            )
        )


class Calls:
    """Calls that wait for the worker's answer; their futures may be waited for in any thread or loop."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[Future[Any], Callable[[bytes], Any]]] = {}

    def make(
        self,
        saying_for: Callable[[int], Saying],
        result_of: Callable[[bytes], T],
        follows: bytes | None = None,
    ) -> Future[T]:
        """Asks the worker.

        Args:
            saying_for: makes the message for a number.
            result_of: makes the result of the answer.
            follows: the frame that belongs to the message.

        """
        number = next(self._numbers)
        future: Future[T] = Future()
        self._open[number] = future, result_of
        try:
            self._voice.say(saying_for(number), follows)
        except UnicodeEncodeError as error:
            del self._open[number]
            raise InvalidFile(f"a name that is no text: {error.reason}") from None
        future.add_done_callback(lambda _: self._give_up(number))
        return future

    def _give_up(self, number: int) -> None:
        if self._open.pop(number, None) is not None:  # it was not the worker that ended it
            self._voice.say(Abandoned(number))

    def heed(self, answer: Answered | Refused | Dropped) -> None:
        """The worker has answered."""
        future, result_of = self._open.pop(answer.call, (None, None))
        if future is None or result_of is None:
            return  # given up before
        with contextlib.suppress(InvalidStateError):  # given up at this moment
            match answer:
                case Answered(_, result):
                    future.set_result(result_of(result))
                case Refused(_, code, message):
                    future.set_exception(file_error(code, message))
                case Dropped():
                    future.cancel()


def file_error(code: str, message: str) -> FileError:
    """The error of that code."""
    for kind in FileError.__subclasses__():
        if (error := kind(message)).code == code:
            return error
    return FileError(message)


class RemoteFiles:
    """Files by way of the worker, which holds the connections and the attempt's private folder."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def of(self, state: RunState) -> RemoteTransfers:
        """The files of one attempt; FileTransferFailed once it has ended."""
        if state.has_ended:
            raise FileTransferFailed("no files any more: the attempt has ended")
        return RemoteTransfers(self._calls)


class RemoteTransfers:
    """`flowherd.execution.environment.Transfers` by way of the worker."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def download(self, reference: str) -> Future[Path]:
        """Begins a download; the result is the path of the whole file."""
        return self._calls.make(lambda call: Download(call, reference), lambda path: Path(os.fsdecode(path)))

    def upload(self, path: Path, filename: str | None, content_type: str | None) -> Future[str]:
        """Begins an upload; the result is the reference."""
        raw = os.fsencode(path)
        return self._calls.make(
            lambda call: Upload(call, raw, filename, content_type), lambda reference: reference.decode()
        )

    def save(self, content: bytes, filename: str, content_type: str) -> Future[str]:
        """Begins to upload `content` under a name of ours; the result is the reference."""
        return self._calls.make(
            lambda call: Save(call, filename, content_type), lambda reference: reference.decode(), content
        )

    def cancel(self) -> None:
        """The worker ends transfers by itself."""

    def close(self) -> None:
        """The worker removes the folder by itself."""


class RemoteStreams:
    """`flowherd.execution.environment.Streams` by way of the worker."""

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._numbers = itertools.count(1)

    def open(self, activity_id: str) -> _RemoteOutlet:
        """See `Streams.open`; the worker knows whose it is."""
        del activity_id
        return _RemoteOutlet(self._voice, next(self._numbers))


class _RemoteOutlet:
    """`flowherd.execution.environment.Outlet` of one stream."""

    def __init__(self, voice: Voice, number: int) -> None:
        self._voice = voice
        self._number = number

    def put(self, text: str) -> None:
        """See `Outlet.put`."""
        for start in range(0, len(text), _PIECE_CHARS):
            self._say(TextStreamed(self._number, text[start : start + _PIECE_CHARS]))

    def end(self, error: str | None) -> None:
        """See `Outlet.end`."""
        self._say(StreamClosed(self._number, error))

    def _say(self, saying: Saying) -> None:
        with contextlib.suppress(OSError):  # the worker has gone, and so will this process
            self._voice.say(saying)


class RemoteStockFiles:
    """Makes the API client behind a stock context's file methods, which are ours here (protocol.md §9)."""

    def __init__(self) -> None:
        self._context: ActivityContext | None = None

    def serve(self, context: ActivityContext) -> None:
        """From now on the files are those of this attempt."""
        self._context = context

    def client(self) -> Any:
        """See `StockFiles.client`."""
        assert self._context is not None
        return _StockClient(self._context)


class _StockClient:
    """The two methods of the stock client that its file executor calls."""

    def __init__(self, context: ActivityContext) -> None:
        self._context = context

    async def download_file(self, workflow_id: Any, activity_key: str, filename: str) -> AsyncIterator[bytes]:
        """The file in pieces; the SDK's own FileNotFoundError where the engine has none."""
        try:
            path = await self._context.download_file(f"{_SCHEME}{workflow_id}/{activity_key}/{filename}")
        except FileMissing:
            sdk = sys.modules["kruxiaflow.worker.storage.errors"]
            raise sdk.FileNotFoundError(f"{workflow_id}/{activity_key}/{filename}") from None
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    async def upload_file(
        self,
        workflow_id: Any,
        activity_key: str,
        filename: str,
        data: AsyncIterator[bytes],
        content_type: str | None = None,
    ) -> None:
        """Sends a file of this attempt, which is the only one that its executor can mean."""
        del workflow_id, activity_key
        with tempfile.NamedTemporaryFile(prefix="flowherd-") as file:
            async for chunk in data:
                file.write(chunk)
            file.flush()
            await self._context.upload_file(file.name, filename, content_type)
