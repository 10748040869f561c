"""The state of the GIL in this interpreter, and the import that has enabled it."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
import sysconfig
import warnings
from typing import TYPE_CHECKING, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OVERRIDE = "FLOWHERD_TEST_THREADS"  # 1 lets tests run worker threads with the GIL
_CULPRIT = re.compile(r"GIL\) has been enabled to load module '([^']+)'")

log = structlog.stdlib.get_logger(__name__)


def is_gil_enabled() -> bool:
    """True when the GIL is enabled, as always in a build that is not free-threaded."""
    asks = getattr(sys, "_is_gil_enabled", None)
    return asks is None or bool(asks())


def why_no_threads() -> str | None:
    """Returns why workers should not be threads here, with the remedy; None when they may be."""
    if not is_gil_enabled() or os.environ.get(OVERRIDE) == "1":
        return None
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return (
            "needs Python's lock (the GIL) to be off, and PYTHON_GIL, -X gil or an imported extension has "
            "turned it on: turn it off, or use --parallel processes"
        )
    return (
        f"needs a free-threaded Python; in this one ({platform.python_version()}) threads take turns at one "
        "lock (the GIL): run flowherd with python3.14t or newer, or use --parallel processes"
    )


@contextlib.contextmanager
def gil_watched(is_enabled: Callable[[], bool] = is_gil_enabled) -> Iterator[None]:
    """Warns once when an import within the block has enabled the GIL, and names the module.

    Args:
        is_enabled: returns True when the GIL is enabled.

    """
    was_enabled, named = is_enabled(), []
    show = warnings.showwarning

    def look(message: Warning | str, category: type[Warning], *where: str | int | TextIO | None) -> None:
        if (found := _CULPRIT.search(str(message))) is not None:
            named.append(found[1])
        else:
            show(message, category, *where)  # type: ignore[arg-type]  # the arguments are passed on

    warnings.showwarning = look  # type: ignore[assignment]  # takes what the original takes
    try:
        yield
    finally:
        warnings.showwarning = show
        if is_enabled() and not was_enabled:
            log.warning(
                "gil_enabled",
                module=", ".join(named) or "an extension",
                note="the threads of this process take turns from now on: they gain nothing over one",
                remedy="--parallel processes, or a version of the module that supports free threading",
            )
