"""The meaning of Kruxia Flow's replies to file transfers (protocol.md §9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from flowherd.client.engine_protocol import Verdict
from flowherd.client.kruxia_replies import answer_to
from flowherd.client.reply_classifier import ReplyKind, classify, words_of
from flowherd.errors import (
    EngineUnavailable,
    FileError,
    FileMissing,
    FileTooLarge,
    FileTransferFailed,
    InvalidFile,
)

if TYPE_CHECKING:
    from flowherd.transport.transport import Reply


def check_uploaded(reply: Reply, size: int, place: str) -> None:
    """Raises unless the engine confirms that it stored `size` bytes.

    Args:
        reply: the whole reply.
        size: bytes that were sent.
        place: method and URL of the call, for errors.

    Raises:
        FileError: the engine will never accept this file.
        EngineUnavailable: the engine may accept it later, or stored another number of bytes.

    """
    if classify(reply, "size") is not ReplyKind.ACCEPTED:
        raise refusal(reply, place)
    stored = msgspec.json.decode(reply.body)["size"]
    if stored != size:
        raise EngineUnavailable(f"the engine stored {stored} of {size} bytes", in_doubt=True)


def refusal(reply: Reply, place: str) -> FileError:
    """Returns the engine's no to a file; raises EngineError for all that may pass, such as a proxy's reply (N7)."""
    match classify(reply, "size"):
        case ReplyKind.NO_FILE:
            return FileMissing(words_of(reply))
        case ReplyKind.TOO_LARGE:
            return FileTooLarge(words_of(reply))
    answer = answer_to(reply, place, "size")
    return (InvalidFile if answer.verdict is Verdict.REFUSED else FileTransferFailed)(answer.detail)


def announced_size(reply: Reply) -> int:
    """Returns the length of a download from the head of its reply.

    Raises:
        EngineUnavailable: the reply has no length to compare with, or its content is encoded (§9.2).

    """
    length = reply.headers.get("content-length", "")
    encoding = reply.headers.get("content-encoding", "identity")
    if not (length.isascii() and length.isdigit()) or encoding != "identity":
        reason = f"a download with length {length[:20]!r} and encoding {encoding[:20]!r}: is there a proxy?"
        raise EngineUnavailable(reason)
    return int(length)
