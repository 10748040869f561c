"""Counts of open descriptors, with real files of this process."""

from __future__ import annotations

import os
import resource

import pytest

from flowherd.errors import ConfigurationError
from flowherd_supervisor.shell.descriptor_limit import open_descriptors, reserve_descriptors


def test_open_descriptors_are_counted_as_a_listing_would() -> None:
    """Faults C17: a worker that leaks them is replaced in time; it is counted often, so that must be cheap."""
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


def test_n14_a_soft_limit_is_raised_to_what_the_host_needs_and_no_further() -> None:
    """N14: many processes need many descriptors; an app's `select` needs a low limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        reserve_descriptors(16, 32, shared=132)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (512, hard)
        reserve_descriptors(10, 200, shared=404)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 404 + 600 + 64, "after scaling, too"
        reserve_descriptors(10, hard, shared=404)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard, "as far as it is allowed"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_n14_more_than_may_be_opened_is_refused_in_one_sentence() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises(ConfigurationError, match=rf"need \d+ open files, and at most {hard} .*ulimit -n"):
        reserve_descriptors(hard, hard, shared=4)
