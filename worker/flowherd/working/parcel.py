"""An outcome on its way to the engine: its bytes, and in whose name they speak; it never decides about a delivery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowherd.engine import Answer


class Withdrawn(Exception):
    """The fence has become None."""


@dataclass(slots=True)
class Parcel:
    """An outcome on its way: encoded once for each fence, so that repeated tries send identical bytes.

    Attributes:
        fence: the worker_id at the time of the try: a repeated claim replaces it (protocol.md R11).
        in_doubt: whether an earlier try with the same fence may have arrived.

    """

    activity_id: str
    fence: Callable[[], str | None]
    encode: Callable[[str], bytes]
    send: Callable[[str, bytes, float], Awaitable[Answer]]
    deadline_s: float
    sent_as: str | None = None
    body: bytes = b""
    in_doubt: bool = False

    async def try_once(self) -> Answer:
        """Encodes for the present fence and sends; asked after the gate has let it through, not before."""
        worker_id = self.fence()
        if worker_id is None:
            raise Withdrawn
        return await self.send(self.activity_id, self.encoded_for(worker_id), self.deadline_s)

    def encoded_for(self, worker_id: str) -> bytes:
        """The bytes to send under that fence."""
        if worker_id != self.sent_as:
            self.body, self.sent_as, self.in_doubt = self.encode(worker_id), worker_id, False
        return self.body

    @property
    def is_outdated(self) -> bool:
        """Whether the last answer was to a fence that has been replaced since, and so says nothing."""
        return self.fence() not in {self.sent_as, None}
