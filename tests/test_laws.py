"""Every source file keeps the project's laws, and each law finds its breach."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import laws
import pytest
from laws import LAWS, Law, Source
from layers import LAYERS, circles

TOP = Path(__file__).resolve().parent.parent
ALLOWED_AT_THE_TOP = {
    "pyproject.toml",
    "supervisor",
    "worker",
    "tests",
    "deploy",
    "README.md",
    "LICENSE",
    "uv.lock",
}
S, W, E = laws.SUPERVISOR, laws.WORKER, laws.ENGINE


def sources() -> list[Source]:
    files = [path for root in ("worker", "supervisor") for path in sorted((TOP / root).rglob("*.py"))]
    return [Source(str(path.relative_to(TOP)), path.read_text(encoding="utf-8")) for path in files]


SOURCES = sources()


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_every_source_file_keeps_the_law(law: Law) -> None:
    """Each law is a test, not a wish."""
    assert len(SOURCES) > 50
    assert [complaint for source in SOURCES for complaint in law(source)] == []


def test_no_modules_import_each_other_when_they_run() -> None:
    """Law 1: a reader of one would have to read both."""
    assert circles(SOURCES) == []
    first = Source(W + "sdk/x.py", "from flowherd.sdk import y")
    second = Source(W + "sdk/y.py", "def f():\n    import flowherd.sdk.x")
    assert circles([first, second]) == [["flowherd.sdk.x", "flowherd.sdk.y", "flowherd.sdk.x"]]


def test_every_folder_has_its_layer() -> None:
    for root, package in ((W, "flowherd"), (S, "flowherd_supervisor"), (E, "flowherd_engine")):
        folders = {path.name for path in (TOP / root).iterdir() if path.is_dir() and list(path.glob("*.py"))}
        assert folders == set(LAYERS[package])


BROKEN: list[tuple[Law, str, str]] = [
    (laws.imports_lie_below, W + "sdk/x.py", "def f():\n    from flowherd.worker import table"),
    (laws.imports_lie_below, W + "errors.py", "import flowherd.sdk.context"),
    (laws.imports_lie_below, S + "keeper/x.py", "from flowherd_supervisor.shell import inbox"),
    (
        laws.the_worker_knows_no_supervisor,
        W + "process/worker_process.py",
        "from flowherd_supervisor.core import events",
    ),
    (laws.the_worker_knows_no_supervisor, W + "process/worker_process.py", "import flowherd_supervisor"),
    (laws.the_engine_is_a_package_of_its_own, E + "queue.py", "from flowherd.errors import LeaseLost"),
    (laws.the_engine_is_a_package_of_its_own, E + "queue.py", "import flowherd_supervisor.core"),
    (
        laws.the_engine_is_a_package_of_its_own,
        S + "cli/dev.py",
        "from flowherd_engine.serve import serve",
    ),
    (laws.the_engine_is_a_package_of_its_own, W + "testing.py", "import flowherd_engine"),
    (laws.core_is_pure, S + "core/x.py", "import time"),
    (laws.core_is_pure, W + "awake_clock.py", "def f():\n    from random import random"),
    (laws.core_is_pure, W + "awake_clock.py", "from flowherd.link.link import Link"),
    (laws.core_is_pure, S + "core/x.py", "from asyncio import sleep as nap"),
    (laws.the_table_of_attempts_is_pure, W + "worker/attempt_table.py", "from time import monotonic"),
    (laws.the_table_of_attempts_is_pure, W + "worker/backlog.py", "import asyncio"),
    (laws.one_file_moves_an_attempt, W + "worker/worker.py", "attempt.pair = 3"),
    (laws.one_file_moves_an_attempt, W + "execution/on_loop.py", "attempt.begin(1.0)"),
    (laws.one_file_forks_and_reaps, S + "shell/supervisor.py", "import os\nos.fork()"),
    (laws.one_file_forks_and_reaps, S + "keeper/keeper_process.py", "from os import waitpid"),
    (laws.one_file_forks_and_reaps, W + "execution/in_thread.py", "import subprocess as s"),
    (laws.few_files_kill, S + "shell/supervisor.py", "import os as o\no.kill(1, 9)"),
    (laws.few_files_kill, W + "execution/in_thread.py", "import signal\nsignal.pidfd_send_signal(3, 9)"),
    (laws.few_files_kill, S + "keeper/keeper_process.py", "import os\nos.killpg(1, 9)"),
    (laws.few_files_kill, S + "keeper/keeper_process.py", "import signal\nsignal.pidfd_send_signal(3, 9)"),
    (laws.few_files_kill, S + "testkit/engine_program.py", "import os\nos.kill(1, 9)"),
    (laws.few_files_touch_signals, S + "shell/supervisor.py", "import signal\nsignal.signal(2, print)"),
    (laws.few_files_touch_signals, W + "worker/worker.py", "loop.add_signal_handler(2, print)"),
    (laws.http_stays_at_the_edge, W + "worker/poller.py", "import httpx"),
    (laws.http_stays_at_the_edge, S + "shell/supervisor.py", "from urllib.request import urlopen"),
    (laws.the_supervisor_has_no_loop_thread_or_client, S + "shell/supervisor.py", "import asyncio"),
    (
        laws.the_supervisor_has_no_loop_thread_or_client,
        S + "shell/inbox.py",
        "import threading\nthreading.Thread()",
    ),
    (laws.the_supervisor_has_no_loop_thread_or_client, S + "core/x.py", "from threading import Thread"),
    (laws.the_supervisor_has_no_loop_thread_or_client, S + "processes/zygote.py", "import httpx"),
    (laws.nothing_sleeps_deaf, W + "worker/poller.py", "import time\ntime.sleep(1)"),
    (laws.nothing_sleeps_deaf, W + "execution/in_thread.py", "from asyncio import to_thread"),
    (laws.nothing_ends_unseen, S + "keeper/keeper_process.py", "loop.create_task(work())"),
    (laws.nothing_ends_unseen, W + "leases/heartbeats.py", "OwnTask(work())"),
    (
        laws.nothing_ends_unseen,
        W + "leases/lease_scan.py",
        "from asyncio import create_task\ncreate_task(work())",
    ),
    (
        laws.nothing_ends_unseen,
        W + "process/supervisor_commands.py",
        "from threading import Thread\nThread().start()",
    ),
    (laws.nothing_is_pickled_or_shared, W + "execution/in_thread.py", "import pickle"),
    (laws.nothing_is_pickled_or_shared, S + "processes/zygote.py", "from multiprocessing import Queue"),
    (laws.nothing_is_pickled_or_shared, W + "ledger/wakeups.py", "from fcntl import lockf"),
    (laws.nothing_is_pickled_or_shared, W + "x.py", "from concurrent.futures import ProcessPoolExecutor"),
    (
        laws.an_outcome_knows_no_delivery,
        W + "worker/executor_choice.py",
        "from flowherd.worker.reporter import Reporter",
    ),
    (laws.an_outcome_knows_no_delivery, W + "worker/reporter.py", "from flowherd.execution import invoke"),
    (laws.files_and_functions_are_short, W + "x.py", "\n" * 351),
    (laws.files_and_functions_are_short, W + "x.py", "async def f():\n" + "    x = 1\n" * 50),
    (laws.modules_say_what_they_are, W + "x.py", "import os"),
    (laws.docstrings_say_what_things_are, W + "x.py", '"""What it is."""'),
    (laws.docstrings_say_what_things_are, S + "core/x.py", 'def f():\n    """Whether it is."""'),
    (laws.docstrings_say_what_things_are, E + "x.py", 'class X:\n    """One of them."""'),
    (laws.no_exception_is_swallowed, W + "x.py", "try:\n    f()\nexcept OSError:\n    pass"),
]


@pytest.mark.parametrize(("law", "path", "text"), BROKEN)
def test_a_breach_of_the_law_is_found(law: Law, path: str, text: str) -> None:
    """A check that cannot fail proves nothing."""
    assert list(law(Source(path, text)))


def test_every_law_has_been_broken_once() -> None:
    """Every law has an example of a breach above."""
    assert {law for law, _, _ in BROKEN} == set(LAWS)


KEPT: list[tuple[Law, str, str]] = [
    (laws.the_worker_knows_no_supervisor, S + "cli/main.py", "import flowherd_supervisor"),
    (laws.core_is_pure, S + "core/x.py", "import math\nfrom flowherd.exit_codes import Exit"),
    (laws.one_file_forks_and_reaps, S + "processes/process_table.py", "import os\nos.fork()"),
    (laws.few_files_kill, S + "keeper/orphans.py", "import signal\nsignal.pidfd_send_signal(3, 9)"),
    (laws.few_files_touch_signals, W + "wait_status.py", "import signal\nsignal.Signals(9).name"),
    (laws.http_stays_at_the_edge, W + "client/kruxia.py", "import httpx"),
    (laws.http_stays_at_the_edge, laws.EXAMPLES + "crawler/crawler.py", "import httpx"),
    (
        laws.the_supervisor_has_no_loop_thread_or_client,
        S + "processes/process_table.py",
        "import threading\nthreading.active_count()",
    ),
    (laws.files_and_functions_are_short, W + "x.py", "def f():\n" + "    x = 1\n" * 49),
    (laws.docstrings_say_what_things_are, W + "x.py", '"""Whatever it is, once, as one."""'),
]


@pytest.mark.parametrize(("law", "path", "text"), KEPT)
def test_what_the_law_allows_is_not_complained_of(law: Law, path: str, text: str) -> None:
    """A law with false alarms would be switched off."""
    assert list(law(Source(path, text))) == []


def test_the_top_level_holds_what_was_agreed_and_nothing_else() -> None:
    """Four folders, three files, and dot-files."""
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=TOP, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    assert {path.split("/")[0] for path in tracked if not path.startswith(".")} <= ALLOWED_AT_THE_TOP


@pytest.mark.parametrize(
    "module",
    [
        "flowherd_supervisor.shell.host_setup",
        "flowherd_supervisor.keeper.keeper_process",
        "flowherd.process.worker_process",
    ],
)
def test_p20_importing_starts_no_thread(module: str) -> None:
    """Faults P20, law 4: modules imported before a fork must start neither threads nor a loop."""
    program = f"import os, {module}; print(len(os.listdir('/proc/self/task')))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
