"""Threads of our own: bounded, reused, with the caller's context, never in the way of a process's end."""

import contextvars
import subprocess
import sys
import threading
import time

import pytest

from flowherd.execution.in_thread import ThreadPool

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


class Held:
    """Work that begins, says so, and waits to be let go."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self):
        self.begun.release()
        self.go.wait(10)


def test_threads_grow_on_demand_up_to_the_limit():
    """A15: 1,000 blocked handlers of others must not starve ours, so the pool is as large as the slots."""
    pool, held = ThreadPool(3), Held()
    for _ in range(5):
        pool.submit(held)
    for _ in range(3):
        assert held.begun.acquire(timeout=5)
    assert (pool.threads, pool.waiting) == (3, 2)
    assert repr(pool) == "<ThreadPool 3 busy, 0 idle, 2 waiting, limit 3>"
    held.go.set()
    for _ in range(2):
        assert held.begun.acquire(timeout=5)


def _run_and_wait(pool, work=lambda: None):
    done = threading.Event()
    pool.submit(lambda: (work(), done.set()))
    assert done.wait(5)


def _until_idle(pool, threads):
    """Waits until this many threads are idle: a thread takes the lock when it gets idle, and so does this."""
    ends = time.monotonic() + 5
    while time.monotonic() < ends:
        with pool._change:
            if pool.idle == threads:
                return
    pytest.fail(repr(pool))


def test_an_idle_thread_is_used_again():
    pool = ThreadPool(4)
    seen = set()
    for _ in range(20):
        _run_and_wait(pool, lambda: seen.add(threading.get_ident()))
        _until_idle(pool, 1)
    assert len(seen) == 1


def test_context_variables_are_copied_into_the_thread():
    pool, seen = ThreadPool(1), []
    VARIABLE.set("caller")
    _run_and_wait(pool, lambda: (seen.append(VARIABLE.get()), VARIABLE.set("handler")))
    _run_and_wait(pool, lambda: seen.append(VARIABLE.get()))
    assert seen == ["caller", "caller"]


def test_a_larger_limit_starts_what_waits_and_a_smaller_one_lets_threads_go():
    pool, held = ThreadPool(1), Held()
    for _ in range(3):
        pool.submit(held)
    assert held.begun.acquire(timeout=5)
    assert pool.waiting == 2
    pool.resize(3)
    for _ in range(2):
        assert held.begun.acquire(timeout=5)
    held.go.set()
    _until_idle(pool, 3)
    pool.resize(1)
    _until_idle(pool, 1)
    assert pool.threads == 1
    _run_and_wait(pool)


def test_work_that_raises_is_logged_and_the_thread_goes_on(caplog):
    """The runner lets nothing escape; should something do, the pool must not count a dead thread."""
    pool = ThreadPool(1)

    def leave():
        raise SystemExit

    pool.submit(leave)
    _run_and_wait(pool)
    assert pool.threads == 1
    assert [record.getMessage() for record in caplog.records] == ["thread_work_raised"]


def test_a_closed_pool_takes_nothing():
    pool = ThreadPool(1)
    _run_and_wait(pool)
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(lambda: None)
    _until_idle(pool, 0)


@pytest.mark.parametrize("make", [lambda: ThreadPool(0), lambda: ThreadPool(1).resize(0)])
def test_a_pool_without_threads_is_refused(make):
    with pytest.raises(ValueError, match="at least one"):
        make()


def test_a_stuck_thread_does_not_keep_the_process_from_ending():
    """A16: concurrent.futures would wait for it forever."""
    program = (
        "import threading; from flowherd.execution.in_thread import ThreadPool; begun = threading.Event()\n"
        "ThreadPool(1).submit(lambda: (begun.set(), threading.Event().wait()))\n"
        "begun.wait()"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=20, check=False).returncode == 0
