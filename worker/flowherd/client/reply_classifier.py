"""The classifier of replies, the same for all calls of a worker and the keeper; nothing else judges a status. Pure.

Only the engine says no. A reply in other words than its own (protocol.md §1.4: the JSON envelope, or a text of its web
framework) comes from something in between, and is an outage whatever its status.

    status                words        kind               consequence
    200, 201              the receipt  ACCEPTED           the call has taken effect
    200, 201              "acknowledged" is false
                                       NOT_ACKNOWLEDGED   it has not; sent again
    200, 201              any other    FOREIGN            a login page, broken JSON
    400, 405, 415, 422    the engine's REFUSED            it will never take these bytes
    413                   the engine's TOO_LARGE          it will never take so many bytes
    413                   any other    FOREIGN_TOO_LARGE  speaks of this body alone
    404 "Activity '…"     the engine's UNKNOWN            it does not know the activity
    404 "File '…"         the engine's NO_FILE            it does not know the file
    409                   the engine's GONE               another worker holds the attempt, or it has ended
    401                   any          UNAUTHORIZED       the token, or the client, is refused
    408, 425, 429, 503    any          BUSY               not done; sent again
    other 5xx             any          FAILING            perhaps done; sent again
    everything else       any          FOREIGN            redirects, 403, 407, 451, a 4xx of a proxy
"""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowherd.transport.transport import Reply

UNREADABLE = (msgspec.DecodeError, RecursionError, KeyError, TypeError, ValueError)
_MOST_CHARS, _MOST_FOREIGN_CHARS = 200, 80
_UNAUTHORIZED = 401
_OK = 200
_SUCCESS = frozenset({200, 201})
_NOT_DONE = frozenset({408, 425, 429, 503})  # the call has certainly not taken effect
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


class ReplyKind(Enum):
    """The meaning of a reply; see the table above."""

    ACCEPTED = "accepted"
    NOT_ACKNOWLEDGED = "not acknowledged"
    GONE = "gone"
    UNKNOWN = "unknown"
    NO_FILE = "no file"
    REFUSED = "refused"
    TOO_LARGE = "too large"
    UNAUTHORIZED = "unauthorized"
    BUSY = "busy"
    FAILING = "failing"
    FOREIGN = "foreign"
    FOREIGN_TOO_LARGE = "foreign too large"


ACKNOWLEDGED = "acknowledged"
_ENGINES_OWN = {
    400: ReplyKind.REFUSED,
    405: ReplyKind.REFUSED,
    409: ReplyKind.GONE,
    413: ReplyKind.TOO_LARGE,
    415: ReplyKind.REFUSED,
    422: ReplyKind.REFUSED,
}


def classify(reply: Reply, receipt: str | None) -> ReplyKind:  # noqa: PLR0911 - a table
    """Returns the meaning of a reply.

    Args:
        reply: the whole reply.
        receipt: the member that a successful reply of this call has in its JSON; None where its body is read elsewhere.

    """
    status = reply.status
    if status in _SUCCESS:
        return ReplyKind.ACCEPTED if receipt is None else _success(reply.body, receipt)
    if status in _NOT_DONE:
        return ReplyKind.BUSY
    if status == _UNAUTHORIZED:
        return ReplyKind.UNAUTHORIZED
    if status >= 500:
        return ReplyKind.FAILING
    if not is_engines(reply):
        return ReplyKind.FOREIGN_TOO_LARGE if status == 413 else ReplyKind.FOREIGN
    if status == 404:
        return _missing(_message(reply))
    return _ENGINES_OWN.get(status, ReplyKind.FOREIGN)


def is_receipt(reply: Reply) -> bool:
    """True for the usual reply to an outcome, without decoding it; `classify` knows the others."""
    body = reply.body
    return (
        reply.status == _OK
        and body.startswith(b'{"acknowledged":true')
        and body.endswith(b"}")
        and b'"warnings"' not in body
    )


def begins_content(head: Reply) -> bool:
    """True when the head of a reply says that the content of a file follows.

    The engine sends each file as an attachment (protocol.md §9.2): another page of HTML is somebody's own.
    """
    is_attached = head.headers.get("content-disposition", "").startswith("attachment")
    is_page = head.headers.get("content-type", "").startswith("text/html")
    return head.status == _OK and (is_attached or not is_page)


def refuses_token(status: int) -> bool:
    """True when a call is to be sent once more with another token, whoever refused this one."""
    return status == _UNAUTHORIZED


def is_engines(reply: Reply) -> bool:
    """True for an error in the engine's format: its JSON envelope, or a text of its web framework (§1.4)."""
    return _envelope(reply) is not None or reply.body.startswith(_TEXTS.get(reply.status, _NO_TEXT))


def words_of(reply: Reply) -> str:
    """Returns status and message on one line without control characters (faults.md E15).

    At most 200 characters of the engine's own words, 80 of others', after the target of a redirect.
    """
    error = _envelope(reply)
    text = str(error.get("message", "")) if error else reply.body[:_MOST_CHARS].decode(errors="replace")
    if error and isinstance(details := error.get("details"), dict):
        text += f" {details}"
    target = reply.headers.get("location", "")[:_MOST_CHARS] if 300 <= reply.status < 400 else ""
    text = " ".join(text.split())[: _MOST_CHARS if is_engines(reply) else _MOST_FOREIGN_CHARS]
    line = " ".join(f"{target} {text}".split())
    return f"status {reply.status}: " + "".join(c if c.isprintable() else "?" for c in line)


def retry_after_s(reply: Reply) -> float:
    """Returns Retry-After in seconds, 0 for dates and invalid values; the caller caps it (faults.md E7)."""
    try:
        wish = float(reply.headers.get("retry-after", "0"))
    except ValueError:
        return 0.0
    return wish if math.isfinite(wish) and wish > 0 else 0.0


def _success(body: bytes, receipt: str) -> ReplyKind:
    try:
        said = msgspec.json.decode(body)[receipt]
    except UNREADABLE:
        return ReplyKind.FOREIGN
    if receipt != ACKNOWLEDGED or said is True:
        return ReplyKind.ACCEPTED
    return ReplyKind.NOT_ACKNOWLEDGED if said is False else ReplyKind.FOREIGN


def _missing(message: str) -> ReplyKind:
    """Returns the kind of the engine's 404; one for the path alone is not about an activity or a file."""
    if "Activity '" in message:
        return ReplyKind.UNKNOWN
    return ReplyKind.NO_FILE if "Not found: File '" in message else ReplyKind.FOREIGN


def _message(reply: Reply) -> str:
    error = _envelope(reply)
    return str(error.get("message", "")) if error else ""


def _envelope(reply: Reply) -> Mapping[str, Any] | None:
    """Returns the engine's JSON error; None for text/plain, HTML and everything else (protocol.md §1.4)."""
    try:
        error = msgspec.json.decode(reply.body)["error"]
        is_ours = isinstance(error["code"], str) and isinstance(error["message"], str)
    except UNREADABLE:
        return None
    return error if is_ours else None
