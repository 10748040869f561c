"""Kruxia Flow's words for files: references, routes, replies; it sends nothing (protocol.md §9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote
from uuid import UUID

import msgspec

from flowherd.client.kruxia_replies import is_engines, sort_reply, words_of
from flowherd.client.protocol import Verdict
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

SCHEME = "postgres://"
_LONGEST_PART = 1024  # characters of a key or a name: more fits into no path


@dataclass(frozen=True, slots=True)
class FileReference:
    """The engine's place for a file (protocol.md §9.4); `str()` is what travels in outputs and parameters."""

    workflow_id: str
    key: str
    name: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.workflow_id}/{self.key}/{self.name}"

    @classmethod
    def parse(cls, text: object) -> FileReference:
        """Reads `[postgres://]workflow/key/name`; the parts are raw, not percent-encoded.

        Raises:
            InvalidFile: it has another shape, or a part that would lead elsewhere (protocol.md §9.3).

        """
        parts = text.removeprefix(SCHEME).split("/") if isinstance(text, str) else []
        if len(parts) != 3 or not _is_uuid(parts[0]):
            raise InvalidFile(f"a file reference should look like {SCHEME}WORKFLOW-ID/ACTIVITY-KEY/NAME")
        if not all(_is_segment(part) for part in parts[1:]):
            raise InvalidFile("the key or the name in the file reference cannot be part of a path")
        return cls(*parts)

    @property
    def route(self) -> str:
        """The path of up- and download, percent-encoded."""
        key, name = quote(self.key, safe=""), quote(self.name, safe="")
        return f"/api/v1/workflows/{self.workflow_id}/activities/{key}/files/{name}"


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def _is_segment(part: str) -> bool:
    """No dots that climb; no control characters: the engine breaks the connection over them (§9.2)."""
    if part in {"", ".", ".."} or len(part) > _LONGEST_PART:
        return False
    return not any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in part)


def check_uploaded(reply: Reply, size: int) -> None:
    """Raises unless the engine says that it stored `size` bytes.

    Raises:
        FileError: it will never take this file.
        EngineUnavailable: it may take it later, or stored something else.

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
    """The meaning of a reply other than success; raises EngineError for what may pass, a proxy's 4xx among it (N7)."""
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
    """The length of a download that is about to begin.

    Raises:
        EngineUnavailable: there is none to compare with, or the content is not as it was stored (§9.2).

    """
    length = reply.headers.get("content-length", "")
    encoding = reply.headers.get("content-encoding", "identity")
    if not (length.isascii() and length.isdigit()) or encoding != "identity":
        reason = f"a download with length {length[:20]!r} and encoding {encoding[:20]!r}: is there a proxy?"
        raise EngineUnavailable(reason)
    return int(length)
