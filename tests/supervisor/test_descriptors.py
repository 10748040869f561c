"""How many descriptors a process has open; of this very process, with real files."""

from __future__ import annotations

import os
import resource

from flowherd_supervisor.descriptors import open_descriptors


def test_open_descriptors_are_counted_as_a_listing_would() -> None:
    """Faults C17: a worker that leaks them is replaced before it has none left; the count is asked for for ever."""
    pid = os.getpid()
    before, _ = open_descriptors(pid)
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]
    try:
        assert open_descriptors(pid) == (before + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        assert before + 100 == len(os.listdir(f"/proc/{pid}/fd")) - 1  # the listing has one of its own
    finally:
        for fd in opened:
            os.close(fd)


def test_a_process_that_has_ended_has_no_descriptors() -> None:
    assert open_descriptors(2**22 + 1) == (0, 0)
