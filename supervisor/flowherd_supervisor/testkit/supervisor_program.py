"""`flowherd run` as a separate program that a test observes and disturbs."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx

from flowherd_supervisor.testkit.programs import (
    CEILING_S,
    Program,
    clean_environment,
    eventually,
    short_folder,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from flowherd_supervisor.testkit.engine_program import EngineProgram

DRAIN_S = 5.0  # drain time of a supervisor at the end of a test, before everything is killed


class SupervisorProgram:
    """A supervisor with its processes; it ends with `stop()` or its `with` block.

    Args:
        folder: its working directory, which gets its log; a settings file elsewhere is not read.
        app: `module:attr`.
        flags: flags of `flowherd run`, such as `-p`, `4`; without `--admin` only the unix socket is served.
        engine: the engine to poll; None leaves that to flags and environment.
        app_dir: folder of the app's module.
        runtime: a private folder for its sockets, with a short name; None creates one.
        env: variables to add to this process's own, from which those that configure flowherd are removed.
        tie: see `Program`.

    Attributes:
        program: the program.
        process: the supervisor's process.
        log_path: log of the supervisor and its processes, JSON lines.
        socket: its admin socket.

    """

    def __init__(
        self,
        folder: Path,
        app: str,
        *flags: str,
        engine: EngineProgram | None = None,
        app_dir: Path | None = None,
        env: Mapping[str, str] | None = None,
        runtime: Path | None = None,
        tie: Callable[[], None] | None = None,
    ) -> None:
        self.engine = engine
        self.log_path = folder / "log.jsonl"
        self._own_runtime = (
            tempfile.mkdtemp(prefix="flowherd-", dir=short_folder()) if runtime is None else None
        )
        self.runtime = Path(runtime or str(self._own_runtime))
        words = ["run", app, "--app-dir", str(app_dir or Path.cwd()), "--log-format", "json"]
        words += [] if "--admin" in flags else ["--admin", "off"]
        words += ["--api-url", engine.url] if engine is not None else []
        environment = clean_environment(XDG_RUNTIME_DIR=str(self.runtime), **(env or {}))
        self.program = Program(*words, *flags, env=environment, cwd=folder, log=self.log_path, tie=tie)
        self.process = self.program.process
        self.pid = self.process.pid
        self.socket = str(self.runtime / "flowherd" / f"{self.pid}.sock")
        self._killed: set[int] = set()
        self._frozen: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<SupervisorProgram pid {self.pid}, log {self.log_path}>"

    # Looking

    def status(self) -> dict[str, Any]:
        """Returns the status document; empty if there is no answer."""
        if not _is_listening(self.socket):
            return {}
        try:
            document: dict[str, Any] = self.ask("GET", "/api/status").json()
        except httpx.TransportError:
            return {}
        return document

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Sends a request to the admin socket."""
        transport = httpx.HTTPTransport(uds=self.socket, verify=False, trust_env=False)
        with httpx.Client(
            transport=transport, base_url="http://flowherd", timeout=5, trust_env=False
        ) as client:
            return client.request(method, path, **options)

    def children(self) -> dict[int, int]:
        """Returns the pids of the live worker processes by process number."""
        return {row["process"]: row["pid"] for row in self.status().get("children", [])}

    def wait_ready(self, within_s: float = CEILING_S) -> Self:
        """Waits until all processes are ready and those that `kill` has ended are replaced."""

        def look() -> bool:
            self.program.check()
            document = self.status()
            counts = document.get("processes", {"ready": 0, "wanted": 1})
            pids = {row["pid"] for row in document.get("children", [])}
            return 0 < counts["wanted"] <= counts["ready"] and not pids & self._killed

        eventually(look, f"all processes ready, see {self.log_path}", within_s)
        return self

    def log(self, event: str = "") -> list[dict[str, Any]]:
        """Returns the log's lines so far, or those of one event; a line that is not JSON is `{"raw": line}`."""
        lines = []
        for text in self.log_path.read_text(errors="replace").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                lines.append({"raw": text})
        return [line for line in lines if not event or line.get("event") == event]

    def wait_for_log(self, event: str, count: int = 1, within_s: float = CEILING_S) -> list[dict[str, Any]]:
        """Waits until the log has `count` lines of an event, and returns all of them."""

        def look() -> list[dict[str, Any]]:
            found = self.log(event)
            if len(found) < count:
                self.program.check()
            return found if len(found) >= count else []

        return eventually(look, f"{count} x {event} in {self.log_path}", within_s)

    # Work

    def submit(self, activity: str, count: int = 1, /, **options: Any) -> list[str]:
        """Queues workflows on the engine that it polls, see `EngineProgram.submit`."""
        assert self.engine is not None, "this supervisor was started without an engine program"
        return self.engine.submit(activity, count, **options)

    # Disturbing

    def kill(self, process: int) -> int:
        """Sends SIGKILL to worker process N and returns its pid once it has ended; see also `wait_ready`."""
        with self._held(process) as (pid, pidfd):
            self._killed.add(pid)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)
            assert ended.poll(CEILING_S * 1000), f"process {process} (pid {pid}) did not end"
        return pid

    def freeze(self, process: int) -> int:
        """Stops worker process N with SIGSTOP, as a debugger does; returns its pid once it is stopped."""
        with self._held(process) as (pid, pidfd):
            self._frozen.add(process)
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            eventually(lambda: _state_of(pid) in {"T", "Z", ""}, f"process {process} (pid {pid}) stopped")
        return pid

    def thaw(self, process: int) -> None:
        """Resumes a frozen process."""
        with self._held(process) as (_, pidfd):
            self._frozen.discard(process)
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the supervisor."""
        self.process.send_signal(number)

    @contextlib.contextmanager
    def _held(self, process: int) -> Iterator[tuple[int, int]]:
        """Yields pid and pidfd of process N, so that a signal cannot reach a reused pid (faults.md P11)."""
        pid = eventually(lambda: self.children().get(process), f"a process {process}")
        assert pid is not None
        pidfd = os.pidfd_open(pid)
        try:
            assert self.children().get(process) == pid, f"process {process} has just ended"
            yield pid, pidfd
        finally:
            os.close(pidfd)

    # Its end

    def wait(self, within_s: float = CEILING_S) -> int:
        """Waits until the supervisor ends and returns its exit code."""
        return self.process.wait(within_s)

    def tree(self) -> list[int]:
        """Returns the pids of its processes that still exist, by the log."""
        started = [*self.log("process_started"), *self.log("preload_started")]
        return sorted(pid for pid in {line["pid"] for line in started} if _state_of(pid) not in {"", "Z"})

    def stop(self) -> None:
        """Ends the supervisor and its processes: TERM, then KILL after `DRAIN_S` seconds."""
        if self.process.poll() is None:
            for process in list(self._frozen):
                with contextlib.suppress(AssertionError, OSError):  # replaced meanwhile
                    self.thaw(process)
            self.process.terminate()
        try:
            self.program.wait(DRAIN_S)
        finally:  # also if a Ctrl-C interrupts the wait
            if self.process.poll() is None:
                for pid in self.tree():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            self.program.kill()
        if self._own_runtime is not None:
            shutil.rmtree(self._own_runtime, ignore_errors=True)


def _state_of(pid: int) -> str:
    """Returns the state letter of a process from `/proc`, "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _is_listening(path: str) -> bool:
    """True if the socket accepts connections; httpx would leak a socket if it did not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as attempt:
        try:
            return attempt.connect_ex(path) == 0
        except OSError:  # a path that is too long
            return False
