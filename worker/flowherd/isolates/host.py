"""Asks the supervisor for isolates and for their end, over the link; it decides nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from flowherd.link.link import Link, LinkClosed
from flowherd.link.messages import KillIsolate, Message, NeedIsolate, StopIsolate
from flowherd.link.sharing import joint_key

if TYPE_CHECKING:
    from collections.abc import Sequence

log = structlog.stdlib.get_logger(__name__)


class LinkedHost:
    """`flowherd.isolates.terms.IsolateHost` by way of the supervisor.

    Args:
        link: to the supervisor; its answers come back the same way, to the worker.
        worker: its number, where several workers of one process share the link.

    """

    def __init__(self, link: Link, worker: int | None = None) -> None:
        self._link = link
        self._worker = worker

    def _sent(self, key: int) -> int:
        return key if self._worker is None else joint_key(self._worker, key)

    def need(self, key: int, fds: Sequence[int]) -> None:
        """See `IsolateHost.need`."""
        try:
            self._link.send(NeedIsolate(self._sent(key)), fds)
        except LinkClosed as error:
            raise OSError(f"the supervisor is gone ({error})") from None

    def stop(self, key: int) -> None:
        """See `IsolateHost.stop`."""
        self._ask(StopIsolate(self._sent(key)))

    def kill(self, key: int) -> None:
        """See `IsolateHost.kill`."""
        self._ask(KillIsolate(self._sent(key)))

    def _ask(self, message: Message) -> None:
        try:
            self._link.send(message)
        except LinkClosed:  # with the supervisor its isolates end too
            log.debug("supervisor_gone", unsaid=type(message).__name__)
