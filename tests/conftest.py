"""The environment of every test: no settings of the user, quiet logs, printed seeds."""

from __future__ import annotations

import gc
import logging
import os
from typing import TYPE_CHECKING

import hypothesis
import pytest
import structlog

from flowherd.logs import LineHandler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Variables that configure flowherd, which users of the engine export.
_HOSTILE_PREFIX, _HOSTILE_NAMES = (
    ("KRUXIAFLOW_", "OTEL_"),
    {"FLOWHERD_PROCESS_INDEX", "FLOWHERD_PROCESSES", "WORKER_TYPE"},
)

_PROCESSES = {"system", "chaos", "examples"}  # folders whose tests start programs

hypothesis.settings.register_profile("dev", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds our own switches."""
    parser.addoption("--soak", action="store_true", help="run the long tests too")


def pytest_configure(config: pytest.Config) -> None:
    """Removes the user's settings before anything is imported that could read them."""
    del config
    for name in [name for name in os.environ if name.startswith(_HOSTILE_PREFIX) or name in _HOSTILE_NAMES]:
        del os.environ[name]
    hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_report_header() -> str:
    """Reports the seeds, with which a failure can be repeated."""
    if os.environ.get("CI"):
        return "random tests: fixed seeds only"
    return "random tests: fixed and fresh seeds; a failure prints its own"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks tests that start programs, and deselects those that take minutes."""
    for item in items:
        if _PROCESSES & set(item.path.parts):
            item.add_marker(pytest.mark.fork)
    if not config.getoption("--soak"):
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: run with --soak"))


class _DestroyedTasks(logging.Handler):
    """Collects asyncio's complaints about tasks that were forgotten while they waited."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "was destroyed but it is pending" in (message := record.getMessage()):
            self.found.append(message)


_destroyed = _DestroyedTasks()
logging.getLogger("asyncio").addHandler(_destroyed)


def _assert_no_task_was_destroyed() -> None:
    found, _destroyed.found = _destroyed.found, []
    assert not found, "its owner neither awaited nor cancelled it: " + "\n".join(found)


@pytest.fixture(autouse=True)
def _every_task_has_an_end() -> Iterator[None]:
    """Fails a test during which a task was destroyed while it waited."""
    yield
    _assert_no_task_was_destroyed()


@pytest.fixture(scope="session", autouse=True)
def _every_task_has_an_end_at_last() -> Iterator[None]:
    """The same for what only the collection of garbage destroys; fails the last test."""
    yield
    gc.collect()
    _assert_no_task_was_destroyed()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that a developer's flowherd.toml cannot affect a test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    """Sends events to logging, where caplog finds them, never to stdout; undoes a test's own set-up."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    yield
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, LineHandler)]
