"""Reads llhttp's tests: the bytes of a reply, and the result of llhttp's strict parser.

The files are Markdown: a heading, a comment with the type, a block `http` whose line ends stand for CRLF and which has
escapes of its own, and a block `log` with one line for each thing the parser saw.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CASE = re.compile(
    r"^#{2,3} (?P<name>[^\n]+)\n(?P<text>(?:(?!^#)[^\n]*\n)*?)"
    r"<!-- meta=(?P<meta>\{.*?\}) -->\n```http\n(?P<http>.*?)^```\n(?:(?!^#)[^\n]*\n)*?```log\n(?P<log>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
_BODY = re.compile(r"off=(\d+) len=(\d+) span\[body\]=")
_HEAD = re.compile(r"off=\d+ headers complete status=(\d+)")
_INTERIM = 200


@dataclass(frozen=True, slots=True)
class Expected:
    """The first reply that is not an interim one.

    Attributes:
        status: 0: its head did not come, or not well.
        body: as far as it came.
        is_whole: True if its end was seen.
        is_refused: an error before its end.
        has_surplus: bytes of something else follow it.
    """

    status: int
    body: bytes
    is_whole: bool
    is_refused: bool
    has_surplus: bool


@dataclass(frozen=True, slots=True)
class Case:
    """One test of the corpus; `is_strict`: the log is what the strict parser says of it."""

    name: str
    raw: bytes
    is_strict: bool
    log: str

    @property
    def expected(self) -> Expected:
        """Read from the log."""
        status, body, is_whole = 0, b"", False
        for line in self.log.splitlines():
            if head := _HEAD.match(line):
                status = int(head[1])
            elif part := _BODY.match(line):
                begin, length = int(part[1]), int(part[2])
                body += self.raw[begin : begin + length]
            elif "error code=" in line:
                return Expected(status, body, is_whole, not is_whole, is_whole)
            elif line.endswith("message begin") and is_whole:
                return Expected(status, body, is_whole=True, is_refused=False, has_surplus=True)
            elif line.endswith("message complete"):
                is_whole = status >= _INTERIM
                status, body = (status, body) if is_whole else (0, b"")
        return Expected(status, body, is_whole, is_refused=False, has_surplus=False)


def corpus(folder: Path) -> Iterator[Case]:
    """All tests of a folder whose input is a reply; none to a HEAD, which we do not send."""
    for path in sorted(folder.glob("*.md")):
        for found in _CASE.finditer(path.read_text()):
            meta = json.loads(found["meta"])
            if meta.get("skipBody"):
                continue
            name = f"{path.stem}: {found['name'].strip()}"
            is_strict = meta["type"] in {"response", "response-finish"}
            yield Case(name, _bytes_of(found["http"]), is_strict, found["log"])


def _bytes_of(text: str) -> bytes:
    text = re.sub(r"\\\n", "", text.removesuffix("\n")).replace("\n", "\r\n")
    for escape, meant in (("\\r", "\r"), ("\\n", "\n"), ("\\t", "\t"), ("\\f", "\f")):
        text = text.replace(escape, meant)
    text = re.sub(r"\\x([0-9a-fA-F]+)", lambda found: chr(int(found[1], 16)), text)
    text = re.sub(r"\\([0-7]{1,3})", lambda found: chr(int(found[1], 8)), text)
    return text.encode()
