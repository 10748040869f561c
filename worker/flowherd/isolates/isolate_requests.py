"""A worker's requests to the supervisor to make and to kill isolates."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from flowherd.link.link import Link, LinkClosed
from flowherd.link.messages import KillIsolate, NeedIsolate
from flowherd.link.split_over_threads import joint_key

if TYPE_CHECKING:
    from collections.abc import Sequence


class IsolateRequests:
    """Asks the supervisor for isolates; what became of one is told to `Isolates.started` and `.ended`.

    Args:
        link: to the supervisor; its answers come back the same way.
        worker: its number, where several workers of one process share the link.

    """

    def __init__(self, link: Link, worker: int | None = None) -> None:
        self._link = link
        self._worker = worker

    def _sent(self, key: int) -> int:
        return key if self._worker is None else joint_key(self._worker, key)

    def need(self, key: int, fds: Sequence[int]) -> None:
        """Asks for an isolate with these descriptors; OSError when nobody can be asked."""
        try:
            self._link.send(NeedIsolate(self._sent(key)), fds)
        except LinkClosed as error:
            raise OSError(f"the supervisor is gone ({error})") from None

    def kill(self, key: int) -> None:
        """Asks for SIGKILL to its group."""
        with contextlib.suppress(LinkClosed):  # with the supervisor its isolates end too
            self._link.send(KillIsolate(self._sent(key)))
