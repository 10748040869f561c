"""Which work the demo does: parts of the standard library's own source files, which it only reads."""

from __future__ import annotations

import sysconfig
import tokenize
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from flowherd_supervisor.demo import analysis

Kind: TypeAlias = Literal["measure", "fingerprint"]

MIN_BYTES = 7 * 1024  # below, an activity would be more overhead than work
MAX_BYTES = 80 * 1024
PART_BYTES = 28 * 1024  # of source for one fingerprint activity: 20 to 60 ms of pure Python
# Python 2 fixtures, tables without functions, and what a distribution may ship or not.
_SKIPPED = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"}
    | {"encodings", "pydoc_data", "distutils", "__phello__", "__pycache__"}
)


class Chunk(NamedTuple):
    """The work of one activity: one kind of analysis of one part of a file's functions."""

    kind: Kind
    path: str
    part: int
    parts: int

    @property
    def key(self) -> str:
        """The chunk's name, without blanks or line ends: one word of the journal."""
        return f"{self.kind}:{self.path}:{self.part}"


def stdlib() -> Path:
    """Return the folder of this interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def chunks(root: Path, limit: int | None = None) -> list[Chunk]:
    """Return all work below `root`, or the first `limit` of it, shuffled but always in the same order.

    Large and small files alternate that way, and every prefix is a fair sample of the whole.
    """
    found = []
    for file in root.rglob("*.py"):
        path = file.relative_to(root)
        if _SKIPPED.isdisjoint(path.parts) and " " not in str(path):
            size = file.stat().st_size
            if MIN_BYTES <= size <= MAX_BYTES:
                found.extend(_chunks_of(str(path), size))
    return sorted(found, key=lambda chunk: (zlib.crc32(chunk.key.encode()), chunk.key))[:limit]


def read_source(root: str | Path, path: str) -> str:
    """Return a file's text, decoded as Python itself would (PEP 263)."""
    with tokenize.open(Path(root, path)) as file:
        return file.read()


def compute(root: Path, chunk: Chunk) -> analysis.Findings:
    """Compute one chunk here and now: what an activity does, without anything of flowherd."""
    source = read_source(root, chunk.path)
    work = analysis.measure if chunk.kind == "measure" else analysis.fingerprint
    return work(chunk.path, source, chunk.part, chunk.parts)


def merge(findings: list[tuple[Chunk, analysis.Findings]]) -> dict[str, Any]:
    """Reduce the findings of chunks to the one answer, in this process."""
    parts = by_kind(findings)
    table = analysis.signature_table(parts["fingerprinted"])
    return {**analysis.merge(**parts), "signatures": analysis.table_facts([table])}


def by_kind(findings: list[tuple[Chunk, analysis.Findings]]) -> dict[str, list[analysis.Findings]]:
    """Return the findings as the two lists that the reduce step takes."""
    return {
        "measured": [found for chunk, found in findings if chunk.kind == "measure"],
        "fingerprinted": [found for chunk, found in findings if chunk.kind == "fingerprint"],
    }


def _chunks_of(path: str, size: int) -> list[Chunk]:
    parts = -(-size // PART_BYTES)
    return [
        Chunk("measure", path, 0, 1),
        *(Chunk("fingerprint", path, part, parts) for part in range(parts)),
    ]
