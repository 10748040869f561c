"""Text streams for handlers: an awaitable one, and a synchronous one that does not block."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from flowherd.sdk.error_texts import describe_exception
from flowherd.sdk.redaction import hiding
from flowherd.sdk.run_state import CancelReason

if TYPE_CHECKING:
    from types import TracebackType

    from flowherd.execution.run_environment import Outlet
    from flowherd.sdk.run_state import RunState


class _Stream:
    """The base of both streams.

    Drops text that is sent outside its block, after the lease is lost (another worker may stream by then), without an
    engine, or when the workflow definition has `streaming: false`.
    """

    __slots__ = ("_outlet", "_state")

    def __init__(self, state: RunState) -> None:
        self._state = state
        self._outlet: Outlet | None = None

    def _begin(self) -> None:
        streams = self._state.environment.streams
        asked = self._state.activity.settings.get("streaming")
        is_off = asked is False or (isinstance(asked, dict) and asked.get("enabled") is False)
        if streams is not None and not is_off:
            self._outlet = streams.open(self._state.activity.activity_id)

    def _put(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a stream takes text, not {type(text).__name__}")
        if text and self._outlet is not None and self._state.cancel_reason is not CancelReason.LEASE_LOST:
            self._outlet.put(text.encode(errors="replace").decode())  # half a surrogate pair is no JSON

    def _end(self, error: BaseException | None) -> None:
        outlet, self._outlet = self._outlet, None
        if outlet is None or self._state.cancel_reason is CancelReason.LEASE_LOST:
            return
        if error is None:
            outlet.end(None)
        elif isinstance(error, asyncio.CancelledError):
            outlet.end("the attempt was stopped")
        else:
            outlet.end(describe_exception(error, hiding(self._state)))


class TokenStream(_Stream):
    """A stream of text: `async with ctx.stream() as stream: await stream.send(text)`."""

    __slots__ = ()

    async def __aenter__(self) -> Self:
        self._begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(error)

    async def send(self, text: str) -> None:
        """Queues `text` to be sent soon. It never waits for the engine, and never fails because of it.

        Raises:
            TypeError: `text` is not a str.

        """
        self._put(text)
        await asyncio.sleep(0)


class SyncTokenStream(_Stream):
    """A stream of text for a plain `def`: `with ctx.stream() as stream: stream.send(text)`."""

    __slots__ = ()

    def __enter__(self) -> Self:
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(error)

    def send(self, text: str) -> None:
        """Does what `TokenStream.send` does."""
        self._put(text)
