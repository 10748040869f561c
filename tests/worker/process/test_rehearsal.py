"""What is made before the fork leaves memory that children share, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

_PREAMBLE = """
import asyncio, gc, json, logging, os, signal, sys, threading
from flowherd import logs
from flowherd.client.kruxia import encoded
from flowherd.transport.wire_format import Origin
from flowherd.settings.worker_config import WorkerConfig
from flowherd.process.rehearsal import LIVES, rehearse, warm_up
config = WorkerConfig(client_id="me", client_secret="s", transport=sys.argv[1], loop=sys.argv[2])
logs.setup("info", "json")
warm_up()
def left():
    gc.collect()
    links = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            links[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            pass
    return {
        "descriptors": links,
        "threads": len(os.listdir("/proc/self/task")),
        "children": open("/proc/thread-self/children").read().split(),
        "tasks": len(asyncio.tasks._all_tasks),
        "loop": asyncio._get_running_loop() is not None,
        "silenced": logging.root.manager.disable,
        "signals": [repr(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)],
        "wakeup": signal.set_wakeup_fd(-1),
        "variables": dict(os.environ),
        "remembered": [encoded.cache_info().currsize, Origin.of.cache_info().currsize],
        "files": sorted(os.listdir(".")),
    }
"""
_LEFT = """
first = rehearse(config, budget_s=60.0)
before = left()
lives = rehearse(config, budget_s=60.0)
print(json.dumps({"lives": [first, lives, LIVES], "before": before, "after": left()}))
"""
_OWN = """
lives = rehearse(config, budget_s=float(sys.argv[3]))
gc.collect()
gc.freeze()
pid = os.fork()
if pid:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
from flowherd.process import rehearsal
with asyncio.Runner(loop_factory=rehearsal.new_loop(config.loop)) as runner:
    runner.run(rehearsal._live(config, 20))
own_kb = sum(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Private_"))
print(json.dumps({"lives": lives, "own_kb": own_kb}), flush=True)
os._exit(0)
"""
_WARM = """
import os, sys
def links():
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += "socket:" in os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            pass
    return found
before = links(), len(os.listdir("/proc/self/task"))
from flowherd.process.rehearsal import warm_up
warm_up()
import gc
assert (links(), len(os.listdir("/proc/self/task"))) == before, "a socket or a thread would survive the fork"
assert gc.get_freeze_count() > 0
assert {"httpcore", "h11", "flowherd.process.build_worker"} <= sys.modules.keys()
import asyncio
assert asyncio._get_running_loop() is None
"""
TRANSPORTS = ("direct", "httpx")


def told(program: str, *words: str, folder: Any = None, **variables: str) -> dict[str, Any]:
    """What a program of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", _PREAMBLE + program, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=folder,
        env=variables or None,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("loop", ["auto", "asyncio"])
def test_a_rehearsal_comes_to_its_end_and_leaves_nothing_that_a_fork_would_copy(
    transport: str, loop: str, tmp_path: Any
) -> None:
    """Law 4, faults.md P20: no thread, descriptor, task, file, signal handler or silence outlives it.

    The second one is looked at: libuv opens a pipe for signals with its first loop, and makes each child its own.
    """
    found = told(_LEFT, transport, loop, folder=tmp_path)
    first, second, all_ = found["lives"]
    assert first == second == all_
    assert found["after"] == found["before"]
    assert found["after"]["threads"] == 1
    assert found["after"]["remembered"] == [0, 1], "no ids, and no engine but the real one"
    assert not any("socket" in link or "event" in link for link in found["after"]["descriptors"].values())
    assert found["after"]["silenced"] == found["after"]["tasks"] == 0


def test_a_child_of_a_process_that_has_rehearsed_works_and_owns_less_memory() -> None:
    """What all of this is for; a fork copies the pages that it writes to."""
    cold = told(_OWN, "direct", "auto", "0")
    warm = told(_OWN, "direct", "auto", "60")
    assert not cold["lives"]
    assert warm["own_kb"] < cold["own_kb"] - 400, (warm, cold)


def test_nothing_is_rehearsed_where_a_test_may_have_the_process_die_of_it() -> None:
    """Crash points are meant for a process that has claimed something."""
    lost = told(_LEFT, "direct", "auto", FLOWHERD_TEST_POINT="after_poll:1:SIGKILL")
    assert lost["lives"][:2] == [0, 0]


def test_a_rehearsal_that_fails_is_no_news() -> None:
    """Its purpose is memory: an app starts without it, too."""
    broken = "import socket\ndef refused(*_): raise OSError('no loopback')\nsocket.create_server = refused\n"
    lost = told(broken + _LEFT, "direct", "auto")
    assert lost["lives"][:2] == [0, 0]
    assert lost["after"] == lost["before"]


def test_warming_up_leaves_no_socket_no_thread_and_no_loop() -> None:
    """Law 4; faults.md P20: whatever exists at the fork exists in every child."""
    done = subprocess.run(
        [sys.executable, "-c", _WARM], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
