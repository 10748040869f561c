"""Chaos tests start real programs and break them; each has its own world and a ceiling."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chaos.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.fork)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An engine with leases of 60 s, so that nothing is recovered by a lapse, and a passive proxy."""
    with World(tmp_path, lease_s=60) as world:
        yield world
