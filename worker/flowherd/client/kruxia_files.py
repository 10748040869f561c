"""The meaning of Kruxia Flow's replies to file transfers (protocol.md §9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from flowherd.client.engine_protocol import Verdict
from flowherd.client.kruxia_replies import is_engines, sort_reply, words_of
from flowherd.errors import (
    EngineMisconfigured,
    EngineUnavailable,
    FileError,
    FileMissing,
    FileTooLarge,
    InvalidFile,
)

if TYPE_CHECKING:
    from flowherd.transport.transport import Reply


def check_uploaded(reply: Reply, size: int) -> None:
    """Raises unless the engine confirms that it stored `size` bytes.

    Raises:
        FileError: the engine will never accept this file.
        EngineUnavailable: the engine may accept it later, or stored another number of bytes.

    """
    answer = sort_reply(reply)
    if answer is None or answer.verdict is not Verdict.ACCEPTED:
        raise refusal(reply)
    try:
        stored = msgspec.json.decode(reply.body)["size"]
    except (msgspec.DecodeError, RecursionError, KeyError, TypeError, ValueError):
        raise EngineUnavailable(f"not an engine's reply: {words_of(reply)}", in_doubt=True) from None
    if stored != size:
        raise EngineUnavailable(f"the engine stored {stored} of {size} bytes", in_doubt=True)


def refusal(reply: Reply) -> FileError | EngineMisconfigured:
    """Returns the error for an unsuccessful reply; raises EngineError for one that may pass, such as a proxy's (N7)."""
    words = words_of(reply)
    if reply.status == 404 and is_engines(reply) and "Not found: File '" in words:
        return FileMissing(words)
    answer = sort_reply(reply)
    if reply.status == 413:
        return FileTooLarge(words)
    if answer is not None and answer.verdict is Verdict.REFUSED:
        return InvalidFile(words)
    return EngineMisconfigured(words)


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
