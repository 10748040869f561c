"""For tests of files: an engine on this loop, a network that resets connections, handlers' contexts."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn

from flowherd import ActivityContext
from flowherd.backoff import Backoff
from flowherd.execution.run_environment import RunEnvironment
from flowherd.files.attempt_files import FileAccess
from flowherd.files.scratch_folders import Scratch
from flowherd.files.transfers import EngineFiles
from flowherd.sdk.run_state import RunState
from flowherd.testing import make_activity
from flowherd_engine.app import build_app
from flowherd_engine.engine import Engine
from flowherd_engine.settings import EngineSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from flowherd.client.bearer_tokens import TokenSource

WORKFLOW = "01930000-0000-7000-8000-000000000000"
SOON = Backoff(base_s=0.001)


class _Server(uvicorn.Server):
    """A server with an event for its start and without signal handlers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextlib.asynccontextmanager
async def engine_here() -> AsyncIterator[str]:
    """The embedded engine in memory on this loop; yields its URL."""
    engine = await Engine.open(EngineSettings())
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(build_app(engine), loop="none", lifespan="off", log_config=None, access_log=False)
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    await server.ready.wait()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        await engine.close()


@contextlib.asynccontextmanager
async def cutting(url: str, *cuts: int) -> AsyncIterator[str]:
    """A proxy to `url` that resets the first connections, each after the number of request bytes in its cut."""
    waiting = list(cuts)
    target = urlsplit(url)
    pipes: set[asyncio.Task[None]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, room: float) -> None:
        while room > 0 and (data := await reader.read(4096)):
            room -= len(data)
            writer.write(data)
            await writer.drain()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(target.hostname, target.port)
        cut = waiting.pop(0) if waiting else float("inf")
        both = {
            asyncio.create_task(pipe(reader, back, cut)),
            asyncio.create_task(pipe(there, writer, float("inf"))),
        }
        pipes.update(both)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, back):
            end.transport.abort()
        await asyncio.gather(*both, return_exceptions=True)

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in pipes:
            task.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)


class Files:
    """The files of one worker, below `base`, against the engine at `url`."""

    def __init__(
        self,
        url: str,
        base: Path,
        tokens: TokenSource | None = None,
        *,
        max_file_mb: int = 64,
        stall_s: float = 5.0,
    ) -> None:
        self.base = base
        self.access = FileAccess(
            lambda: EngineFiles(url, tokens, stall_s=stall_s, backoff=SOON),
            asyncio.new_event_loop,
            max_file_mb=max_file_mb,
            scratch=Scratch(base),
        )
        self.environment = RunEnvironment(files=self.access)

    def state(self, number: int = 1, **fields: Any) -> RunState:
        """Returns the state of one attempt."""
        activity = make_activity("work", number=number, workflow_id=WORKFLOW, key="step", **fields)
        return RunState(activity, self.environment)

    def context(self, number: int = 1, **fields: Any) -> ActivityContext:
        """Returns the context that one attempt's handler gets."""
        return ActivityContext(self.state(number, **fields))

    def on_disk(self) -> list[Path]:
        """Returns all files below `base`."""
        return [path for path in self.base.rglob("*") if not path.is_dir()]


@contextlib.asynccontextmanager
async def files_at(
    url: str, base: Path, tokens: TokenSource | None = None, **options: Any
) -> AsyncIterator[Files]:
    """`Files` that are closed at the end of the block."""
    files = Files(url, base, tokens, **options)
    try:
        yield files
    finally:
        await files.access.aclose()
