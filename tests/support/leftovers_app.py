"""Activities that leave something behind in their isolate, and one that reports what it finds there."""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import contextvars
import faulthandler
import gc
import io
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from flowherd import Registry

registry = Registry()
isolated = registry.activity(offload="process")
kept: list[Any] = []
handed = concurrent.futures.ThreadPoolExecutor
customer = contextvars.ContextVar("customer", default="nobody")


def chatter(pause_s: float = 0.0002) -> None:
    """Prints about 5,000 lines a second without end, even if stdout is replaced."""
    while True:
        print("leftover")
        time.sleep(pause_s)


def thread_that_prints() -> None:
    threading.Thread(target=chatter, daemon=True).start()


def thread_that_prints_now_and_then() -> None:
    threading.Thread(target=chatter, args=(0.005,), daemon=True).start()


def thread_that_computes() -> None:
    def compute() -> None:
        while True:
            pass

    threading.Thread(target=compute, daemon=True).start()


def unlisted_thread_that_prints() -> None:
    """Starts a thread that `threading` does not list."""
    has_begun = threading.Event()

    def begin() -> None:
        has_begun.set()
        chatter(0.005)

    _thread.start_new_thread(begin, ())
    has_begun.wait()


def executor_that_prints() -> None:
    kept.append(pool := handed())
    pool.submit(chatter)


def program_that_prints() -> None:
    kept.append(subprocess.Popen(["sh", "-c", "while :; do echo leftover; done"]))


def program_in_the_background() -> None:
    """Starts a program through a shell that ends at once, so that the program is not a child of this process."""
    subprocess.run(["sh", "-c", "while :; do echo leftover; sleep 0.02; done &"], check=True)


def many_programs_in_the_background() -> None:
    words = "import os\nfor _ in range(150):\n    if not os.fork():\n        os._exit(0)"
    subprocess.run([sys.executable, "-c", words], check=True)


def stdout_closed() -> None:
    sys.stdout.write("half a line")
    os.close(1)


def stderr_closed() -> None:
    os.close(2)


def stdout_redirected() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def stderr_redirected() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def stdin_replaced() -> None:
    os.dup2(os.pipe()[0], 0)


def stdout_that_does_not_block() -> None:
    os.set_blocking(1, False)


def sys_stdout_closed() -> None:
    sys.stdout.close()


def sys_stdout_replaced() -> None:
    sys.stdout = sys.stderr = io.StringIO()


def alarm() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.15)


def alarm_again_and_again() -> None:
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(1))
    signal.setitimer(signal.ITIMER_REAL, 0.15, 0.1)


def cpu_alarm() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0.03)


def signal_handlers() -> None:
    for number in (signal.SIGUSR2, signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def signal_mask() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})


def folder() -> None:
    os.chdir("/")


def umask() -> None:
    os.umask(0o077)


def environment() -> None:
    os.environ["LEFT"] = "over"
    os.environ["HOME"] = "/nowhere"
    os.environ.pop("PATH", None)


def limits() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def context_variable() -> None:
    customer.set("ours")


def event_loop_closed() -> None:
    """Closes the event loop, as old programs do, although it is not theirs."""
    loop = asyncio.get_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def event_loop_taken_away() -> None:
    asyncio.run(asyncio.sleep(0))


def task_factory() -> None:
    """Installs a task factory that fails."""
    asyncio.get_event_loop().set_task_factory(lambda _loop, coro, **_: coro.close())


def recursion_limit() -> None:
    sys.setrecursionlimit(5000)


def user() -> None:
    """Changes the user permanently, as a program does to drop privileges."""
    if not os.getuid():
        os.setresuid(65534, 65534, 65534)


def priority() -> None:
    os.nice(3)


def watchdog() -> None:
    """Starts a thread without Python code that ends the process."""
    faulthandler.dump_traceback_later(0.15, exit=True, file=open(os.devnull, "w"))  # noqa: SIM115


def no_garbage_collection() -> None:
    gc.disable()


LEFTOVERS = {
    leave.__name__: leave
    for leave in (
        thread_that_prints, thread_that_prints_now_and_then, thread_that_computes,
        executor_that_prints, program_that_prints,
        stdout_closed, stderr_closed, stdout_redirected, stderr_redirected, stdin_replaced,
        stdout_that_does_not_block, sys_stdout_closed, sys_stdout_replaced,
        alarm, alarm_again_and_again, cpu_alarm, signal_handlers, signal_mask,
        folder, umask, environment, limits, program_in_the_background, context_variable, event_loop_closed,
        event_loop_taken_away, priority, watchdog, no_garbage_collection,
        many_programs_in_the_background, unlisted_thread_that_prints, task_factory, recursion_limit, user,
    )
}  # fmt: skip


@isolated
def leave(kind: str) -> dict[str, int]:
    LEFTOVERS[kind]()
    return {"pid": os.getpid()}


@isolated
async def leave_a_task() -> dict[str, int]:
    async def chat() -> None:
        while True:
            print("leftover")
            await asyncio.sleep(0.0002)

    kept.append(asyncio.create_task(chat()))
    return {"pid": os.getpid()}


@isolated
async def use_threads() -> dict[str, int]:
    """Leaves idle threads, as many libraries do, and a task that is about to end."""
    kept.append(asyncio.create_task(asyncio.sleep(60)))
    kept[-1].cancel()
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0)
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return {"pid": os.getpid()}


@isolated
def look(seconds: float) -> dict[str, Any]:
    """Returns what an activity finds after a while, a fourth of which it computes."""
    until = time.process_time() + seconds / 4
    while time.process_time() < until:
        pass
    time.sleep(seconds)
    print("printed")
    print("warned", file=sys.stderr)
    os.umask(mask := os.umask(0))
    return {
        "fds": [os.fstat(fd).st_mode >> 12 for fd in (0, 1, 2)],
        "blocking": [os.get_blocking(fd) for fd in (0, 1, 2)],
        "folder": os.getcwd(),
        "umask": mask,
        "environment": sorted(os.environ.items()),
        "handlers": [str(signal.getsignal(number)) for number in (signal.SIGUSR2, signal.SIGCHLD)],
        "ignores SIGTERM": signal.getsignal(signal.SIGTERM) == signal.SIG_IGN,
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "limit": resource.getrlimit(resource.RLIMIT_FSIZE)[0],
        "customer": customer.get(),
        "event loop": asyncio.get_event_loop().run_until_complete(asyncio.sleep(0, "runs")),
        "user": os.getresuid(),
        "recursion": sys.getrecursionlimit(),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "collects garbage": gc.isenabled(),
        "pid": os.getpid(),
    }


@isolated
def write_with_a_limit(size: int) -> dict[str, str]:
    """What it returns is larger than the files that it may write."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    return {"text": "x" * size}
