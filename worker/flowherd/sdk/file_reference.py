"""References to files in the engine, as parameters and outputs contain them (protocol.md §9.4)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote
from uuid import UUID

from flowherd.errors import InvalidFile

SCHEME = "postgres://"
_LONGEST_PART = 1024  # characters of a key or a name: longer ones fit into no path


@dataclass(frozen=True, slots=True)
class FileReference:
    """The location of a file in the engine (protocol.md §9.4); `str()` is its form in outputs and parameters."""

    workflow_id: str
    key: str
    name: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.workflow_id}/{self.key}/{self.name}"

    @classmethod
    def parse(cls, text: object) -> FileReference:
        """Parses `[postgres://]workflow/key/name`; the parts are raw, not percent-encoded.

        Raises:
            InvalidFile: the text has another form, or a part could lead to another path (protocol.md §9.3).

        """
        parts = text.removeprefix(SCHEME).split("/") if isinstance(text, str) else []
        if len(parts) != 3 or not _is_uuid(parts[0]):
            raise InvalidFile(f"a file reference should look like {SCHEME}WORKFLOW-ID/ACTIVITY-KEY/NAME")
        if not all(_is_segment(part) for part in parts[1:]):
            raise InvalidFile("the key or the name in the file reference cannot be part of a path")
        return cls(*parts)

    @property
    def route(self) -> str:
        """The URL path for uploads and downloads, percent-encoded."""
        key, name = quote(self.key, safe=""), quote(self.name, safe="")
        return f"/api/v1/workflows/{self.workflow_id}/activities/{key}/files/{name}"


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def _is_segment(part: str) -> bool:
    """False for `.`, `..` and control characters, at which the engine closes the connection (§9.2)."""
    if part in {"", ".", ".."} or len(part) > _LONGEST_PART:
        return False
    return not any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in part)
