"""Streams files to and from the engine, with retries from the start.

A try may go on while bytes move: it fails when none has moved for `stall_s`, or when its average rate is below
`MIN_BYTES_PER_S`. Each transfer holds a transaction of the engine's database (protocol.md §9.1), so a worker has at
most `MOST_TRANSFERS` under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING, Protocol

import httpx
import structlog

from flowherd.attempt_ids import working_for
from flowherd.backoff import Backoff
from flowherd.client.bearer_tokens import BearerAuth
from flowherd.client.kruxia_files import announced_size, check_uploaded, refusal
from flowherd.client.reply_classifier import begins_content
from flowherd.counted import counted
from flowherd.errors import (
    EngineError,
    EngineMisconfigured,
    EngineUnavailable,
    FileTooLarge,
    FileTransferFailed,
    ForeignReply,
)
from flowherd.transport.transport import Reply, new_client, read_capped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from flowherd.client.bearer_tokens import TokenSource
    from flowherd.files.disk_io import Incoming, Outgoing
    from flowherd.sdk.file_reference import FileReference

MOST_TRANSFERS = 4
TRIES = 4
STALL_S = 30.0
MIN_BYTES_PER_S = 4096
_MOST_REPLY_BYTES = 1 << 16  # of JSON replies

log = structlog.stdlib.get_logger(__name__)


class FileStore(Protocol):
    """A store of files: the engine, or memory in tests. All its calls come from one loop."""

    async def send(self, reference: FileReference, source: Outgoing, content_type: str) -> None:
        """Stores all of `source`, replacing an existing file; raises FileError."""
        ...

    async def receive(self, reference: FileReference, sink: Incoming) -> None:
        """Writes all of a file to `sink`; raises FileError."""
        ...

    async def aclose(self) -> None:
        """Closes connections."""
        ...


class EngineFiles:
    """`FileStore` over an engine's REST API.

    Args:
        api_url: the engine's origin.
        tokens: the host's token, None for an engine that requires none.
        most: the most transfers under way at once.
        stall_s: seconds without a byte after which a try fails.
        backoff: the delays between tries.

    """

    def __init__(
        self,
        api_url: str,
        tokens: TokenSource | None,
        *,
        most: int = MOST_TRANSFERS,
        stall_s: float = STALL_S,
        backoff: Backoff | None = None,
    ) -> None:
        auth = BearerAuth(tokens, api_url) if tokens is not None else None
        self._client = new_client(api_url, auth, connections=most)
        self._api_url = api_url
        self._stall_s = stall_s
        self._backoff = backoff or Backoff(base_s=0.5)
        self._rng = random.Random()
        self._turns = asyncio.Semaphore(most)

    async def send(self, reference: FileReference, source: Outgoing, content_type: str) -> None:
        """See `FileStore.send`; safe to repeat, since the same name overwrites (faults.md F7)."""
        await self._several_times("upload", lambda: self._send(reference, source, content_type))

    async def receive(self, reference: FileReference, sink: Incoming) -> None:
        """See `FileStore.receive`."""
        await self._several_times("download", lambda: self._receive(reference, sink))

    async def aclose(self) -> None:
        """See `FileStore.aclose`."""
        await self._client.aclose()

    async def _several_times(self, what: str, once: Callable[[], Awaitable[None]]) -> None:
        for failures in range(1, TRIES + 1):
            try:
                async with self._turns:
                    await once()
                return
            except EngineError as error:
                if failures == TRIES and isinstance(error, ForeignReply) and error.is_too_large:
                    raise FileTooLarge(f"{what} refused {TRIES} times before the engine: {error}") from error
                if failures == TRIES or isinstance(error, EngineMisconfigured):
                    tries = counted(failures, "try")
                    raise FileTransferFailed(f"{what} failed after {tries}: {error}") from error
                who = working_for.get()  # the handler that requested the transfer
                ids = {} if who is None else who.fields()
                log.info("file_transfer_failed", direction=what, reason=str(error), failures=failures, **ids)
                asked_s = error.retry_after_s if isinstance(error, EngineUnavailable) else 0.0
            await asyncio.sleep(self._backoff.delay_s(failures, self._rng, asked_s=asked_s))

    async def _send(self, reference: FileReference, source: Outgoing, content_type: str) -> None:
        headers = {"content-type": content_type, "content-length": str(source.size)}
        async with self._trying() as progress:
            body = _Body(source, progress)
            async with self._client.stream(
                "POST", reference.route, content=body, headers=headers
            ) as response:
                reply = await _whole(response)
        check_uploaded(reply, source.size, f"POST {self._api_url}{reference.route}")

    async def _receive(self, reference: FileReference, sink: Incoming) -> None:
        place = f"GET {self._api_url}{reference.route}"
        async with self._trying() as progress, self._client.stream("GET", reference.route) as response:
            head = Reply(response.status_code, response.headers, b"")
            if not begins_content(head):
                raise refusal(await _whole(response), place)
            sink.begin(announced_size(head))
            async for chunk in response.aiter_raw():
                sink.write(chunk)
                progress.moved(len(chunk))
        sink.finish()

    @contextlib.asynccontextmanager
    async def _trying(self) -> AsyncIterator[_Progress]:
        """Limits the time of a try; a slow one, and every transport error, becomes EngineUnavailable."""
        try:
            async with asyncio.timeout(self._stall_s) as deadline:
                yield _Progress(deadline, self._stall_s)
        except TimeoutError:
            raise EngineUnavailable(f"too few bytes moved within {self._stall_s:g} s") from None
        except httpx.HTTPError as error:
            raise EngineUnavailable(f"{type(error).__name__}: {error}".rstrip(": ")) from error


class _Progress:
    """Moves the deadline of a try as bytes move."""

    def __init__(self, deadline: asyncio.Timeout, stall_s: float) -> None:
        self._deadline = deadline
        self._stall_s = stall_s
        self._now = asyncio.get_running_loop().time
        self._too_slow_at = self._now() + stall_s

    def moved(self, size: int) -> None:
        self._too_slow_at += size / MIN_BYTES_PER_S
        self._deadline.reschedule(min(self._now() + self._stall_s, self._too_slow_at))


class _Body:
    """A request's content that can be sent again from its start, as after a 401 (protocol.md §1.5)."""

    def __init__(self, source: Outgoing, progress: _Progress) -> None:
        self._source = source
        self._progress = progress
        self._chunks: Iterator[bytes] = iter(())

    def __aiter__(self) -> _Body:
        self._chunks = self._source.chunks()
        return self

    async def __anext__(self) -> bytes:
        for chunk in self._chunks:
            self._progress.moved(len(chunk))
            return chunk
        raise StopAsyncIteration


async def _whole(response: httpx.Response) -> Reply:
    body = await read_capped(response, _MOST_REPLY_BYTES)
    return Reply(response.status_code, response.headers, body)
