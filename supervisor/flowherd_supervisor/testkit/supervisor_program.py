"""A `flowherd run` as a program of its own, watched and disturbed by a test; it asserts no outcome."""

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

DRAIN_S = 5.0  # what a supervisor that is stopped at a test's end gets before everything is killed


class SupervisorProgram:
    """A supervisor with its processes; it ends with `stop()` or its `with` block.

    Args:
        folder: its working directory, where its log goes; no settings file of yours is read from another.
        app: `module:attr`.
        flags: of `flowherd run`, such as `-p`, `4`; without `--admin` only the unix socket is served.
        engine: where it polls; None leaves that to flags and environment.
        app_dir: where the app's module is.
        runtime: a private folder for its sockets, with a short name; None makes one.
        env: variables besides this process's own, without those that configure flowherd.
        tie: see `Program`.

    Attributes:
        program: the program.
        process: its process, the supervisor itself.
        log_path: what it and its processes wrote, JSON lines.
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
        """The status document; empty until the host answers."""
        if not _is_listening(self.socket):
            return {}
        try:
            document: dict[str, Any] = self.ask("GET", "/api/status").json()
        except httpx.TransportError:
            return {}
        return document

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A request to the admin socket."""
        transport = httpx.HTTPTransport(uds=self.socket, verify=False, trust_env=False)
        with httpx.Client(
            transport=transport, base_url="http://flowherd", timeout=5, trust_env=False
        ) as client:
            return client.request(method, path, **options)

    def children(self) -> dict[int, int]:
        """Pids of the live worker processes, by their number."""
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
        """The log so far, or its lines about one event; lines that are no JSON are under `raw`."""
        lines = []
        for text in self.log_path.read_text(errors="replace").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                lines.append({"raw": text})
        return [line for line in lines if not event or line.get("event") == event]

    def wait_for_log(self, event: str, count: int = 1, within_s: float = CEILING_S) -> list[dict[str, Any]]:
        """Waits until the log has `count` lines about an event, and returns them."""

        def look() -> list[dict[str, Any]]:
            found = self.log(event)
            if len(found) < count:
                self.program.check()
            return found if len(found) >= count else []

        return eventually(look, f"{count} x {event} in {self.log_path}", within_s)

    # Work

    def submit(self, activity: str, count: int = 1, /, **options: Any) -> list[str]:
        """`EngineProgram.submit` of the engine it polls."""
        assert self.engine is not None, "this supervisor was started without an engine program"
        return self.engine.submit(activity, count, **options)

    # Disturbing

    def kill(self, process: int) -> int:
        """SIGKILLs worker process N and returns its pid once it has ended; `wait_ready` waits for the next one."""
        with self._held(process) as (pid, pidfd):
            self._killed.add(pid)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)
            assert ended.poll(CEILING_S * 1000), f"process {process} (pid {pid}) did not end"
        return pid

    def freeze(self, process: int) -> int:
        """Stops worker process N where it stands, as a debugger does; returns its pid once nothing of it moves."""
        with self._held(process) as (pid, pidfd):
            self._frozen.add(process)
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            eventually(lambda: _state_of(pid) in {"T", "Z", ""}, f"process {process} (pid {pid}) stopped")
        return pid

    def thaw(self, process: int) -> None:
        """Lets a frozen process go on."""
        with self._held(process) as (_, pidfd):
            self._frozen.discard(process)
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the supervisor."""
        self.process.send_signal(number)

    @contextlib.contextmanager
    def _held(self, process: int) -> Iterator[tuple[int, int]]:
        """Pid of process N and a descriptor of it, so that no signal can reach a stranger (faults.md P11)."""
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
        """Waits for the supervisor's end and returns its exit code."""
        return self.process.wait(within_s)

    def tree(self) -> list[int]:
        """The pids of all processes it has ever started that still exist."""
        started = [*self.log("process_started"), *self.log("preload_started")]
        return sorted(pid for pid in {line["pid"] for line in started} if _state_of(pid) not in {"", "Z"})

    def stop(self) -> None:
        """Ends whatever is left: drains for a moment, then kills."""
        if self.process.poll() is None:
            for process in list(self._frozen):
                with contextlib.suppress(AssertionError, OSError):  # replaced meanwhile
                    self.thaw(process)
            self.process.terminate()
        try:
            self.program.wait(DRAIN_S)
        finally:  # also when a Ctrl-C breaks the wait
            if self.process.poll() is None:
                for pid in self.tree():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            self.program.kill()
        if self._own_runtime is not None:
            shutil.rmtree(self._own_runtime, ignore_errors=True)


def _state_of(pid: int) -> str:
    """The kernel's letter for what a process does, "" when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _is_listening(path: str) -> bool:
    """True if a program accepts connections there; httpx would leave its socket open if none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as attempt:
        try:
            return attempt.connect_ex(path) == 0
        except OSError:  # a path that is too long
            return False
