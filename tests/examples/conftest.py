"""The examples of `worker/examples` run on real hosts; all of them share an engine."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from examples_kit import Example
from harness import running_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from harness import Engine


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """An embedded engine in memory."""
    with running_engine() as engine:
        yield engine


@pytest.fixture
def run_example(engine: Engine, tmp_path: Path) -> Iterator[Callable[..., Example]]:
    """Starts an example by the name of its folder, with the variables that its page exports."""
    with ExitStack() as stack:
        yield lambda name, **env: stack.enter_context(Example(name, tmp_path, engine, env))
