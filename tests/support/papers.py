"""The papers that code and tests cite: what each of them has under which id, and which citations lead nowhere."""

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
    """One reference of a file: a section, fact, rule, decision or id of a paper; "" where it names none."""

    path: str
    paper: str
    word: str


@dataclass(frozen=True)
class Papers:
    """Both papers as text; a citation is resolved by what they really hold."""

    protocol: str
    faults: str

    def missing(self, citations: Iterable[Citation]) -> Iterator[str]:
        """A complaint for each citation that names nothing, or something that is not there."""
        for citation in citations:
            if not self.has(citation.paper, citation.word):
                yield f"{citation.path}: {citation.paper}.md has no {citation.word or 'place that is named'}"

    def has(self, paper: str, word: str) -> bool:
        """True when the paper has the section, fact, rule, decision or id."""
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
    """All that names a paper: `protocol.md §6.4 and fact 8`, `faults.md C3-C5`; pages may speak of a whole paper."""
    for found in _CITATION.finditer(_flat(text)):
        for word in _words(found[2] or "") or ([] if path.endswith(".md") else [""]):
            yield Citation(path, found[1], word)


def sections(path: str, text: str) -> Iterator[Citation]:
    """Sections without a paper are the protocol's, unless they stand behind an RFC or another paper."""
    for found in _BARE_SECTION.finditer(_CITATION.sub("", _flat(text))):
        yield Citation(path, "protocol", found[1])


def ids(path: str, text: str) -> Iterator[Citation]:
    """Ids of faults, of the contract's rows and of rules, without the name of a paper.

    As far as a pattern can tell: ids behind the word "faults", at the beginning of a docstring, alone in brackets, and
    in the names of tests. Others may be anything: a register, a model of a processor.
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
    """A complaint for each paper that is not in the repository."""
    for found in _GONE.finditer(text):
        yield f"{path}: {found[0]} is not in the repository"


def rows_are_shown(papers: Papers, tests: Mapping[str, set[str]]) -> Iterator[str]:
    """Each row of the faults names a test that exists, or says why there is none."""
    catalogue = _section(papers.faults, "1")
    for row, shown in _ROW.findall(catalogue):
        named = _TEST.findall(shown)
        if not named and not shown.startswith("not tested: "):
            yield f"{FAULTS}: {row} is shown by nothing"
    for path, name in _TEST.findall(papers.faults):
        if name not in tests.get(path, ()):
            yield f"{FAULTS}: there is no {path}::{name}"


def rows_are_unique(papers: Papers) -> Iterator[str]:
    """An id that stands twice says two things."""
    for path, text in ((PROTOCOL, papers.protocol), (FAULTS, papers.faults)):
        rows = re.findall(r"^(?:\| |- (?:\*\*)?)([A-Z]\d+)(?: \||:)", text, re.MULTILINE)
        yield from (f"{path}: {row} stands twice" for row in sorted({r for r in rows if rows.count(r) > 1}))


def documented(node: Documented) -> Iterator[Documented]:
    """A module, class or function, and those that its body defines."""
    yield node
    for inner in node.body:
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from documented(inner)


def tests_of(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """The names of the test functions of each file, read and never run."""
    return {
        path: {
            node.name
            for node in documented(ast.parse(text))
            if not isinstance(node, ast.Module) and node.name.startswith("test_")
        }
        for path, text in sources.items()
    }


def _words(text: str) -> list[str]:
    """The single references of a list; of a range its ends."""
    return re.findall(_WORD, text)


def _flat(text: str) -> str:
    """The text with line ends, and the marks of comments behind them, as single spaces."""
    return re.sub(r"\s*\n[ \t]*(?:#|//|\*)?[ \t]*", " ", text)


def _has_section(text: str, number: str) -> bool:
    return re.search(rf"^#+ {re.escape(number)}\.? ", text, re.MULTILINE) is not None


def _section(text: str, number: str) -> str:
    """What stands below a heading, with its subsections; "" without it."""
    found = re.search(rf"^(#+) {re.escape(number)}\.? .*$", text, re.MULTILINE)
    if found is None:
        return ""
    end = re.search(rf"^#{{1,{len(found[1])}}} ", text[found.end() :], re.MULTILINE)
    return text[found.end() :][: end.start() if end else None]
