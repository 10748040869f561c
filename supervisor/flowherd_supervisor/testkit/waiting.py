"""Waiting for what other processes do, with a ceiling, and the environment they are started in; it starts nothing."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

CEILING_S = 40.0  # several times what a busy machine takes to start Python, below what pytest leaves a test
LOOK_EVERY_S = 0.02
_OURS = ("KRUXIAFLOW_", "FLOWHERD_", "WORKER_", "OTEL_")

T = TypeVar("T")


def eventually(look: Callable[[], T], what: str, within_s: float = CEILING_S) -> T:
    """Looks until the result is true; the ceiling bounds a broken test, it does not time a good one.

    Raises:
        AssertionError: nothing came of it within `within_s` seconds.

    """
    give_up_at = time.monotonic() + within_s
    while True:
        if found := look():
            return found
        if time.monotonic() > give_up_at:
            raise AssertionError(f"{what}: not within {within_s} s")
        threading.Event().wait(LOOK_EVERY_S)


def clean_environment(**extra: str) -> dict[str, str]:
    """What is set here without what would configure flowherd: who uses an engine has all of that exported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return kept | extra
