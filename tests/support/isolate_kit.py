"""Isolates for tests: a program that forks them as the supervisor does, and a runner that uses it.

pytest has threads, and whoever forks must have none: so the forker is a process of its own. Run it as a program
with the number of its end of a socket, the app and the app's folder; links to workers come through the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner_kit import Runner

from flowherd import logs
from flowherd.execution.environment import RunEnvironment
from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.loading import LoadedApp, load_app
from flowherd.isolates.host import LinkedHost
from flowherd.isolates.inside import main as isolate
from flowherd.isolates.pool import Isolates
from flowherd.isolates.terms import IsolateRules
from flowherd.link.link import Link, LinkClosed
from flowherd.link.messages import (
    IsolateEnded,
    IsolateStarted,
    KillIsolate,
    NeedIsolate,
    StopIsolate,
    decode_downward,
    decode_upward,
)
from flowherd.process.worker_process import ignore_signals
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import make_activity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from runner_kit import Run

    from flowherd.model import Outcome

FOLDER = Path(__file__).parent
APP = "isolate_app:registry"
CEILING_S = 20.0


class Family:
    """The isolates of one worker, by pid."""

    def __init__(self, link: Link, env: dict[str, str]) -> None:
        self.link = link
        self.env = env
        self.keys: dict[int, int] = {}

    def signal(self, key: int, number: signal.Signals) -> None:
        for pid, held in self.keys.items():
            if held == key:
                os.killpg(pid, number)


class Forker:
    """The supervisor's part, for any number of workers: makes, kills and reaps."""

    def __init__(self, control: socket.socket, app: LoadedApp, app_dir: str) -> None:
        self.control = control
        self.app = app
        self.app_dir = app_dir
        self.families: list[Family] = []
        self.wake, wake = os.pipe()
        for end in (self.wake, wake):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake)

    def serve(self) -> None:
        while True:
            links = {family.link: family for family in self.families}
            readable, _, _ = select.select([self.control, self.wake, *links], [], [])
            if self.wake in readable:
                os.read(self.wake, 4096)
            self.reap()
            for family in [links[one] for one in readable if one in links]:
                try:
                    self.heed(family, *family.link.receive())
                except LinkClosed:
                    self.end(family)
            if self.control in readable:
                data, fds, _, _ = socket.recv_fds(self.control, 1 << 16, 1)
                if not data:
                    return
                self.families.append(Family(Link(socket.socket(fileno=fds[0])), json.loads(data)))

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                (family,) = [one for one in self.families if pid in one.keys]
                key = family.keys.pop(pid)
                with contextlib.suppress(LinkClosed):
                    family.link.send(IsolateEnded(key, status))

    def heed(self, family: Family, data: bytes, fds: list[int]) -> None:
        match decode_upward(data):
            case NeedIsolate(key):
                self.fork(family, key, fds)
            case StopIsolate(key):
                family.signal(key, signal.SIGTERM)
            case KillIsolate(key):
                family.signal(key, signal.SIGKILL)

    def fork(self, family: Family, key: int, fds: list[int]) -> None:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                os.setpgid(0, 0)
                ignore_signals()
                for link in [self.control, *(one.link for one in self.families)]:
                    link.close()
                os.environ.update(family.env)
                code = isolate.main(self.setup(), *fds)
            finally:
                os._exit(code)
        with contextlib.suppress(OSError):  # it may have done so itself
            os.setpgid(pid, pid)
        for fd in fds:
            os.close(fd)
        family.keys[pid] = key
        family.link.send(IsolateStarted(key, pid))

    def setup(self) -> isolate.IsolateSetup:
        return isolate.IsolateSetup(
            app=self.app.name,
            app_dir=self.app_dir,
            worker_type=None,
            config=WorkerConfig(worker_id="t", secret_names=("pin_code",)),
            activities={},
            index=3,
            processes=4,
            loaded=self.app,
        )

    def end(self, family: Family) -> None:
        """The worker has gone: its isolates have seen that themselves, or are killed now."""
        for pid in family.keys:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.families.remove(family)
        family.link.close()


class Workplace:
    """A runner with isolates, made by a forker."""

    def __init__(
        self, link: Link, app: LoadedApp, environment: RunEnvironment, config: WorkerConfig, **rules: Any
    ) -> None:
        self.link = link
        self.pids: dict[int, int] = {}
        self.statuses: dict[int, int] = {}
        self.host = LinkedHost(link)
        self.isolates = Isolates(self.host, IsolateRules(**rules), config.concurrency)
        registry = app.for_type("py-std")
        self.runner = Runner(registry, config, ThreadPool(4), environment, self.isolates)
        self.ended = asyncio.Event()
        self._last = 0
        link.set_blocking(blocking=False)
        asyncio.get_running_loop().add_reader(link.fileno(), self._heed)

    def _heed(self) -> None:
        received = self.link.receive()
        match decode_downward(received[0]):
            case IsolateStarted(key, pid):
                self.pids[key] = pid
                self.isolates.started(key, pid)
            case IsolateEnded(key, status, reason):
                self.statuses[key] = status
                self.isolates.ended(key, status, reason)
                self.ended.set()

    def start(self, name: str, parameters: Any = None, **fields: Any) -> Run:
        self._last += 1
        return self.runner.start(make_activity(name, parameters, **{"number": self._last, **fields}))

    async def outcome(self, name: str, parameters: Any = None, **fields: Any) -> Outcome:
        run = self.start(name, parameters, **fields)
        outcome = await asyncio.wait_for(run.outcome(), CEILING_S)
        await asyncio.wait_for(run.ended(), CEILING_S)
        return outcome

    async def until(self, look: Any) -> None:
        """Waits until something is true that an isolate or the forker brings about."""
        async with asyncio.timeout(CEILING_S):
            while not look():  # noqa: ASYNC110 - it happens in another process
                await asyncio.sleep(0.005)  # between looks; the ceiling above bounds them


@contextlib.contextmanager
def running_forker(app: str = APP, folder: Path = FOLDER) -> Iterator[socket.socket]:
    """A forker in a process of its own; ends with the block, and all isolates before it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words = [sys.executable, str(Path(__file__)), str(theirs.fileno()), app, str(folder)]
    program = subprocess.Popen(words, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        assert program.wait(CEILING_S) == 0


@contextlib.asynccontextmanager
async def workplace(
    forker: socket.socket,
    environment: RunEnvironment | None = None,
    *,
    env: dict[str, str] | None = None,
    app: str = APP,
    folder: Path = FOLDER,
    **settings: Any,
) -> AsyncIterator[Workplace]:
    """A runner whose isolates are real; all of them end with the block."""
    rules = {name: settings.pop(name) for name in ("max_tasks", "secrets") if name in settings}
    config = WorkerConfig(worker_id="t", **{"concurrency": 4, "cancel_grace_s": 5.0, **settings})
    link, theirs = Link.pair()
    socket.send_fds(forker, [json.dumps(env or {}).encode()], [theirs.fileno()])
    theirs.close()
    seen = replace(environment or RunEnvironment(), process_index=3)
    place = Workplace(link, load_app(app, folder), seen, config, **rules)
    try:
        yield place
    finally:
        place.isolates.close()
        asyncio.get_running_loop().remove_reader(link.fileno())
        link.close()


def main() -> None:
    number, app, folder = sys.argv[1:]
    logs.setup("debug", "json")
    Forker(socket.socket(fileno=int(number)), load_app(app, folder), folder).serve()


if __name__ == "__main__":
    main()
