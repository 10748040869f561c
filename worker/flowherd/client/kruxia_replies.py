"""Answers and errors for the kinds of Kruxia Flow's replies (protocol.md §1.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from flowherd.client.engine_protocol import Answer, Verdict
from flowherd.client.reply_classifier import (
    ACKNOWLEDGED,
    UNREADABLE,
    ReplyKind,
    classify,
    is_engines,
    retry_after_s,
    words_of,
)
from flowherd.errors import EngineUnauthorized, EngineUnavailable, ForeignReply, NotAcknowledged

if TYPE_CHECKING:
    from flowherd.transport.transport import Reply

TAKEN = Answer(Verdict.ACCEPTED)
_TAKEN_AS_LAST = Answer(Verdict.ACCEPTED, will_retry=False)


def taken_failure(reply: Reply) -> Answer:
    """Returns the answer to a failure, which tells whether the engine makes another attempt (protocol.md §7)."""
    try:
        will_retry = msgspec.json.decode(reply.body)["will_retry"]
    except UNREADABLE:
        return TAKEN
    return _TAKEN_AS_LAST if will_retry is False else TAKEN


def answer_to(reply: Reply, place: str, receipt: str | None = ACKNOWLEDGED) -> Answer:
    """Returns the engine's answer; an error is raised for a reply that is none.

    Args:
        reply: the whole reply.
        place: method and URL of the call, for errors.
        receipt: see `classify`.

    Raises:
        ForeignReply: the reply is not in the engine's words: an outage.
        NotAcknowledged: the engine has not taken what was sent.
        EngineUnauthorized: the token is refused.
        EngineUnavailable: the engine, or what stands before it, fails or is busy.

    """
    match classify(reply, receipt):
        case ReplyKind.ACCEPTED:
            return TAKEN if b'"warnings"' not in reply.body else _taken_with_warnings(reply.body)
        case ReplyKind.GONE:
            return Answer(Verdict.GONE, words_of(reply))
        case ReplyKind.UNKNOWN:
            return Answer(Verdict.UNKNOWN, words_of(reply))
        case ReplyKind.REFUSED:
            return Answer(Verdict.REFUSED, words_of(reply))
        case ReplyKind.TOO_LARGE:
            return Answer(Verdict.TOO_LARGE, words_of(reply))
        case kind:
            error = _error(kind, reply, place)
            error.is_engines = is_engines(reply) or kind is ReplyKind.NOT_ACKNOWLEDGED
            raise error


def _error(
    kind: ReplyKind, reply: Reply, place: str
) -> EngineUnauthorized | EngineUnavailable | ForeignReply | NotAcknowledged:
    match kind:
        case ReplyKind.NOT_ACKNOWLEDGED:
            return NotAcknowledged(f"{place}: {words_of(reply)}")
        case ReplyKind.UNAUTHORIZED:
            return EngineUnauthorized(words_of(reply))
        case ReplyKind.BUSY:
            return EngineUnavailable(words_of(reply), retry_after_s=retry_after_s(reply))
        case ReplyKind.FAILING:
            return EngineUnavailable(words_of(reply), retry_after_s=retry_after_s(reply), in_doubt=True)
    return foreign(reply, place, is_too_large=kind is ReplyKind.FOREIGN_TOO_LARGE)


def foreign(reply: Reply, place: str, *, is_too_large: bool = False) -> ForeignReply:
    """Returns the error for a reply that is not in the engine's words."""
    return ForeignReply(
        f"{place}: not an engine's reply: {words_of(reply)}",
        is_too_large=is_too_large,
    )


def _taken_with_warnings(body: bytes) -> Answer:
    """Returns the answer to a completion that the engine accepted with warnings (protocol.md §6.2)."""
    try:
        warnings = "; ".join(str(warning) for warning in msgspec.json.decode(body)["warnings"])[:500]
    except UNREADABLE:
        return TAKEN
    return Answer(Verdict.ACCEPTED, warnings)
