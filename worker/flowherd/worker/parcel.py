"""An outcome on its way to the engine: its bytes, and in whose name they speak; it never decides about a delivery."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from flowherd.backoff import Backoff
from flowherd.client.protocol import Answer, Verdict
from flowherd.errors import ForeignReply
from flowherd.model import Completed, Failed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowherd.backoff import Rng
    from flowherd.errors import EngineError

_BACKOFF = Backoff()
_IN_THE_END = {404: Verdict.UNKNOWN, 409: Verdict.GONE}  # else it is refused

log = structlog.stdlib.get_logger(__name__)


class Withdrawn(Exception):
    """The fence has become None."""


@dataclass(slots=True)
class Parcel:
    """An outcome on its way: encoded once for each fence, so that repeated tries send identical bytes.

    Attributes:
        fence: the worker_id at the time of the try: a repeated claim replaces it (protocol.md R11).
        limit_s: for how long a proxy's answer is no verdict (faults.md N7), counted from the first such answer: as
            long as the activity itself may run.
        is_large: whether its body is one of those that take their time (faults.md N8).
        in_doubt: whether an earlier try with the same fence may have arrived.
        failures: how many tries ended without a verdict, but for a proxy's answers.

    """

    activity_id: str
    fence: Callable[[], str | None]
    encode: Callable[[str], bytes]
    send: Callable[[str, bytes, float], Awaitable[Answer]]
    deadline_s: float
    limit_s: float = math.inf
    is_large: bool = False
    sent_as: str | None = None
    body: bytes = b""
    in_doubt: bool = False
    failures: int = 0
    foreign_until: float | None = None
    _retries: int = 0

    async def try_once(self) -> Answer:
        """Encodes for the present fence and sends; asked after the circuit has let it through, not before."""
        worker_id = self.fence()
        if worker_id is None:
            raise Withdrawn
        return await self.send(self.activity_id, self.encoded_for(worker_id), self.deadline_s)

    def encoded_for(self, worker_id: str) -> bytes:
        """The bytes to send under that fence."""
        if worker_id != self.sent_as:
            self.body, self.sent_as, self.in_doubt = self.encode(worker_id), worker_id, False
        return self.body

    def failed(self, error: EngineError, now: float) -> None:
        """Notes a try without a verdict; the first that a proxy has answered goes to the log."""
        log.debug("outcome_not_delivered_yet", activity_id=self.activity_id, reason=str(error))
        self.in_doubt = self.in_doubt or error.in_doubt
        if not isinstance(error, ForeignReply):
            self.failures += 1
        elif self.foreign_until is None:
            self.foreign_until = now + self.limit_s
            log.warning(
                "outcome_refused_by_a_proxy",
                activity_id=self.activity_id,
                reason=str(error),
                tried_again_for_s=self.limit_s,
            )

    def last_word(self, error: EngineError, now: float) -> Answer | None:
        """A proxy's answer as a verdict, once such answers have come for `limit_s`; else None."""
        if not isinstance(error, ForeignReply) or self.foreign_until is None or now < self.foreign_until:
            return None
        self.in_doubt = False
        words = f"{error} (not in the engine's words, for {self.limit_s:g} s)"
        return Answer(_IN_THE_END.get(error.status, Verdict.REFUSED), words)

    def pause_s(self, rng: Rng) -> float:
        """Seconds until the next try, when the last one's error says nothing about others (and the circuit is open)."""
        self._retries += 1
        return _BACKOFF.delay_s(self._retries, rng)

    @property
    def is_outdated(self) -> bool:
        """Whether the last answer was to a fence that has been replaced since, and so says nothing."""
        return self.fence() not in {self.sent_as, None}


def refused(size: int, detail: str, outcome: Completed) -> Failed:
    """What is left to say when the engine, or a proxy before it, will never take an output's bytes."""
    code, message = "INVALID_OUTPUT", f"the engine refused the output: {detail}"
    if detail.startswith("status 413"):
        code = "OUTPUT_TOO_LARGE"
        message = (
            f"the output of {size} bytes is more than the engine or a proxy takes: return a file instead"
        )
    return Failed(code, message, retryable=False, usage=outcome.usage, cost_usd=outcome.cost_usd)
