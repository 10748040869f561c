"""The demo's activities, which analyse source files of Python's standard library.

`flowherd run flowherd_supervisor.demo.app:registry` hosts them on any engine. The answer of N processes is compared
with a direct computation, so nothing may depend on the seed of `hash()`: every feature is a CRC-32, every order is
total.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import functools
import hashlib
import io
import itertools
import json
import os
import struct
import sysconfig
import tempfile
import time
import tokenize
import zlib
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from flowherd import ActivityContext, Registry, SyncActivityContext

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

APP, WORKER_TYPE = "flowherd_supervisor.demo.app:registry", "flowherd-demo"
registry = Registry()
KILL_EXPLAINS_S = 5.0
"""Longest time from the start of an activity to the kill that makes it run again: 50 ms, more on a busy host."""

Findings: TypeAlias = dict[str, Any]
"""JSON values only, since it is an activity's output."""

# Smaller files are more overhead than work; a part of this size takes 30 to 90 ms of pure Python.
MIN_BYTES, MAX_BYTES, PART_BYTES = 7 * 1024, 80 * 1024, 28 * 1024
# Python 2 fixtures, tables without functions, and packages that not every distribution ships.
_SKIPPED = frozenset(
    {"test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages"}
    | {"encodings", "pydoc_data", "distutils", "__phello__", "__pycache__"}
)

SHINGLE = 5  # tokens in a row that make one feature of a function
PERMUTATIONS = 256
ROWS = 8  # values a band: two functions alike by 0.8 meet in one of the 32 bands with probability 0.997
MIN_TOKENS = 50  # shorter functions are often alike by chance
ALIKE = 0.8
TOP = 10

_PRIME = (1 << 61) - 1
_FACTORS = [(zlib.crc32(b"a%d" % n) << 28 | 1, zlib.crc32(b"b%d" % n) << 28) for n in range(PERMUTATIONS)]
_PACKED = struct.Struct(f">{PERMUTATIONS}I")
_BLANK = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
    *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
}
_LITERAL = {tokenize.STRING: '""', tokenize.NUMBER: "0"}
_BRANCHES = (
    *(ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler),
    *(ast.IfExp, ast.Assert, ast.comprehension, ast.match_case),
)
_FunctionNode: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


class Part(NamedTuple):
    """The work of one activity: the functions number `part`, `part + parts`, … of one file."""

    path: str
    part: int
    parts: int

    @property
    def key(self) -> str:
        """The part's name in the journal, without blanks or line ends."""
        return f"{self.path}:{self.part}"


# The activities


@registry.activity(name="analyse_source")
async def analyse_source(root: str, path: str, part: int, parts: int, journal: str) -> Findings:
    """Reads a file off the loop and analyses one part of its functions on the loop."""
    work = Part(path, part, parts)
    record(journal, work.key)
    source = await asyncio.get_running_loop().run_in_executor(_readers(), read_source, root, path)
    return analyse(work, source)


@registry.activity(name="merge_findings")
def merge_findings(ctx: SyncActivityContext, findings: list[Findings], journal: str) -> Findings:
    """Merges all findings to one answer and a file of signatures; a plain function, so it runs on a thread."""
    record(journal, "merge")
    with tempfile.NamedTemporaryFile(prefix="signatures-", suffix=".jsonl") as table:
        table.write(signature_table(findings))
        table.flush()
        reference = ctx.upload_file(table.name, "signatures.jsonl")
    return {**merge(findings), "table": reference}


@registry.activity(name="check_signatures")
async def check_signatures(ctx: ActivityContext, table: str, journal: str) -> Findings:
    """Downloads the file of signatures and returns its size, lines and digest."""
    record(journal, "signatures")
    path = await ctx.download_file(table)
    return await asyncio.get_running_loop().run_in_executor(_readers(), _facts_of_file, path)


@registry.activity(name="step")
async def step(wait_s: float, rounds: int) -> dict[str, int]:
    """Waits without the CPU, then computes in pure Python: the load of `flowherd bench`."""
    if wait_s > 0:
        await asyncio.sleep(wait_s)
    return {"result": compute(rounds)}


@functools.cache
def _readers() -> ThreadPoolExecutor:
    """Creates the pool at its first use, after the fork, which threads do not survive."""
    return ThreadPoolExecutor(2, thread_name_prefix="demo-read")


def _facts_of_file(path: Path) -> Findings:
    with path.open("rb") as table:
        return table_facts(iter(lambda: table.read(1 << 16), b""))


# The journal of executions


class Execution(NamedTuple):
    """A start of a handler, by the host's monotonic clock, which all its processes share."""

    started_s: float
    pid: int
    key: str


class Tally(NamedTuple):
    """Counts of activities that did not run once: never, again, or again because of a kill."""

    never: int
    duplicates: int
    after_kill: int


def record(journal: str, key: str) -> None:
    """Appends the start of an execution to the journal: time, pid and key.

    A write to a file opened with O_APPEND is atomic, so the journal counts executions independently of engine and
    supervisor.
    """
    line = f"{time.monotonic():.6f} {os.getpid()} {key}\n".encode()
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def executions(journal: Path) -> list[Execution]:
    """Returns all executions so far in the order of their writes."""
    rows = (line.split(" ", 2) for line in journal.read_text().splitlines()) if journal.exists() else ()
    return [Execution(float(started), int(pid), key) for started, pid, key in rows]


def tally(ran: Collection[Execution], keys: Collection[str], kills: Mapping[int, float]) -> Tally:
    """Counts missing and repeated executions of `keys`; `kills` maps pids of killed processes to times."""
    by_key: dict[str, list[Execution]] = defaultdict(list)
    for execution in ran:
        by_key[execution.key].append(execution)
    duplicates = after_kill = 0
    for key in keys:
        again = max(len(by_key[key]) - 1, 0)
        cut_short = sum(
            0 <= kills.get(one.pid, -1.0) - one.started_s <= KILL_EXPLAINS_S for one in by_key[key]
        )
        after_kill += min(again, cut_short)
        duplicates += again - min(again, cut_short)
    return Tally(sum(not by_key[key] for key in keys), duplicates, after_kill)


# The work


def stdlib() -> Path:
    """Returns the folder of this interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def parts_of(root: Path, limit: int | None = None) -> list[Part]:
    """Returns all parts below `root`, or the first `limit`, shuffled but always in the same order.

    Large and small files alternate, so that every prefix is a fair sample of the whole.
    """
    found = []
    for file in root.rglob("*.py"):
        path = file.relative_to(root)
        if _SKIPPED.isdisjoint(path.parts) and " " not in str(path):
            size = file.stat().st_size
            if MIN_BYTES <= size <= MAX_BYTES:
                parts = -(-size // PART_BYTES)
                found += [Part(str(path), part, parts) for part in range(parts)]
    return sorted(found, key=lambda part: (zlib.crc32(part.key.encode()), part.key))[:limit]


def read_source(root: str | Path, path: str) -> str:
    """Returns a file's text, decoded as Python would (PEP 263)."""
    with tokenize.open(Path(root, path)) as file:
        return file.read()


def compute(rounds: int) -> int:
    """Applies a linear congruence `rounds` times, the same work on every machine."""
    number = 1
    for _ in range(rounds):
        number = (number * 1_103_515_245 + 12_345) & 0x7FFF_FFFF
    return number


def analyse(work: Part, source: str) -> Findings:
    """Returns complexity and size of one part of a file's functions, and minhash signatures of those long enough."""
    lines = source.split("\n")  # as the parser: a form feed does not end a line
    sizes: Counter[str] = Counter()
    scores, signatures = [], []
    for name, node in itertools.islice(_functions(ast.parse(source), ""), work.part, None, work.parts):
        scores.append([_complexity(node), work.path, name, node.lineno])
        words = []
        for token in _tokens(node, lines):
            sizes["comments" if token.type == tokenize.COMMENT else "tokens"] += 1
            if token.type not in _BLANK:
                words.append(_LITERAL.get(token.type, token.string))
        sizes["functions"] += 1
        if len(words) >= MIN_TOKENS:
            packed = base64.b64encode(_PACKED.pack(*_signature(words))).decode("ascii")
            signatures.append([work.path, name, node.lineno, packed])
    return {"complex": sorted(scores, key=_worst_first)[:TOP], "sizes": sizes, "signatures": signatures}


def merge(findings: Iterable[Findings]) -> Findings:
    """Reduces the findings of all parts, in any order, to one answer."""
    scores: list[list[Any]] = []
    sizes: Counter[str] = Counter()
    rows: list[list[Any]] = []
    for part in findings:
        scores += part["complex"]
        sizes.update(part["sizes"])
        rows += part["signatures"]
    pairs = _near_duplicates(rows)
    return {
        "most_complex": sorted(scores, key=_worst_first)[:TOP],
        "sizes": dict(sorted(sizes.items())),
        "near_duplicates": len(pairs),
        "closest_pairs": pairs[:TOP],
    }


def signature_table(findings: Iterable[Findings]) -> bytes:
    """Returns all signatures as lines of JSON, ordered by place: some megabytes, always the same."""
    rows = sorted(row for part in findings for row in part["signatures"])
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def table_facts(table: Iterable[bytes]) -> Findings:
    """Returns size, lines and digest of a table, which may come in chunks of any size."""
    digest, size, lines = hashlib.sha256(), 0, 0
    for chunk in table:
        digest.update(chunk)
        size += len(chunk)
        lines += chunk.count(b"\n")
    return {"bytes": size, "functions": lines, "sha256": digest.hexdigest()}


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, _FunctionNode]]:
    """Yields each function and method with its qualified name, in source order, including nested ones."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield prefix + child.name, child
                yield from _functions(child, f"{prefix}{child.name}.")
            case ast.ClassDef():
                yield from _functions(child, f"{prefix}{child.name}.")
            case ast.stmt() | ast.ExceptHandler() | ast.match_case():
                yield from _functions(child, prefix)


def _complexity(node: ast.AST) -> int:
    """Returns the cyclomatic complexity: 1 plus the number of decisions, without those of nested functions."""
    return 1 + sum(
        len(child.values) - 1 if isinstance(child, ast.BoolOp) else isinstance(child, _BRANCHES)
        for child in _own_nodes(node)
    )


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child
            yield from _own_nodes(child)


def _tokens(node: _FunctionNode, lines: list[str]) -> Iterator[tokenize.TokenInfo]:
    """Yields the tokens of one function; the tokenizer takes a method's indented lines for a block."""
    text = "\n".join(lines[node.lineno - 1 : node.end_lineno]) + "\n"
    return tokenize.generate_tokens(io.StringIO(text).readline)


def _signature(words: list[str]) -> list[int]:
    """Returns the minhash signature of a token sequence; the share of equal places estimates similarity."""
    shingles = {
        zlib.crc32("\x1f".join(words[n : n + SHINGLE]).encode("utf-8", "backslashreplace"))
        for n in range(max(1, len(words) - SHINGLE + 1))
    }
    return [min([(a * x + b) % _PRIME for x in shingles]) & 0xFFFFFFFF for a, b in _FACTORS]


def _near_duplicates(signatures: Iterable[list[Any]]) -> list[list[Any]]:
    """Returns pairs of functions of different files with a similarity of `ALIKE` or more, closest first.

    Banded minhash: only functions that share a whole band are compared, so the work stays far from quadratic.
    """
    rows = sorted(signatures)
    values = [_PACKED.unpack(base64.b64decode(row[3])) for row in rows]
    bands: dict[tuple[int, ...], list[int]] = {}
    for index, signed in enumerate(values):
        for start in range(0, PERMUTATIONS, ROWS):
            bands.setdefault((start, *signed[start : start + ROWS]), []).append(index)
    pairs = []
    for first, second in {pair for bucket in bands.values() for pair in itertools.combinations(bucket, 2)}:
        if rows[first][0] != rows[second][0]:
            equal = sum(a == b for a, b in zip(values[first], values[second], strict=True))
            if equal >= ALIKE * PERMUTATIONS:
                pairs.append([round(equal / PERMUTATIONS, 3), _place(rows[first]), _place(rows[second])])
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))


def _worst_first(score: list[Any]) -> tuple[Any, ...]:
    return (-score[0], *score[1:])


def _place(row: list[Any]) -> str:
    return f"{row[0]}:{row[2]} {row[1]}"
