"""An HTTP/1.1 connection that carries one exchange at a time."""

from __future__ import annotations

import asyncio
import select
from typing import TYPE_CHECKING, cast

from flowherd.transport.reply_parser import ReplyReader, Stage
from flowherd.transport.stall_detection import Progress, bytes_acked
from flowherd.transport.wire_format import Disconnected, MalformedReply, WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.transport.reply_parser import Heads

_UNBOUNDED = 1 << 62
_IDLE, _HEAD, _DONE = Stage.IDLE, Stage.HEAD, Stage.DONE  # see `reply`


class HttpConnection(asyncio.Protocol):
    """A connection; its holder begins an exchange, writes, waits for the reply, and returns it to the pool.

    Args:
        on_lost: called once when the connection has ended.
        heads: the cache of reply heads, shared with other connections to the same origin.
        progress: tracks when an exchange is overdue.

    Attributes:
        loop: its event loop, kept because looking up the running loop is a system call.
        idle_since: the end of its last exchange, in seconds of the loop's clock.

    """

    def __init__(
        self,
        on_lost: Callable[[HttpConnection], None],
        heads: Heads | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._on_lost = on_lost
        self.loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._exchanges = 0
        self.reply = ReplyReader(heads)
        self.idle_since = 0.0
        self.progress = progress or Progress()

    # Called by the holder

    def rest(self) -> bool:
        """Marks the connection idle; False when it cannot carry another exchange.

        The last exchange, if any, must have ended exactly at the end of its reply. Bytes that arrive while idle are
        an error.
        """
        transport, reply = self._transport, self.reply
        is_reusable = (
            transport is not None
            and not transport.is_closing()
            and (reply.keep_alive or not self._exchanges)
            and reply.fault is None
            and (reply.stage is _DONE or reply.stage is _IDLE)
            and not transport.get_write_buffer_size()
        )
        if is_reusable:
            reply.stage = _IDLE
            reply.forget_body()
            self.idle_since = self.loop.time()
            self.progress.end()
        return is_reusable

    @property
    def is_quiet(self) -> bool:
        """True when the socket has nothing to read: no end of file and no bytes that could pass for a reply."""
        return self._transport is not None and not self._transport.is_closing() and not self._unread.poll(0)

    @property
    def is_stale(self) -> bool:
        """True if it was reused and ended before the first byte of the reply (faults.md E4)."""
        return self._exchanges > 1 and isinstance(self.reply.fault, Disconnected) and not self.reply.received

    def begin(self, most_bytes: int = _UNBOUNDED) -> None:
        """Begins an exchange whose reply body has at most `most_bytes` bytes."""
        self.reply.begin(most_bytes)
        self._exchanges += 1
        if self._transport is None or self._transport.is_closing():
            self._fail(Disconnected("the connection had ended", has_begun=False))

    def write(self, data: bytes) -> None:
        """Sends bytes; those that the kernel does not take now are buffered."""
        if self._transport is not None and self.reply.fault is None:
            self._transport.write(data)

    async def whole_reply(self) -> bytes:
        """Waits for the whole reply and returns its body; status and headers are in `reply`.

        Raises:
            WireError: the reply is incomplete or malformed.

        """
        reply = self.reply
        while reply.stage is not _DONE:
            if reply.fault is not None:
                raise reply.fault
            self._waiter = waiter = self.loop.create_future()
            try:
                await waiter
            finally:
                self._waiter = None
        return self.body

    @property
    def body(self) -> bytes:
        """The body of a whole reply."""
        return self.reply.body

    def look(self, now: float) -> None:
        """Fails the exchange when it is overdue."""
        if self.reply.stage is _DONE or self._transport is None:
            self.progress.end()
            return
        acked, is_sending = bytes_acked(self._transport)
        overdue = self.progress.look(now, acked, self.reply.received, is_sending=is_sending)
        if overdue is not None:
            self._fail(overdue)

    def abort(self) -> None:
        """Closes at once; harmless when already closed."""
        if self._transport is not None:
            self._transport.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, fault: WireError) -> None:
        if self.reply.fault is None:
            self.reply.fault = fault
        self.abort()
        self._wake()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of asyncio's
        self._unread = select.poll()
        self._unread.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        reply = self.reply
        was_silent = reply.stage is _IDLE
        reply.feed(data)
        if reply.stage is _DONE:
            self._wake()
        elif was_silent:
            self._fail(MalformedReply("bytes that nobody asked for"))
        elif reply.fault is not None:
            self._fail(reply.fault)

    def eof_received(self) -> None:  # a half-closed connection counts as closed
        self.reply.end()
        if self.reply.stage is _DONE:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        reply = self.reply
        if reply.fault is None and reply.stage is not _DONE:
            how = f"{type(exc).__name__}: {exc}" if exc else "closed by the other side"
            reply.fault = Disconnected(how, has_begun=reply.received > 0)
            reply.fault.__cause__ = exc
        reply.keep_alive = False
        self._transport = None
        self._wake()
        self._on_lost(self)
