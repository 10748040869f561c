"""The meaning of Kruxia Flow's replies: verdicts and errors (protocol.md §1)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd.client.engine_protocol import Answer, Verdict
from flowherd.errors import EngineUnauthorized, EngineUnavailable, ForeignReply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd.transport.transport import Reply

_UNREADABLE = (msgspec.DecodeError, RecursionError, KeyError, TypeError, ValueError)
_PASSING = frozenset({408, 425, 429})  # retryable, like every 5xx
_NOT_DONE = frozenset({408, 425, 429, 503})  # the call has certainly not taken effect
TAKEN = Answer(Verdict.ACCEPTED)
_TAKEN_AS_LAST = Answer(Verdict.ACCEPTED, will_retry=False)
_VERDICTS = {
    400: Verdict.REFUSED,
    404: Verdict.UNKNOWN,
    405: Verdict.REFUSED,
    409: Verdict.GONE,
    413: Verdict.REFUSED,
    415: Verdict.REFUSED,
    422: Verdict.REFUSED,
}
_NO_TEXT: tuple[bytes, ...] = ()
_TEXTS = {  # plain text that the engine's framework writes (protocol.md §1.4 B)
    400: (
        b"Failed to parse the request body as JSON",
        b"Invalid URL: ",
        b"Failed to deserialize query string",
    ),
    413: (b"Failed to buffer the request body",),
    415: (b"Expected request with `Content-Type: application/json`",),
    422: (b"Failed to deserialize the JSON body into the target type",),
}


def is_receipt(reply: Reply) -> bool:
    """True for the usual reply to an outcome: an acknowledgement without warnings (protocol.md §6.2)."""
    return reply.status == 200 and b'"acknowledged"' in reply.body and b'"warnings"' not in reply.body


def taken_failure(reply: Reply) -> Answer:
    """Returns the answer to a failure, which tells whether the engine makes another attempt (protocol.md §7)."""
    try:
        will_retry = msgspec.json.decode(reply.body)["will_retry"]
    except _UNREADABLE:
        return TAKEN
    return _TAKEN_AS_LAST if will_retry is False else TAKEN


def sort_reply(reply: Reply) -> Answer | None:
    """Maps a reply to the classes of protocol.md §1.5; None for 403, redirects and unexpected statuses.

    Errors that may pass are raised. A verdict counts only in the engine's own format: a proxy's reply must not cost a
    result (N7).
    """
    match reply.status:
        case 200 | 201:
            return TAKEN if b'"warnings"' not in reply.body else _taken_with_warnings(reply.body)
        case status if status in _VERDICTS:
            if is_engines(reply) and (status != 404 or "Activity '" in _message(reply)):
                return Answer(_VERDICTS[status], words_of(reply))
            raise ForeignReply(words_of(reply), status)
        case 401:
            raise EngineUnauthorized(words_of(reply))
        case status if status in _PASSING or status >= 500:
            in_doubt = status not in _NOT_DONE
            raise EngineUnavailable(words_of(reply), retry_after_s=_retry_after_s(reply), in_doubt=in_doubt)
        case _:
            return None


def is_engines(reply: Reply) -> bool:
    """True for an error in the engine's format: its JSON envelope, or a text of its web framework (§1.4)."""
    return _envelope(reply) is not None or reply.body.startswith(_TEXTS.get(reply.status, _NO_TEXT))


def _message(reply: Reply) -> str:
    """Returns the message of the engine's JSON error; "" for text/plain, HTML and everything else."""
    error = _envelope(reply)
    return str(error.get("message", "")) if error else ""


def _envelope(reply: Reply) -> Mapping[str, Any] | None:
    """Returns the engine's JSON error; None for text/plain, HTML and everything else (protocol.md §1.4)."""
    try:
        error = msgspec.json.decode(reply.body)["error"]
        is_ours = isinstance(error["code"], str) and isinstance(error["message"], str)
    except _UNREADABLE:
        return None
    return error if is_ours else None


def words_of(reply: Reply) -> str:
    """Returns status and message on one line, at most 200 characters, without control characters (faults.md E15)."""
    error = _envelope(reply)
    text = str(error.get("message", "")) if error else reply.body[:200].decode(errors="replace")
    if error and isinstance(details := error.get("details"), dict):
        text += f" {details}"
    target = reply.headers.get("location", "") if 300 <= reply.status < 400 else ""
    line = " ".join(f"{text} {target}".split())
    return f"status {reply.status}: " + "".join(c if c.isprintable() else "?" for c in line[:200])


def _taken_with_warnings(body: bytes) -> Answer:
    """Returns the answer to a completion that the engine accepted with warnings (protocol.md §6.2)."""
    try:
        warnings = "; ".join(str(warning) for warning in msgspec.json.decode(body)["warnings"])[:500]
    except _UNREADABLE:
        return TAKEN
    return Answer(Verdict.ACCEPTED, warnings)


def _retry_after_s(reply: Reply) -> float:
    """Returns Retry-After in seconds, 0 for dates and invalid values; the caller caps it (faults.md E7)."""
    try:
        wish = float(reply.headers.get("retry-after", "0"))
    except ValueError:
        return 0.0
    return wish if math.isfinite(wish) and wish > 0 else 0.0
