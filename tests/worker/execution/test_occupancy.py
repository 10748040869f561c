"""For how long a step has occupied its loop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from flowherd.execution.occupancy import (
    LEAST_SHARE,
    OCCUPIES_S,
    Reading,
    ThreadFigures,
    cpu_share,
    frozen_s,
    occupied_s,
)
from flowherd.thread_time import queued_s


@pytest.mark.parametrize(
    ("after", "beside_threads", "kept_s"),
    [
        (Reading(1.0, cpu_s=0.1), False, 0.1),
        (Reading(1.0), False, 0.1),  # it waits without giving the loop up
        (Reading(1.0, cpu_s=0.01, queued_s=0.09), False, 0.01),
        (Reading(1.0, frozen_s=0.08), False, 0.02),
        (Reading(1.0, cpu_s=0.01, queued_s=0.2), False, 0.0),  # most of that was before the step
        (Reading(1.0, cpu_s=0.01, gil_s=0.09), True, 0.01),
        (Reading(1.0, cpu_s=0.01, gil_s=0.09), False, 0.1),  # there is nobody to wait for
    ],
)
def test_only_what_the_step_itself_takes_counts(
    after: Reading, *, beside_threads: bool, kept_s: float
) -> None:
    assert occupied_s(Reading(0.0), after, 0.1, beside_threads=beside_threads) == pytest.approx(kept_s)


def test_the_share_of_a_cpu_is_between_a_quarter_and_a_whole() -> None:
    """What only waits counts as a quarter, so that memory is bounded."""
    before = Reading(0.0)
    assert cpu_share(before, Reading(1.0, cpu_s=0.0), 1.0) == LEAST_SHARE
    assert cpu_share(before, Reading(1.0, cpu_s=0.5), 1.0) == 0.5
    assert cpu_share(before, Reading(1.0, cpu_s=1.2), 1.0) == 1.0
    assert cpu_share(before, Reading(1.0), 0.0) == 1.0, "nothing is known: the CPU is not shared"


def test_a_late_nap_is_a_freeze_only_if_nothing_else_explains_it() -> None:
    """A thread that waits for the GIL asks for it every switch interval, and one that is stopped never."""
    interval = sys.getswitchinterval()
    assert frozen_s(3.0, queued_s=0.0, switches=1) == 3.0
    assert frozen_s(3.0, queued_s=2.99, switches=1) == 0.0
    assert frozen_s(3.0, queued_s=1.0, switches=1) == 2.0
    assert frozen_s(3.0, queued_s=0.0, switches=int(3.0 / interval)) == 0.0
    assert frozen_s(0.01, queued_s=0.0, switches=0) == 0.0, "a timer may be that late"


def test_a_handler_of_ten_milliseconds_occupies_no_loop_on_a_machine_four_times_oversubscribed() -> None:
    """The thread of the loop is runnable without a CPU for most of the time."""
    cpu = next(iter(os.sched_getaffinity(0)))
    busy = (
        f"import os\nos.sched_setaffinity(0, {{{cpu}}})\nprint(1, flush=True)\nwhile os.getppid() != 1: pass"
    )
    others = [
        subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    usable = os.sched_getaffinity(0)
    try:
        for one in others:
            assert one.stdout is not None
            one.stdout.readline()
        os.sched_setaffinity(0, {cpu})
        figures, walls = ThreadFigures(threading.get_native_id()), []
        for _ in range(12):
            before, began = figures.read(time.perf_counter(), 0.0, with_gil=False), time.perf_counter()
            until = time.thread_time() + 0.01
            while time.thread_time() < until:
                pass
            after = figures.read(time.perf_counter(), 0.0, with_gil=False)
            length_s = after.at - began
            walls.append(length_s)
            assert occupied_s(before, after, length_s, beside_threads=False) < OCCUPIES_S
        assert max(walls) > OCCUPIES_S, "by the clock on the wall it would be a blocker"
    finally:
        os.sched_setaffinity(0, usable)
        for one in others:
            one.send_signal(signal.SIGKILL)
            one.communicate()


def test_the_figures_of_this_thread_are_those_that_the_kernel_counts() -> None:
    """CPU time grows with work; a thread that has ended has no figures, and no error."""
    figures = ThreadFigures(threading.get_native_id())
    before = figures.read(0.0, 0.0, with_gil=True)
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    threading.Event().wait(0.001)  # a voluntary switch
    after = figures.read(1.0, 0.0, with_gil=True)
    assert after.cpu_s - before.cpu_s >= 0.04
    assert after.queued_s == pytest.approx(queued_s(), abs=0.05)
    assert after.gil_s > before.gil_s
    assert ThreadFigures(2**22 + 1).read(1.0, 2.0, with_gil=True) == Reading(1.0, frozen_s=2.0)
