"""The only catch-all: a defect of flowherd is logged, and the host goes on (faults.md P16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")

log = structlog.stdlib.get_logger("flowherd")


def say_defect(error: Exception) -> None:
    """Logs a defect in one line with a traceback."""
    log.error("supervisor_error", note="please report this; the host goes on", exc_info=error)


def contained(work: Callable[[], T], otherwise: T) -> T:
    """Returns what `work` returns, or `otherwise` after a defect."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - see above
        say_defect(error)
        return otherwise


def found_by(work: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Yields what `work` yields; a defect ends it, after everything that came before."""
    try:
        yield from work()
    except Exception as error:  # noqa: BLE001 - see above
        say_defect(error)
