"""What is answered to somebody who wants to steer the supervisor; it decides from what is known, and sends nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd.link.messages import Asked

if TYPE_CHECKING:
    from flowherd.link.messages import SupervisorState

ORDERS = frozenset({"scale", "restart", "quiet", "resume", "drain", "stacks"})
MAX_BODY = 1024
_ALREADY = {"quiet": False, "resume": True}  # what polling is when the order would change nothing
_ACCEPTED = {
    "restart": "replacing every process, one after the other",
    "drain": "draining: what runs may end, the rest is given back",
    "quiet": "polling pauses; what runs goes on",
    "resume": "polling goes on",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status, what is said with it, and the order for the supervisor, if it is given one."""

    status: int
    text: str
    order: Asked | None = None

    @property
    def document(self) -> dict[str, Any]:
        """The body: `note` for what was accepted, `error` for what was not."""
        return {"note" if self.status < 400 else "error": self.text, "accepted": self.status < 400}


class _Scale(msgspec.Struct, forbid_unknown_fields=True):
    processes: int


def consider(order: str, body: bytes, told: SupervisorState | None) -> Answer:
    """Whether an order makes sense now. The supervisor looks again: meanwhile things may have changed.

    Args:
        order: one of `ORDERS`.
        body: JSON; `{"processes": N}` for `scale`, nothing for the others.
        told: the supervisor's last word.

    """
    if told is None:
        return Answer(503, "the supervisor is starting: try again in a moment")
    if order == "stacks":
        return Answer(202, "every process writes what it is doing to the log", Asked(order))
    if told.state != "running":
        return Answer(200 if order == "drain" else 409, f"the supervisor is {told.state} already")
    if order == "scale":
        return _scale(body, told)
    if order in _ALREADY and told.polling is _ALREADY[order]:
        return Answer(200, "polling goes on already" if told.polling else "polling is paused already")
    return Answer(202, _ACCEPTED[order], Asked(order))


def _scale(body: bytes, told: SupervisorState) -> Answer:
    try:
        wanted = msgspec.json.decode(body, type=_Scale).processes
    except (msgspec.DecodeError, RecursionError) as error:
        return Answer(422, f'expected a body such as {{"processes": 4}}: {error}')
    if not 1 <= wanted <= told.most:
        why = (
            "each process needs a slot: see --concurrency" if told.most == told.total_slots else "as started"
        )
        return Answer(422, f"{wanted} processes are not possible: 1 to {told.most} are ({why})")
    if wanted == told.wanted:
        return Answer(200, f"there are {wanted} processes already")
    return Answer(202, f"scaling from {told.wanted} to {wanted} processes", Asked("scale", wanted))
