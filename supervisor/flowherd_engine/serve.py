"""Runs the embedded engine as a program: binds, prints its address, serves until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import sysconfig
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from .settings import EngineSettings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from starlette.types import ASGIApp

    from .engine import Engine

    Opened = Callable[[EngineSettings], Awaitable[tuple[Engine, ASGIApp]]]

MISSING = "the embedded engine needs more packages ({}): pip install 'flowherd[engine]'"
NO_WHEEL = (
    " (minijinja has no wheel for some free-threaded Pythons; the ordinary build of the same version has one)"
)
BACKLOG = 2048
_OTHER_PORT = 8090
REFUSING_S = 0.2
GRACE_S = 1


def serve(settings: EngineSettings, opened: Opened | None = None) -> int:
    """Serves until SIGTERM or SIGINT; call it from the main thread of a separate program.

    A line on stdout appears when connections are accepted:
    ``flowherd engine listening on http://127.0.0.1:PORT``. Errors are one line on stderr.

    Args:
        settings: the engine's settings.
        opened: opens an engine and builds its application; None for the plain ones.

    Returns:
        0 after a clean stop; 2 for settings, an address or a database that cannot be used.

    """
    try:
        settings.check()
        with _listener(settings) as listener:
            return _run(settings, listener, opened or _opened)
    except SettingsError as error:
        return _refuse(str(error))
    except ModuleNotFoundError as error:
        free_threaded = error.name == "minijinja" and sysconfig.get_config_var("Py_GIL_DISABLED")
        return _refuse(MISSING.format(error.name) + (NO_WHEEL if free_threaded else ""))


def _refuse(text: str) -> int:
    sys.stderr.write(f"flowherd engine: {' '.join(text.split())}\n")
    return 2


def _listener(settings: EngineSettings) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise port_in_use(settings.host, settings.port) from error
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(
            f"cannot listen on {settings.host}:{settings.port}: {reason}; choose another --host or --port"
        ) from error
    return listener


def port_in_use(host: str, port: int) -> SettingsError:
    """Returns the error for a port in use, with another one for the engine and for the commands that call it."""
    other = _OTHER_PORT if port != _OTHER_PORT else _OTHER_PORT + 1
    return SettingsError(
        f"{_authority(host, port)} is in use by another program: choose another port, such as --port {other}, and "
        f"export KRUXIAFLOW_API_URL=http://{_authority(host, other)} for run, submit and check"
    )


def _run(settings: EngineSettings, listener: socket.socket, opened: Opened) -> int:
    from .database import DatabaseUnusable  # noqa: PLC0415 - a missing extra must give one clear line

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(listener, opened(settings)))
    except DatabaseUnusable as error:
        return _refuse(str(error))
    return 0


async def _opened(settings: EngineSettings) -> tuple[Engine, ASGIApp]:
    from .app import build_app  # noqa: PLC0415 - a missing extra must give one clear line
    from .engine import Engine  # noqa: PLC0415 - as above

    engine = await Engine.open(settings)
    return engine, build_app(engine)


async def _serve(listener: socket.socket, opening: Awaitable[tuple[Engine, ASGIApp]]) -> None:
    engine, app = await opening
    config = uvicorn.Config(
        app,
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config, engine, _url(listener))
    sweeping = asyncio.create_task(engine.sweep_forever())
    sweeping.add_done_callback(lambda task: None if task.cancelled() else server.stop())
    try:
        await server.serve([listener])
    finally:
        sweeping.cancel()
        await asyncio.wait([sweeping])
        await engine.close()
    if not sweeping.cancelled():
        sweeping.result()  # raises its error: without the sweep no lease would end


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, engine: Engine, url: str) -> None:
        super().__init__(config)
        self._engine = engine
        self._url = url

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles signals without raising them again, as uvicorn does, so that a requested stop exits 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        yield

    def stop(self) -> None:
        """Refuses requests with 503 for a moment, then closes; a second signal closes at once."""
        if self._engine.draining:
            self.should_exit = True
        self._engine.draining = True
        asyncio.get_running_loop().call_later(REFUSING_S, setattr, self, "should_exit", True)  # noqa: FBT003

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        with contextlib.suppress(
            OSError
        ):  # full disk or closed pipe; unbuffered, so that nothing is left to flush
            os.write(sys.stdout.fileno(), f"flowherd engine listening on {self._url}\n".encode())


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{_authority(host, port)}"


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
