"""Isolates for tests: a program that forks them as the supervisor does, and a runner that uses it.

pytest has threads, which a forking process must not have, so the forker is a separate process. Its arguments are the
descriptors of its end of a socket and of the ledger's memory, the app and the app's folder; links to workers arrive
through the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from runner_kit import Runner

from flowherd import logs
from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.load_app import LoadedApp, load_app
from flowherd.execution.run_environment import RunEnvironment
from flowherd.isolates.inside import main as isolate
from flowherd.isolates.isolate import IsolateRules
from flowherd.isolates.isolate_pool import Isolates
from flowherd.ledger import Ledger, Life
from flowherd.link.link import Link, LinkClosed
from flowherd.link.messages import (
    IsolateEnded,
    IsolateStarted,
    KillIsolate,
    NeedIsolate,
    decode_downward,
    decode_upward,
)
from flowherd.process.load_app_or_report import load
from flowherd.process.worker_process import ignore_signals
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import make_activity
from flowherd.wait_status import OURS
from flowherd_supervisor.processes.process_table import is_exiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from runner_kit import Run

    from flowherd.activities_and_outcomes import Outcome

FOLDER = Path(__file__).parent
APP = "isolate_app:registry"
CEILING_S = 20.0
RECORDS = 1024
_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class Fork:
    """A running forker: its socket, the memory that its isolates share with these tests, and its log."""

    control: socket.socket
    ledger: Ledger
    log: ForkLog


class ForkLog:
    """The stderr of the forker and its isolates; each line becomes a log record in this process."""

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe()
        self._read = threading.Condition()
        self._marks = self._seen = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def writer(self) -> int:
        return self._writer

    def _run(self) -> None:
        with os.fdopen(self.fd, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("mark "):
                    with self._read:
                        self._seen = int(line[5:])
                        self._read.notify_all()
                else:
                    self._log(line)

    def _log(self, line: str) -> None:
        try:
            fields = json.loads(line)
        except ValueError:
            sys.stderr.write(line)
            return
        name, event = fields.pop("logger", "structlog"), fields.pop("event")
        level = logging.getLevelName(fields.pop("level").upper())
        for ours, theirs in (("process", "worker_process"), ("name", "activity_name")):
            fields[theirs] = fields.pop(ours, None)  # names that a record already uses
        logger = logging.getLogger(name)
        if logger.isEnabledFor(level):
            logger.handle(logger.makeRecord(name, level, "", 0, event, (), None, extra=fields))

    def catch_up(self) -> None:
        """Waits until everything logged so far has arrived here."""
        with self._read:
            self._marks += 1
            os.write(self._writer, f"mark {self._marks}\n".encode())
            assert self._read.wait_for(lambda: self._seen >= self._marks, CEILING_S)

    def close(self) -> None:
        os.close(self._writer)
        self._thread.join(CEILING_S)


def ledger_in(memory: int) -> Ledger:
    return Ledger(processes=1, records=RECORDS, memory=memory)


class Family:
    """The isolates of one worker, by pid."""

    def __init__(
        self, link: Link, env: dict[str, str], settings: dict[str, Any], activities: dict[str, Any]
    ) -> None:
        self.link = link
        self.env = env
        self.settings = settings
        self.activities = activities
        self.keys: dict[int, int] = {}
        self.killed: set[int] = set()

    def kill(self, key: int) -> None:
        for pid, held in self.keys.items():
            if held == key:
                if not is_exiting(pid):
                    self.killed.add(key)
                os.killpg(pid, signal.SIGKILL)


class Forker:
    """Plays the supervisor for any number of workers: forks, kills and reaps."""

    def __init__(self, control: socket.socket, ledger: Ledger, app: LoadedApp, app_dir: str) -> None:
        self.control = control
        self.ledger = ledger
        self.app = app
        self.app_dir = app_dir
        self.families: list[Family] = []
        self.wake, wake = os.pipe()
        for end in (self.wake, wake):
            os.set_blocking(end, False)
        for number in (signal.SIGCHLD, signal.SIGCONT):  # as the supervisor does
            signal.signal(number, lambda *_: None)
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
                self.families.append(Family(Link(socket.socket(fileno=fds[0])), **json.loads(data)))

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                (family,) = [one for one in self.families if pid in one.keys]
                key = family.keys.pop(pid)
                if key in family.killed and status & 0x7F == signal.SIGKILL:
                    status |= OURS
                with contextlib.suppress(LinkClosed):
                    family.link.send(IsolateEnded(key, status))

    def heed(self, family: Family, data: bytes, fds: list[int]) -> None:
        match decode_upward(data):
            case NeedIsolate(key):
                self.fork(family, key, fds)
            case KillIsolate(key):
                family.kill(key)

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
                code = isolate.main(self.setup(family), *fds)
            finally:
                os._exit(code)
        with contextlib.suppress(OSError):  # the isolate may have done so itself
            os.setpgid(pid, pid)
        for fd in fds:
            os.close(fd)
        family.keys[pid] = key
        family.link.send(IsolateStarted(key, pid))

    def setup(self, family: Family) -> isolate.IsolateSetup:
        return isolate.IsolateSetup(
            load=partial(load, self.app.name, self.app_dir, None, family.activities),
            config=WorkerConfig(worker_id="t", secret_names=("pin_code",), **family.settings),
            index=3,
            processes=4,
            ledger=self.ledger,
        )

    def end(self, family: Family) -> None:
        """Ends a worker's isolates: those that have not ended by themselves are killed."""
        for pid in family.keys:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.families.remove(family)
        family.link.close()


class Workplace:
    """A runner with isolates, made by a forker."""

    def __init__(
        self,
        fork: Fork,
        link: Link,
        app: LoadedApp,
        environment: RunEnvironment,
        config: WorkerConfig,
        activities: dict[str, Any],
        **rules: Any,
    ) -> None:
        self.link = link
        self.ledger = fork.ledger
        self.log = fork.log
        segment = fork.ledger.segments[0]
        if segment.life is Life.FREE:
            segment.open(index=0, incarnation=1, now=0.0)
        page, end = segment.offset + segment.layout.usage, segment.offset + segment.layout.work
        segment.map[page:end] = bytes(end - page)  # the attempts of all tests have the same numbers
        self.pids: dict[int, int] = {}
        self.statuses: dict[int, int] = {}
        self.isolates = Isolates(link, count(1), IsolateRules(**rules), config.concurrency, segment)
        registry = app.for_type("py-std").configured(activities)
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
        self.log.catch_up()
        return outcome

    async def until(self, look: Any) -> None:
        """Waits for a condition that an isolate or the forker makes true."""
        async with asyncio.timeout(CEILING_S):
            while not look():  # noqa: ASYNC110 - another process changes it
                await asyncio.sleep(0.005)  # interval between checks, bounded by the ceiling above


@contextlib.contextmanager
def running_forker(app: str = APP, folder: Path = FOLDER) -> Iterator[Fork]:
    """A forker in a separate process; at the end of the block its isolates end first."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    memory = os.memfd_create("ledger")
    os.ftruncate(memory, _MEMORY_BYTES)
    words = [sys.executable, str(Path(__file__)), str(theirs.fileno()), str(memory), app, str(folder)]
    log = ForkLog()
    with TemporaryFile() as file:  # as that of a host whose output goes to a file
        program = subprocess.Popen(
            words,
            pass_fds=[theirs.fileno(), memory],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=log.writer,
        )
    theirs.close()
    try:
        yield Fork(ours, ledger_in(memory), log)
    finally:
        ours.close()
        os.close(memory)
        log.close()
        assert program.wait(CEILING_S) == 0


@contextlib.asynccontextmanager
async def workplace(
    forker: Fork,
    environment: RunEnvironment | None = None,
    *,
    env: dict[str, str] | None = None,
    app: str = APP,
    folder: Path = FOLDER,
    **settings: Any,
) -> AsyncIterator[Workplace]:
    """A runner with real isolates, which end with the block.

    `url` and `client_id` are settings of the isolates only: the runner itself has no engine.
    """
    rules = {n: settings.pop(n) for n in ("max_tasks", "secrets", "token_refused") if n in settings}
    own = {
        "api_url": settings.pop("url", "http://127.0.0.1:1"),
        "client_id": settings.pop("client_id", None),
        "client_secret": settings.pop("client_secret", None),
    }
    link, theirs = Link.pair()
    activities = settings.pop("activities", {})
    words = json.dumps({"env": env or {}, "settings": own, "activities": activities}).encode()
    socket.send_fds(forker.control, [words], [theirs.fileno()])
    theirs.close()
    config = WorkerConfig(worker_id="t", **{"concurrency": 4, "cancel_grace_s": 5.0, **settings})
    seen = replace(environment or RunEnvironment(), process_index=3)
    place = Workplace(forker, link, load_app(app, folder), seen, config, activities, **rules)
    try:
        yield place
    finally:
        place.isolates.close()
        asyncio.get_running_loop().remove_reader(link.fileno())
        link.close()


def named(*args: Any, **kwargs: Any) -> logging.LogRecord:
    """Formats a record with the name of its logger."""
    record = logging.LogRecord(*args, **kwargs)
    record.logger = record.name
    return record


def main() -> None:
    number, memory, app, folder = sys.argv[1:]
    logs.setup("debug", "json")
    logs.MAX_LINE_BYTES = 1 << 20  # since tests compare whole records
    logging.setLogRecordFactory(named)
    ledger = ledger_in(int(memory))
    Forker(socket.socket(fileno=int(number)), ledger, load_app(app, folder), folder).serve()


if __name__ == "__main__":
    main()
