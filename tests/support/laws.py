"""The project's laws as functions over one source file each; `test_laws.py` applies them to all files."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from layers import imports_lie_below

LONGEST_FILE, LONGEST_FUNCTION = 350, 50
SUPERVISOR, WORKER, ENGINE = (
    "supervisor/flowherd_supervisor/",
    "worker/flowherd/",
    "supervisor/flowherd_engine/",
)
EXAMPLES = "worker/examples/"  # apps of users: what rules our processes does not rule theirs

PROGRAMS = ("demo/", "bench/", "testkit/", "cli/dev.py", "cli/watch_files.py")  # they start programs
CLIENTS = (*PROGRAMS, "cli/", "keeper/")
FORKERS = ("processes/process_table.py", "processes/zygote.py", "processes/run_in_child.py")
WATCHED = (
    "background.py",
    "own_tasks.py",
    "client/fake_engine.py",  # reports to its caller
    "transport/dialing.py",  # checks the result of each of its attempts
    "isolates/inside/main.py",  # this and the next three: run or awaited where it is created
    "event_loop.py",
    "process/rehearsal.py",
    "worker/poller.py",
    "execution/lifespan.py",  # reports how it ended
    "execution/in_thread.py",  # its thread survives the work it runs
    "execution/on_loop.py",  # reports each handler's end to its run
)
PURE = (
    SUPERVISOR + "core/",
    *(f"{SUPERVISOR}advise/{name}.py" for name in ("placement", "capacity", "measurements")),
    *(
        f"{WORKER}{name}.py"
        for name in (
            "awake_clock",
            "backoff",
            "counted",
            "link/messages",
            "link/split_over_threads",
            "activities_and_outcomes",
        )
    ),
    WORKER + "isolates/isolate_protocol.py",
    WORKER + "leases/suspects.py",
)
PURE_NAMES = (
    "flowherd.exit_codes",
    "flowherd.wait_status",
    "flowherd.ledger.states_and_cells",
    *(path.split("/", 1)[1].removesuffix(".py").strip("/").replace("/", ".") for path in PURE),
)
LOOP = (
    "core/",
    "processes/",
    "shell/supervisor.py",
    "shell/inbox.py",
    "shell/signal_pipe.py",
    "shell/admin_socket.py",
    "shell/event_log.py",
    "shell/host_setup.py",
)


@dataclass(frozen=True)
class Source:
    """A Python file, by its path from the top of the repository."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def names(self) -> dict[str, int]:
        """Maps every imported or used dotted name to its first line: `import os` and `os.fork` both count."""
        found: dict[str, int] = {}
        local: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found.setdefault(alias.name, node.lineno)
                    local[alias.asname or alias.name.split(".")[0]] = (
                        alias.name if alias.asname else alias.name.split(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    found.setdefault(f"{node.module}.{alias.name}", node.lineno)
                    local[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        for node in ast.walk(self.tree):
            dotted = _dotted(node)
            if dotted is not None and dotted[0] in local:
                found.setdefault(".".join([local[dotted[0]], *dotted[1:]]), node.lineno)
        return found

    def within(self, root: str, *parts: str) -> bool:
        """True if the file is one of these files or in one of these folders of a source root."""
        inside = self.path.removeprefix(root)
        return self.path.startswith(root) and any(
            inside.startswith(part) if part.endswith("/") else inside == part for part in parts or ("",)
        )

    def using(self, *forbidden: str) -> Iterator[str]:
        """Yields a complaint for each use of a forbidden name, or of a name below it."""
        for name, line in self.names.items():
            if any(name == one or name.startswith(one + ".") for one in forbidden):
                yield f"{self.path}:{line}: {name}"


def _dotted(node: ast.AST) -> list[str] | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) and parts else None


Law = Callable[[Source], Iterator[str]]


def the_worker_knows_no_supervisor(source: Source) -> Iterator[str]:
    """Law 1."""
    if source.path.startswith(WORKER):
        yield from source.using("flowherd_supervisor")


def the_engine_is_a_package_of_its_own(source: Source) -> Iterator[str]:
    """Law 1: it imports nothing of flowherd; only its command and the testkit import it."""
    if source.path.startswith(ENGINE):
        yield from source.using("flowherd", "flowherd_supervisor")
    elif not source.within(SUPERVISOR, "cli/commands.py", "testkit/"):
        yield from source.using("flowherd_engine")


def is_pure(path: str) -> bool:
    """True if a file must be pure."""
    return path.startswith(PURE)


def core_is_pure(source: Source) -> Iterator[str]:
    """Law 2: time is the argument `now`, chance the argument `rng`."""
    if not is_pure(source.path):
        return
    yield from source.using(
        "os", "time", "signal", "socket", "random", "asyncio", "httpx",
        "threading", "subprocess", "datetime", "pathlib", "select", "selectors", "structlog", "logging",
    )  # fmt: skip
    for name, line in source.names.items():
        ours = name.startswith(("flowherd.", "flowherd_supervisor."))
        if ours and not name.startswith(PURE_NAMES):
            yield f"{source.path}:{line}: {name} is not pure"


TABLE = tuple(
    f"worker/{name}.py"
    for name in (
        "attempt",
        "attempt_table",
        "admission",
        "backlog",
        "next_step",
        "poll_batch_size",
        "poll_pace",
        "poll_policy",
        "poll_turns",
        "slots",
        "attempt_table_types",
        "time_limits",
    )
)


def the_table_of_attempts_is_pure(source: Source) -> Iterator[str]:
    """Law 2 for the worker: facts in, commands out; the time is the argument `now`."""
    if source.within(WORKER, *TABLE):
        yield from source.using(
            "os", "time", "signal", "socket", "random", "asyncio", "threading", "structlog", "logging",
            "flowherd.execution", "flowherd.client.kruxia", "flowherd.client.circuit", "flowherd.isolates",
            "flowherd.worker.attempt_coordinator",
            "flowherd.worker.perform_commands", "flowherd.worker.ledger_records", "flowherd.worker.poller",
            "flowherd.worker.reporter", "flowherd.background", "flowherd.worker.worker",
        )  # fmt: skip


_EVENTS = {
    "admit", "begin", "stop", "report", "overrun", "crash", "lose", "acknowledge", "settle", "end",
}  # fmt: skip


def one_file_moves_an_attempt(source: Source) -> Iterator[str]:
    """Law 9: its pair is assigned in `attempt.py`, by events that the table and its time limits alone bring about."""
    if source.within(WORKER, "worker/attempt.py"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr == "pair" and isinstance(node.ctx, ast.Store):
            yield f"{source.path}:{node.lineno}: pair"
        if (
            not source.within(WORKER, "worker/attempt_table.py", "worker/time_limits.py")
            and isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in _EVENTS
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "attempt"
        ):
            yield f"{source.path}:{node.lineno}: attempt.{node.func.attr}"


def one_file_forks_and_reaps(source: Source) -> Iterator[str]:
    """Law 3."""
    if not source.within(SUPERVISOR, *FORKERS):
        yield from source.using(
            "os.fork", "os.forkpty", "os.posix_spawn", "os.posix_spawnp", "os.system", "os.popen",
            "os.wait", "os.wait3", "os.wait4", "os.waitid", "os.waitpid", "os.execv", "os.execve", "pty",
        )  # fmt: skip
    if not source.within(SUPERVISOR, *PROGRAMS):
        yield from source.using(
            "subprocess", "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"
        )


def few_files_kill(source: Source) -> Iterator[str]:
    """Law 3: allowed to those that reap, the orphaned keeper, a crash point and an isolate, which kill themselves, and
    the testkit.

    `cli/watch_files.py` is a separate program and sends only HUP.
    """
    if source.within(WORKER, "crashpoints.py", "isolates/inside/worker_connection.py"):
        return
    if source.within(SUPERVISOR, *FORKERS, "keeper/orphans.py", "testkit/supervisor_program.py"):
        return
    yield from source.using("os.kill", "os.killpg")
    if not source.within(SUPERVISOR, "cli/watch_files.py"):
        yield from source.using("signal.pidfd_send_signal")


def few_files_touch_signals(source: Source) -> Iterator[str]:
    """Law 3; the engine and the demo are separate programs, not part of the process tree; isolates handle SIGTERM.

    The live view ends with its terminal even when its parent ignored SIGHUP. Isolates restore handlers that their
    activities have changed, and an orphaned keeper sets a timer that ends it whatever exceptions occur.
    """
    if source.within(
        SUPERVISOR, "shell/signal_pipe.py", "keeper/orphans.py", "cli/top.py", *PROGRAMS
    ) or source.within(
        WORKER,
        "process/worker_process.py",
        "process/standalone.py",
        "isolates/inside/worker_connection.py",
        "isolates/inside/leftovers.py",
    ):
        return
    if source.within(ENGINE, "serve.py"):
        return
    yield from source.using(
        "signal.signal", "signal.set_wakeup_fd", "signal.pthread_sigmask", "signal.siginterrupt",
        "signal.setitimer", "signal.alarm", "signal.sigwait", "signal.raise_signal",
    )  # fmt: skip
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr in {"add_signal_handler", "remove_signal_handler"}:
            yield f"{source.path}:{node.lineno}: {node.attr}"


def http_stays_at_the_edge(source: Source) -> Iterator[str]:
    """Law 3: only these files and the examples use HTTP."""
    if source.path.startswith(EXAMPLES) or source.within(
        WORKER,
        "client/kruxia.py",
        "client/bearer_tokens.py",
        "transport/transport.py",
        "transport/httpx_progress.py",
        "files/transfers.py",
        "leases/lease_scan.py",
        "leases/engine_watch.py",
    ):
        return
    if not source.within(SUPERVISOR, *CLIENTS):
        yield from source.using("httpx", "requests", "aiohttp", "http.client", "urllib.request", "urllib3")


def the_supervisor_has_no_loop_thread_or_client(source: Source) -> Iterator[str]:
    """Law 4: a process that forks must have no threads, and event loops start threads."""
    if not source.within(SUPERVISOR, *LOOP):
        return
    yield from source.using(
        "asyncio", "uvloop", "httpx", "httpcore", "uvicorn", "concurrent", "subprocess", "queue"
    )
    for complaint in source.using("threading"):
        if not complaint.endswith((": threading", ": threading.active_count")):
            yield complaint


def nothing_sleeps_deaf(source: Source) -> Iterator[str]:
    """Law 6: a wake-up must reach every wait; executors are our own."""
    yield from source.using("asyncio.to_thread", "asyncio.run_in_executor", "time.sleep")


def nothing_ends_unseen(source: Source) -> Iterator[str]:
    """N1: code elsewhere that starts a task or a thread awaits it at once or reports how it ended."""
    if source.within(WORKER, *WATCHED) or source.within(SUPERVISOR, *PROGRAMS, "keeper/event_stream.py"):
        return
    if source.within(ENGINE, "serve.py"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
            if name in {"create_task", "ensure_future", "Thread", "OwnTask", "separate_task"}:
                yield f"{source.path}:{node.lineno}: {name}"


def nothing_is_pickled_or_shared(source: Source) -> Iterator[str]:
    """Law 7, fault C24; the only file with record locks never waits for one, and the kernel frees them at exit."""
    yield from source.using(
        "pickle", "marshal", "shelve", "dill", "cloudpickle", "multiprocessing",
        "concurrent.futures.ProcessPoolExecutor", "concurrent.futures.process",
    )  # fmt: skip
    if not source.within(WORKER, "ledger/host_permits.py"):
        yield from source.using("fcntl.lockf")


def an_outcome_knows_no_delivery(source: Source) -> Iterator[str]:
    """Law 8: an undelivered success can never become a failure."""
    if source.within(
        WORKER,
        "worker/executor_choice.py",
        "execution/on_loop.py",
        "execution/invoke.py",
        "isolates/isolate_pool.py",
        "isolates/isolate.py",
        "isolates/isolated_attempt.py",
        "isolates/inside/main.py",
        "sdk/output.py",
        "sdk/error_texts.py",
        "activities_and_outcomes.py",
        "execution/in_thread.py",
    ):
        yield from source.using(
            "flowherd.worker.reporter",
            "flowherd.client.kruxia",
            "flowherd.transport.transport",
            "flowherd.leases.lease_scan",
        )
    if source.within(WORKER, "worker/reporter.py", "worker/delivery.py"):
        yield from source.using("flowherd.execution", "flowherd.execution.invoke", "flowherd.sdk.error_texts")


def files_and_functions_are_short(source: Source) -> Iterator[str]:
    """Law 5."""
    lines = source.text.count("\n")
    if lines > LONGEST_FILE:
        yield f"{source.path}: {lines} lines"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{source.path}:{node.lineno}: {node.name} has {length} lines"


def modules_say_what_they_are(source: Source) -> Iterator[str]:
    """Style: every module has a docstring."""
    if source.text.strip() and not ast.get_docstring(source.tree):
        yield f"{source.path}: no docstring"


_QUESTION = re.compile(r"(?:What|Whether|Who|One|Where|How)\b")


def docstrings_say_what_things_are(source: Source) -> Iterator[str]:
    """Style: a docstring begins with what a thing is or does, never with a question word."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if _QUESTION.match(text):
                yield f"{source.path}: {text.splitlines()[0]}"


def no_exception_is_swallowed(source: Source) -> Iterator[str]:
    """Style: suppress with a reason, or handle."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and all(isinstance(one, ast.Pass) for one in node.body):
            yield f"{source.path}:{node.lineno}: except: pass"


LAWS: tuple[Law, ...] = (
    imports_lie_below,
    the_worker_knows_no_supervisor,
    the_engine_is_a_package_of_its_own,
    core_is_pure,
    the_table_of_attempts_is_pure,
    one_file_moves_an_attempt,
    one_file_forks_and_reaps,
    few_files_kill,
    few_files_touch_signals,
    http_stays_at_the_edge,
    the_supervisor_has_no_loop_thread_or_client,
    nothing_sleeps_deaf,
    nothing_ends_unseen,
    nothing_is_pickled_or_shared,
    an_outcome_knows_no_delivery,
    files_and_functions_are_short,
    modules_say_what_they_are,
    docstrings_say_what_things_are,
    no_exception_is_swallowed,
)
