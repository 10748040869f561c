"""A contender's host in motion: its programs, restarted as systemd would, its sender, and the notes of its tasks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING

import psutil
from bench_kit import APPS, CREDENTIALS, tree
from brokers import started
from contenders import HERE
from harness import clean_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from contenders import Contender

EVENT = Struct("=cIId")  # as `apps/work.py` writes it
LOOK_EVERY_S = 0.02


class Hosted:
    """A contender that runs for as long as the stack lasts.

    Attributes:
        broker: its broker.
        sent, begun, ended: for each task's number when, on CLOCK_MONOTONIC, and in which process; one for each time.

    """

    def __init__(self, stack: ExitStack, contender: Contender, lease_s: float, path: str) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.contender = contender
        self.lease_s = lease_s
        self.broker = started(contender.broker, stack, folder, lease_s)
        self._events = stack.enter_context((folder / "events").open("w+b", buffering=0))
        self._said = stack.enter_context((folder / "said").open("w+b"))
        self._environment = clean_environment(
            PYTHONPATH=os.pathsep.join([path, str(HERE / "apps"), str(APPS)]),
            PYTHONWARNINGS="ignore",
            XDG_RUNTIME_DIR=str(folder),
            PEERS_URL=self.broker.url,
            PEERS_EVENTS=str(folder / "events"),
            PEERS_LEASE_S=str(lease_s),
            KRUXIAFLOW_API_URL=self.broker.url,
            KRUXIAFLOW_WORKER="py-std",
            **CREDENTIALS,
            **({"KRUXIAFLOW_WORKER_HEARTBEAT_INTERVAL": "1"} if lease_s else {}),
        )
        self._command = contender.command(lease_s)
        self._programs: list[subprocess.Popen[bytes]] = []
        self.sent: dict[int, list[tuple[float, int]]] = defaultdict(list)
        self.begun: dict[int, list[tuple[float, int]]] = defaultdict(list)
        self.ended: dict[int, list[tuple[float, int]]] = defaultdict(list)
        self._next = 0
        if contender.prepare:
            words = [sys.executable, *contender.prepare.split()]
            said = self._said
            subprocess.run(words, env=self._environment, cwd=folder, check=True, stdout=said, stderr=said)
        self._folder = folder
        stack.callback(self.kill)
        self._sender = self._open_sender(stack)
        self.start()

    def _open_sender(self, stack: ExitStack) -> subprocess.Popen[str]:
        app = self.contender.sender or self.contender.app
        sender = subprocess.Popen(
            [sys.executable, str(HERE / "apps" / "sender.py"), app],
            env=self._environment | {"PEERS_SENDER": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        stack.callback(sender.wait)
        stack.callback(sender.kill)
        assert sender.stdout is not None
        assert sender.stdout.readline() == "ready\n", self.last_words()
        return sender

    def start(self) -> None:
        """Starts its programs."""
        while len(self._programs) < self.contender.programs:
            self._programs.append(
                subprocess.Popen(
                    self._command,
                    env=self._environment,
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=self._said,
                    stderr=self._said,
                    start_new_session=True,
                )
            )

    def last_words(self) -> str:
        """The end of what its programs have said."""
        self._said.seek(max(0, os.fstat(self._said.fileno()).st_size - 600))
        return " ".join(self._said.read().decode(errors="replace").split())

    def send(self, name: str, count: int = 1, seconds: float = 0.0) -> range:
        """Sends tasks; returns their numbers when the broker has them."""
        numbers = range(self._next, self._next + count)
        self._next += count
        sender = self._sender
        assert sender.stdin is not None
        assert sender.stdout is not None
        sender.stdin.write(f"{name} {numbers.start} {count} {seconds}\n")
        sender.stdin.flush()
        assert sender.stdout.readline() == "sent\n", self.last_words()
        return numbers

    def look(self) -> None:
        """Reads the notes since the last look."""
        known = {b"s": self.sent, b"b": self.begun, b"e": self.ended}
        data = self._events.read()
        whole = len(data) - len(data) % EVENT.size
        self._events.seek(whole - len(data), os.SEEK_CUR)
        for what, number, pid, at_s in EVENT.iter_unpack(data[:whole]):
            known[what][number].append((at_s, pid))

    def comes(self, what: Callable[[], object], within_s: float, *, restarts: bool = True) -> bool:
        """Waits until it is true; meanwhile a program that ends is started again, as systemd would."""
        give_up_at = time.monotonic() + within_s
        while True:
            self.look()
            if what():
                return True
            if time.monotonic() > give_up_at:
                return False
            if restarts:
                self._programs = [one for one in self._programs if one.poll() is None]
                self.start()
            threading.Event().wait(LOOK_EVERY_S)

    def must_come(self, what: Callable[[], object], name: str, within_s: float = 60.0) -> None:
        """Waits until it is true; AssertionError with the last words of the programs when it never is."""
        assert self.comes(what, within_s), f"{name}: not within {within_s:g} s: {self.last_words()}"

    def ready(self) -> None:
        """Waits until two processes have worked: one could take a few tasks alone, but not ever more."""
        pids: set[int] = set()
        for count in (4, 8, 16, 32, 64, 128):
            numbers = self.send("wait", count, 0.2)
            self.must_come(lambda numbers=numbers: all(self.ended[one] for one in numbers), "the first tasks")
            pids.update(pid for number in numbers for _, pid in self.ended[number])
            if len(pids) >= 2:
                return
        raise AssertionError(f"one process does all the work: {self.last_words()}")

    def processes(self) -> list[psutil.Process]:
        """Its living processes."""
        found = []
        for program in self._programs:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += tree(psutil.Process(program.pid))
        return found

    def cpu_s(self) -> float:
        """CPU seconds of its living processes, and of those that these have reaped."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                times = process.cpu_times()
                total += time.clock_gettime(~process.pid << 3 | 2)  # in nanoseconds, see bench_kit.cpu_s
                total += times.children_user + times.children_system
        return total

    def pss_mb(self) -> float:
        """Memory of all its processes, what they share counted once."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
        return total / 1e6

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing of it runs meanwhile."""
        stopped = self.processes()
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in reversed(stopped):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def terminate(self, within_s: float) -> float:
        """Sends SIGTERM to its programs; seconds until all its processes are gone, or `within_s`."""
        processes, begun_at = self.processes(), time.monotonic()
        for program in self._programs:
            program.send_signal(signal.SIGTERM)

        def gone() -> bool:
            over = [one.poll() is not None for one in self._programs]
            return all(over) and not any(process.is_running() for process in processes)

        self.comes(gone, within_s, restarts=False)
        took_s = time.monotonic() - begun_at
        self.kill()
        return took_s

    def kill(self) -> None:
        """Kills what is left of it, also what its programs have left behind."""
        for program in self._programs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
        self._programs = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                is_ours = process.environ().get("PEERS_EVENTS") == self._environment["PEERS_EVENTS"]
                if is_ours and process.pid != self._sender.pid:
                    process.kill()
