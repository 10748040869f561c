"""System tests start real programs and send real signals; each has its own engine and a ceiling."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from harness import Engine, Host, running_engine, running_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An embedded engine with the leases of a real one, 60 s."""
    with running_engine() as engine:
        yield engine


@pytest.fixture
def run_host(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Starts a supervisor and returns it when its workers are ready; ends it after the test."""
    with ExitStack() as stack:

        def start(app: str, *flags: str, processes: int = 2, url: str = "") -> Host:
            host = stack.enter_context(running_host(tmp_path, app, "-p", str(processes), *flags, url=url))
            return host.ready(processes)

        yield start
