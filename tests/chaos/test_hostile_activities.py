"""Activities that misuse their process (faults.md C10, C13 to C17): the worker lives, or is replaced, and all ends."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chaos.proxy import Toxics
from harness import eventually

if TYPE_CHECKING:
    from chaos.world import World
    from harness import Host

ONCE = {"retry": {"max_attempts": 1}}
APP = "hostile_app:registry"


def test_a_memory_error_fails_its_activity_and_its_process_lives(world: World) -> None:
    """C10: RLIMIT_AS stands for a machine without memory."""
    host = world.start_host(app=APP, processes=1, slots=2)
    [workflow] = world.engine.submit("exhaust_memory", 1, settings=ONCE)
    world.engine.wait_for("fail", 1)
    assert "MemoryError" in str(world.engine.workflow(workflow)["activities"][0]["error"])
    world.engine.submit("noop", 3)
    world.engine.wait_for("complete", 3)
    assert not host.log("process_died")


def test_a_thread_that_never_ends_is_reported_once_and_keeps_its_slot(world: World) -> None:
    """C13: a thread cannot be killed; when every slot is held so, the process is replaced."""
    host = world.start_host("--cancel-grace", "0.5", "--graceful-timeout", "1", app=APP, processes=1, slots=2)
    world.engine.submit("never_end", 1, settings=ONCE)
    world.engine.wait_for("fail", 1)
    world.engine.submit("noop", 5)
    world.engine.wait_for("complete", 5)
    assert not host.log("recycling")
    world.engine.submit("never_end", 1, settings=ONCE)
    world.engine.wait_for("fail", 2)
    [recycled] = host.wait_for_log("recycling")
    assert "do not end" in recycled["reason"]
    world.engine.submit("noop", 5)
    world.engine.wait_for("complete", 10)
    assert len(world.engine.entries("fail")) == 2


@pytest.mark.parametrize("name", ["fork_and_return", "fork_in_thread_and_return"])
def test_a_grandchild_that_returns_from_its_handler_ends_there(world: World, name: str) -> None:
    """C14: it must not poll, beat or report with its parent's identity."""
    host = world.start_host(app=APP, processes=1, slots=4)
    [workflow] = world.engine.submit(name, 1, settings=ONCE)
    world.engine.wait_for("complete", 1)
    [parent] = host.children().values()
    grandchild = next(int(note.digest) for note in world.notes("start"))
    eventually(lambda: not _runs(grandchild), "the grandchild's end")
    assert "parent" in world.engine.output(workflow).values()
    world.engine.submit("noop", 20)
    world.engine.wait_for("complete", 21)
    assert set(world.engine.claims_per_activity().values()) == {1}
    assert [e["verdict"] for e in world.engine.journal() if e["event"] == "complete"] == ["accepted"] * 21
    assert set(host.children().values()) == {parent}
    host.signal(signal.SIGTERM)
    assert host.wait() == 0


def test_a_grandchild_that_leaves_by_itself_is_left_alone(world: World) -> None:
    """C14: programs that fork workers of their own go on working."""
    world.start_host(app=APP, processes=1, slots=2)
    [workflow] = world.engine.submit("fork_and_exit", 1, settings=ONCE)
    world.engine.wait_for("complete", 1)
    assert "exit 7" in world.engine.output(workflow).values()
    assert [note.digest for note in world.notes("end")] == ["grandchild"]


def test_a_program_that_is_left_running_delays_no_stop(world: World) -> None:
    """C15: it is the user's, and documented so; it holds nothing of ours."""
    host = world.start_host(app=APP, processes=1, slots=2)
    world.engine.submit("leave_a_program", 1, settings=ONCE, seconds=60)
    world.engine.wait_for("complete", 1)
    program = int(world.notes("start")[0].digest)
    try:
        held = [
            target for fd in os.listdir(f"/proc/{program}/fd") if "socket" in (target := _target(program, fd))
        ]
        assert held == [], "it has inherited connections or the link"
        host.signal(signal.SIGTERM)
        assert host.wait(5) == 0
        assert not host.tree()
    finally:
        os.kill(program, signal.SIGKILL)


def test_threads_that_were_left_behind_delay_no_stop(world: World) -> None:
    """C16: not even those that an interpreter would wait for."""
    host = world.start_host(app=APP, processes=1, slots=2)
    world.engine.submit("leave_threads", 1, settings=ONCE, count=50)
    world.engine.wait_for("complete", 1)
    since = time.monotonic()
    host.signal(signal.SIGTERM)
    assert host.wait(10) == 0
    assert time.monotonic() - since < 5
    assert not host.tree()


def test_a_process_that_has_leaked_its_descriptors_is_named_and_replaced(world: World) -> None:
    """C17: new connections fail, so the limit is named, and a fresh process delivers what is owed."""
    host = world.start_host("--graceful-timeout", "2", app=APP, processes=1, slots=4)
    [leaky] = host.children().values()
    world.engine.submit("leak_descriptors", 1, settings={"retry": {"max_attempts": 5}}, room=30)
    world.engine.wait_for("claim", 1)
    world.proxy.toxics = Toxics(reset=1.0)  # no connection may be reused
    eventually(lambda: host.log("engine_unreachable"), "an outage")
    world.proxy.toxics = Toxics()
    world.engine.submit("noop", 5)
    world.engine.wait_for("complete", 5, within_s=20)
    assert "descriptors" in host.wait_for_log("recycling")[0]["reason"]
    eventually(lambda: _fresh(host, leaky), "a fresh process")


def _target(pid: int, fd: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except FileNotFoundError:  # a file of its start, closed meanwhile
        return ""


def _fresh(host: Host, old: int) -> bool:
    pids = set(host.children().values())
    return bool(pids) and old not in pids


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
