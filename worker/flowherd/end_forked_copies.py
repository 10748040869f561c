"""Ends copies of a worker that a handler's own fork has made and that would go on as the worker.

A copy that does its own work and exits by itself, as `multiprocessing` makes them, is left alone (faults.md C14).
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from flowherd.exit_codes import Exit

if TYPE_CHECKING:
    import asyncio

    from flowherd.isolates.channel import Channel
    from flowherd.link.link import Link

_is_copy = False


def guard(loop: asyncio.AbstractEventLoop, link: Link | Channel) -> None:
    """From now on a fork leaves a copy that has no link, and that ends when it comes back to `loop`.

    Args:
        loop: the worker's loop, of the calling thread.
        link: the link to the supervisor, or an isolate's connection to its worker.

    """
    loop_thread = threading.get_ident()

    def disarm() -> None:
        global _is_copy  # noqa: PLW0603 - a state of the process
        _is_copy = True
        link.close()
        if threading.get_ident() == loop_thread:
            loop.call_soon(os._exit, Exit.INTERNAL)

    os.register_at_fork(after_in_child=disarm)


def is_copy() -> bool:
    """True when this process is a copy made by a handler's fork, which must not write the ledger's cells."""
    return _is_copy


def leave_if_copied() -> None:
    """Exits when a handler returns in a copy, which must not deliver an outcome that the original delivers."""
    if _is_copy:
        os._exit(Exit.INTERNAL)
