"""What the demo computes about Python source: pure functions of text, the same in every process, without I/O.

Nothing here may depend on the seed of `hash()`: the answer of N processes is compared with a direct
computation key by key, so every feature is a CRC-32 and every order is total.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import io
import itertools
import json
import re
import struct
import tokenize
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Findings: TypeAlias = dict[str, Any]
"""JSON all the way down: it travels as an activity's output."""

SHINGLE = 5  # tokens in a row that make one feature of a function
PERMUTATIONS = 128
ROWS = 8  # values a band: two functions alike by 0.8 meet in one of the 16 bands with probability 0.95
MIN_TOKENS = 50  # shorter functions resemble each other by nature
ALIKE = 0.8
TOP = 10

_PRIME = (1 << 61) - 1
_FACTORS = [(zlib.crc32(b"a%d" % n) << 28 | 1, zlib.crc32(b"b%d" % n) << 28) for n in range(PERMUTATIONS)]
_PACKED = struct.Struct(f">{PERMUTATIONS}I")
_BLANK = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
_LITERAL = {tokenize.STRING: '""', tokenize.NUMBER: "0"}
_STYLES = (
    ("dunder", re.compile(r"__\w+__")),
    ("lower", re.compile(r"_*[a-z][a-z0-9]*_*")),
    ("snake_case", re.compile(r"_*[a-z0-9]+(_[a-z0-9]+)+_*")),
    ("UPPER_CASE", re.compile(r"_*[A-Z][A-Z0-9]*(_[A-Z0-9]+)*_*")),
    ("PascalCase", re.compile(r"_*[A-Z][A-Za-z0-9]*")),
    ("camelCase", re.compile(r"_*[a-z]+([A-Z][a-z0-9]*)+")),
)
_BRANCHES = (
    *(ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler),
    *(ast.IfExp, ast.Assert, ast.comprehension, ast.match_case),
)


class Function(NamedTuple):
    """One function or method of a file."""

    name: str
    line: int
    node: ast.FunctionDef | ast.AsyncFunctionDef


def functions(source: str, part: int = 0, parts: int = 1) -> list[Function]:
    """Return the functions number `part`, `part + parts`, … of the source, nested ones included."""
    return list(itertools.islice(_walk(ast.parse(source), ""), part, None, parts))


def measure(path: str, source: str, part: int = 0, parts: int = 1) -> Findings:
    """Return complexity, naming and size of one part of a file's functions."""
    lines = source.split("\n")  # as the parser counts lines: a form feed is none
    styles: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    scores = []
    for function in functions(source, part, parts):
        scores.append([complexity(function.node), path, function.name, function.line])
        styles.update(style(name) for name in _names(function.node))
        sizes["functions"] += 1
        for token in _tokens(function, lines):
            sizes["comments" if token.type == tokenize.COMMENT else "tokens"] += 1
    return {
        "complex": sorted(scores, key=_worst_first)[:TOP],
        "styles": dict(sorted(styles.items())),
        "sizes": dict(sorted(sizes.items())),
    }


def fingerprint(path: str, source: str, part: int = 0, parts: int = 1) -> Findings:
    """Return a minhash signature for each function of one part of a file that is long enough to compare."""
    lines = source.split("\n")  # as the parser counts lines: a form feed is none
    prints = []
    for function in functions(source, part, parts):
        words = [_LITERAL.get(t.type, t.string) for t in _tokens(function, lines) if t.type not in _BLANK]
        if len(words) >= MIN_TOKENS:
            packed = _PACKED.pack(*signature(words))
            prints.append([path, function.name, function.line, base64.b64encode(packed).decode("ascii")])
    return {"prints": prints}


def merge(measured: Iterable[Mapping[str, Any]], fingerprinted: Iterable[Mapping[str, Any]]) -> Findings:
    """Reduce the findings of all parts to the one answer; the order in which they come does not matter."""
    scores: list[list[Any]] = []
    styles: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for part in measured:
        scores.extend(part["complex"])
        styles.update(part["styles"])
        sizes.update(part["sizes"])
    pairs = near_duplicates([row for part in fingerprinted for row in part["prints"]])
    return {
        "most_complex": sorted(scores, key=_worst_first)[:TOP],
        "naming_styles": dict(sorted(styles.items())),
        "sizes": dict(sorted(sizes.items())),
        "near_duplicates": len(pairs),
        "closest_pairs": pairs[:TOP],
    }


def signature_table(fingerprinted: Iterable[Mapping[str, Any]]) -> bytes:
    """Return all signatures as lines of JSON, ordered by place: megabytes, and always the same ones."""
    rows = sorted(row for part in fingerprinted for row in part["prints"])
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def table_facts(table: Iterable[bytes]) -> Findings:
    """Return what tells one table from every other; it comes in chunks of any size."""
    digest, size, lines = hashlib.sha256(), 0, 0
    for chunk in table:
        digest.update(chunk)
        size += len(chunk)
        lines += chunk.count(b"\n")
    return {"bytes": size, "functions": lines, "sha256": digest.hexdigest()}


def complexity(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the cyclomatic complexity: 1 and one for each decision; a nested function counts for itself."""
    score = 1
    for child in _own_nodes(node):
        if isinstance(child, ast.BoolOp):
            score += len(child.values) - 1
        elif isinstance(child, _BRANCHES):
            score += 1
    return score


def style(name: str) -> str:
    """Return the naming style of one identifier."""
    return next((label for label, pattern in _STYLES if pattern.fullmatch(name)), "other")


def signature(words: list[str]) -> list[int]:
    """Return the minhash signature of a token sequence: the share of equal places estimates likeness."""
    shingles = {
        zlib.crc32("\x1f".join(words[n : n + SHINGLE]).encode("utf-8", "backslashreplace"))
        for n in range(max(1, len(words) - SHINGLE + 1))
    }
    return [min([(a * x + b) % _PRIME for x in shingles]) & 0xFFFFFFFF for a, b in _FACTORS]


def near_duplicates(prints: Iterable[list[Any]]) -> list[list[Any]]:
    """Return the pairs of functions of different files that are alike by `ALIKE` or more, closest first.

    Banded minhash: only functions that share a whole band are compared, so the work stays far from quadratic.
    """
    rows = sorted(prints)
    values = [_PACKED.unpack(base64.b64decode(row[3])) for row in rows]
    bands: dict[tuple[int, ...], list[int]] = {}
    for index, signed in enumerate(values):
        for start in range(0, PERMUTATIONS, ROWS):
            bands.setdefault((start, *signed[start : start + ROWS]), []).append(index)
    candidates = {pair for bucket in bands.values() for pair in itertools.combinations(bucket, 2)}
    pairs = []
    for first, second in candidates:
        if rows[first][0] != rows[second][0]:
            equal = sum(a == b for a, b in zip(values[first], values[second], strict=True))
            if equal >= ALIKE * PERMUTATIONS:
                pairs.append([round(equal / PERMUTATIONS, 3), _place(rows[first]), _place(rows[second])])
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2]))


def _walk(node: ast.AST, prefix: str) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield Function(prefix + child.name, child.lineno, child)
                yield from _walk(child, f"{prefix}{child.name}.")
            case ast.ClassDef():
                yield from _walk(child, f"{prefix}{child.name}.")
            case ast.stmt() | ast.ExceptHandler() | ast.match_case():
                yield from _walk(child, prefix)


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child
            yield from _own_nodes(child)


def _names(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    yield node.name
    for child in _own_nodes(node):
        match child:
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name


def _tokens(function: Function, lines: list[str]) -> Iterator[tokenize.TokenInfo]:
    """Return the tokens of one function; a method's lines stay indented: to the tokenizer that is a block."""
    text = "\n".join(lines[function.node.lineno - 1 : function.node.end_lineno]) + "\n"
    return tokenize.generate_tokens(io.StringIO(text).readline)


def _worst_first(score: list[Any]) -> tuple[Any, ...]:
    return (-score[0], *score[1:])


def _place(row: list[Any]) -> str:
    return f"{row[0]}:{row[2]} {row[1]}"
