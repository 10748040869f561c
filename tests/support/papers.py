"""The papers that code and tests cite: their sections and ids, and citations without a target."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Documented: TypeAlias = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

PROTOCOL, FAULTS = "worker/docs/protocol.md", "supervisor/docs/faults.md"
CONTRACT = ("tests/contract/", "tests/engine/", "supervisor/flowherd_engine/", PROTOCOL)  # their C rows: §14

_SECTION = r"§\d+(?:\.\d+)*(?: [ABC]\b)?"
_ID = r"[CEPAFSNIMRD]\d{1,2}[a-z]?\b"
_WORD = rf"(?:{_SECTION}|{_ID}|(?:fact|rule|decision) \d+)"
_NEXT = rf"(?:(?:,? and |, | to |-|; | ){_WORD})*"
_CITATION = re.compile(rf"(?<![\w/\[])(protocol|faults)\.md(?!\]\()(?:,? ({_WORD}{_NEXT}))?")
_FAULTS = re.compile(rf"\b(?:[Ff]aults?|[Ss]corecard) ({_ID}{_NEXT})")
_IN_BRACKETS = re.compile(rf"\(({_ID}(?:, {_ID})*)\)")
_FIRST = re.compile(rf"({_ID}(?:(?:, |-| to ){_ID})*)(?:[:;.,]|$)")
_BARE_SECTION = re.compile(rf"(?<!RFC \d{{4}} )({_SECTION})")
_NAMED_TEST = re.compile(r"^test_([a-z]\d{1,2})_")
_GONE = re.compile(r"\b(?:(?:re)?design|interface|performance|libraries|style)\.md")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_ROW = re.compile(r"^\| ([A-Z]\d+) \|.*\| (.*) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Citation:
    """A reference to a section, fact, rule, decision or id of a paper; "" if it names none."""

    path: str
    paper: str
    word: str


@dataclass(frozen=True)
class Papers:
    """The text of both papers, by which citations are resolved."""

    protocol: str
    faults: str

    def missing(self, citations: Iterable[Citation]) -> Iterator[str]:
        """Yields a complaint for each citation without a target."""
        for citation in citations:
            if not self.has(citation.paper, citation.word):
                yield f"{citation.path}: {citation.paper}.md has no {citation.word or 'place that is named'}"

    def has(self, paper: str, word: str) -> bool:
        """True if the paper has the section, fact, rule, decision or id."""
        text = self.protocol if paper == "protocol" else self.faults
        if word.startswith("§"):
            number, _, letter = word[1:].partition(" ")
            return _has_section(text, number) and (not letter or f"**{letter}." in _section(text, number))
        if (found := re.match(r"(fact|rule|decision) (\d+)", word)) is not None:
            where = {"fact": "0", "rule": "2", "decision": "4"}[found[1]]
            return re.search(rf"^{found[2]}\. ", _section(text, where), re.MULTILINE) is not None
        row = re.match(r"[A-Z]\d+", word)
        return (
            row is not None
            and re.search(rf"^(?:\| {row[0]} \||- (?:\*\*)?{row[0]}:)", text, re.MULTILINE) is not None
        )


def citations(path: str, text: str) -> Iterator[Citation]:
    """Yields references with a paper: `protocol.md §6.4 and fact 8`, `faults.md C3-C5`; pages may cite whole papers."""
    for found in _CITATION.finditer(_flat(text)):
        for word in _words(found[2] or "") or ([] if path.endswith(".md") else [""]):
            yield Citation(path, found[1], word)


def sections(path: str, text: str) -> Iterator[Citation]:
    """Yields sections without a paper, which are the protocol's, unless they follow an RFC or another paper."""
    for found in _BARE_SECTION.finditer(_CITATION.sub("", _flat(text))):
        yield Citation(path, "protocol", found[1])


def ids(path: str, text: str) -> Iterator[Citation]:
    """Yields ids of faults, of the contract's rows and of rules, without the name of a paper.

    They are recognised after the word "faults", at the start of a docstring, alone in brackets, and in the names of
    tests. Elsewhere such a word may be anything, such as a register or a model of a processor.
    """
    flat = _CITATION.sub("", _flat(text))
    lists = [match[1] for pattern in (_FAULTS, _IN_BRACKETS) for match in pattern.finditer(flat)]
    for node in documented(ast.parse(text)):
        if first := _FIRST.match(ast.get_docstring(node) or ""):
            lists.append(first[1])
        if test := _NAMED_TEST.match(getattr(node, "name", "")):
            lists.append(test[1].upper())
    for word in (word for words in lists for word in _words(words)):
        is_row = word.startswith("C") and path.startswith(CONTRACT)
        yield Citation(path, "protocol" if is_row or word[0] in "RD" else "faults", word)


def nothing_else_is_cited(path: str, text: str) -> Iterator[str]:
    """Yields a complaint for each cited paper that is not in the repository."""
    for found in _GONE.finditer(text):
        yield f"{path}: {found[0]} is not in the repository"


def rows_are_shown(papers: Papers, tests: Mapping[str, set[str]]) -> Iterator[str]:
    """Yields a complaint for each row of the faults without an existing test or a reason for having none."""
    catalogue = _section(papers.faults, "1")
    for row, shown in _ROW.findall(catalogue):
        named = _TEST.findall(shown)
        if not named and not shown.startswith("not tested: "):
            yield f"{FAULTS}: {row} is shown by nothing"
    for path, name in _TEST.findall(papers.faults):
        if name not in tests.get(path, ()):
            yield f"{FAULTS}: there is no {path}::{name}"


def rows_are_unique(papers: Papers) -> Iterator[str]:
    """Yields a complaint for each id with two rows."""
    for path, text in ((PROTOCOL, papers.protocol), (FAULTS, papers.faults)):
        rows = re.findall(r"^(?:\| |- (?:\*\*)?)([A-Z]\d+)(?: \||:)", text, re.MULTILINE)
        yield from (f"{path}: {row} stands twice" for row in sorted({r for r in rows if rows.count(r) > 1}))


def documented(node: Documented) -> Iterator[Documented]:
    """Yields the documented nodes: modules, classes and functions, and those in their bodies."""
    yield node
    for inner in node.body:
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from documented(inner)


def tests_of(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Maps each file to the names of its test functions, without importing it."""
    return {
        path: {
            node.name
            for node in documented(ast.parse(text))
            if not isinstance(node, ast.Module) and node.name.startswith("test_")
        }
        for path, text in sources.items()
    }


def _words(text: str) -> list[str]:
    """Splits a list into single references; a range yields its ends."""
    return re.findall(_WORD, text)


def _flat(text: str) -> str:
    """Returns the text with line ends and following comment marks replaced by single spaces."""
    return re.sub(r"\s*\n[ \t]*(?:#|//|\*)?[ \t]*", " ", text)


def _has_section(text: str, number: str) -> bool:
    return re.search(rf"^#+ {re.escape(number)}\.? ", text, re.MULTILINE) is not None


def _section(text: str, number: str) -> str:
    """Returns the text below a heading with its subsections, "" if there is none."""
    found = re.search(rf"^(#+) {re.escape(number)}\.? .*$", text, re.MULTILINE)
    if found is None:
        return ""
    end = re.search(rf"^#{{1,{len(found[1])}}} ", text[found.end() :], re.MULTILINE)
    return text[found.end() :][: end.start() if end else None]
