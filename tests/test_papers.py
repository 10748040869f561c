"""The papers in `worker/docs/` and `supervisor/docs/` hold what code and tests cite, and each check can fail."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

import papers
import pytest
from papers import FAULTS, PROTOCOL, Citation, Papers

TOP = Path(__file__).resolve().parent.parent
ROOTS = ("worker", "supervisor", "tests", "deploy")
KINDS = {".py", ".md", ".toml", ".yaml", ".yml", ".html", ".js", ".css", ".service", ".rs", ".in"}
OURS = Papers((TOP / PROTOCOL).read_text(encoding="utf-8"), (TOP / FAULTS).read_text(encoding="utf-8"))


@cache
def texts() -> dict[str, str]:
    """Returns all texts but this file, whose examples must fail."""
    found = [path for root in ROOTS for path in sorted((TOP / root).rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(TOP)): path.read_text(encoding="utf-8")
        for path in found
        if (path.suffix in KINDS or path.name == "Dockerfile") and path != Path(__file__).resolve()
    }


@cache
def code() -> dict[str, str]:
    return {path: text for path, text in texts().items() if path.endswith(".py")}


@cache
def cited() -> list[Citation]:
    return [one for path, text in texts().items() for one in papers.citations(path, text)]


@cache
def implied() -> list[Citation]:
    return [
        one for find in (papers.sections, papers.ids) for path in code() for one in find(path, code()[path])
    ]


def test_every_citation_names_something_that_its_paper_has() -> None:
    """Each citation has a target."""
    assert len(cited()) > 300
    assert list(OURS.missing(cited())) == []


def test_every_section_and_id_without_a_paper_is_one_that_there_is() -> None:
    """`§9.2`, `Faults C3`, `(N8)` and `test_p6_...`, as far as a pattern can tell."""
    assert len(implied()) > 300
    assert list(OURS.missing(implied())) == []


def test_no_paper_is_cited_that_is_not_in_the_repository() -> None:
    """It could not be looked up."""
    assert [one for path, text in texts().items() for one in papers.nothing_else_is_cited(path, text)] == []


def test_every_fault_is_shown_by_a_test_that_exists_or_says_why_not() -> None:
    """Each row of the faults is tested."""
    assert list(papers.rows_are_shown(OURS, papers.tests_of(code()))) == []
    assert list(papers.rows_are_unique(OURS)) == []


def test_the_papers_are_in_the_source_and_not_among_the_packages() -> None:
    """They are beside the packages, in the source roots, since a wheel contains code only."""
    targets = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"][
        "targets"
    ]
    for paper in (PROTOCOL, FAULTS):
        assert paper.startswith(tuple(f"{root}/" for root in targets["sdist"]["include"]))
        assert not paper.startswith(tuple(f"{package}/" for package in targets["wheel"]["packages"]))


SMALL = Papers(
    "## 0. Facts\n\n1. One.\n\n## 1. Transport\n\n### 1.4 Errors\n\n**B. Text**\n\n"
    "## 14. Rows\n\n| C1 | polls |\n\n## 15. Rules\n\n- R1: slots\n\n- **D1: hangs.**\n",
    "## 1. Catalogue\n\n| C3 | a | b | `tests/test_x.py::test_it` |\n| N8 | a | b | not tested: a reason |\n\n"
    "## 2. Rules\n\n3. Points.\n\n## 4. Decisions\n\n1. One.\n",
)
HOLD = [
    "# protocol.md §1.4 B, R1 and fact 1; faults.md C3, N8",
    '"""faults.md rule 3: why; faults.md decision 1."""',
    '"""Why (faults.md\n    C3)."""',
    "[faults.md](docs/faults.md)",
]
FAIL = [
    "# protocol.md §2",
    "# protocol.md §1.4 A",
    "# protocol.md §1.4 B, §1.5",
    "# protocol.md fact 2",
    "# protocol.md R2",
    "# protocol.md D2",
    "# faults.md C4",
    "# faults.md C3-C5",
    '"""Why (faults.md\n    C4)."""',
    "# faults.md rule 1",
    "# faults.md decision 2",
    "# as faults.md says",
]


@pytest.mark.parametrize("text", HOLD)
def test_a_citation_of_what_is_there_is_not_complained_of(text: str) -> None:
    """In lists, over line ends, and as a link."""
    assert list(SMALL.missing(papers.citations("tests/x.py", text))) == []


@pytest.mark.parametrize("text", FAIL)
def test_a_citation_of_what_is_not_there_is_found(text: str) -> None:
    """Each kind of reference, alone, last in a list, and as the end of a range."""
    assert list(SMALL.missing(papers.citations("tests/x.py", text)))


@pytest.mark.parametrize(
    ("path", "text", "good"),
    [
        ("tests/x.py", '"""C3: why."""', True),
        ("tests/x.py", '"""C4: why."""', False),
        ("tests/x.py", '"""Faults C3, N9."""', False),
        ("tests/x.py", '"""Why, fault C4."""', False),
        ("tests/x.py", '"""Why (N8)."""', True),
        ("tests/x.py", '"""Why (N9)."""', False),
        ("tests/x.py", 'def f():\n    """C3-C5: why."""', False),
        ("tests/x.py", "def test_c3_it_holds(): ...", True),
        ("tests/x.py", "def test_c4_it_holds(): ...", False),
        ("tests/contract/x.py", '"""C1: why."""', True),
        ("tests/contract/x.py", '"""C3: why."""', False),
        ("tests/x.py", '"""C1: why."""', False),
        ("tests/x.py", '"""R1: why."""', True),
        ("tests/x.py", '"""U32 and V1 are no faults."""', True),
    ],
)
def test_an_id_is_looked_up_in_the_paper_it_belongs_to(path: str, text: str, *, good: bool) -> None:
    """The contract has rows C1 to C17 of its own."""
    assert (list(SMALL.missing(papers.ids(path, text))) == []) is good


@pytest.mark.parametrize(
    ("text", "good"),
    [("# (§1.4)", True), ("# RFC 5246 §7.2", True), ("# faults.md §4 and §1", True), ("# (§9.2)", False)],
)
def test_a_section_without_a_paper_is_the_protocols(text: str, *, good: bool) -> None:
    """Unless another document is named before it."""
    assert (list(SMALL.missing(papers.sections("worker/x.py", text))) == []) is good


@pytest.mark.parametrize("name", ["design", "redesign", "interface", "performance"])
def test_a_paper_that_is_not_there_is_found(name: str) -> None:
    """Wherever it is cited."""
    assert list(papers.nothing_else_is_cited("tests/x.py", f"# {name}.md §5"))


def test_a_row_without_a_test_and_a_test_that_is_gone_are_found() -> None:
    """A renamed test must not live on in a table."""
    there = {"tests/test_x.py": {"test_it"}}
    assert list(papers.rows_are_shown(SMALL, there)) == []
    assert list(papers.rows_are_shown(SMALL, {"tests/test_x.py": {"test_that"}}))
    silent = Papers(SMALL.protocol, SMALL.faults.replace("not tested: a reason", "-"))
    assert list(papers.rows_are_shown(silent, there)) == [f"{FAULTS}: N8 is shown by nothing"]
    twice = Papers(SMALL.protocol, SMALL.faults.replace("| N8 |", "| C3 |"))
    assert list(papers.rows_are_unique(twice)) == [f"{FAULTS}: C3 stands twice"]


@pytest.mark.parametrize(
    ("paper", "old", "new"),
    [
        (PROTOCOL, "### 6.4 ", "### 6.9 "),
        (PROTOCOL, "\n8. The only fence", "\nThe only fence"),
        (PROTOCOL, "\n- R11:", "\n- R99:"),
        (PROTOCOL, "\n| C16 |", "\n| C99 |"),
        (PROTOCOL, "**B. Plain text**", "**Plain text**"),
        (FAULTS, "\n| N8 |", "\n| N99 |"),
        (FAULTS, "\n| M20 |", "\n| M99 |"),
        (FAULTS, "\n3. Each crash point", "\nEach crash point"),
    ],
)
def test_a_row_removed_from_a_paper_is_noticed(paper: str, old: str, new: str) -> None:
    """Mutations of the papers themselves: a section, a fact, a rule, a row."""
    text = {PROTOCOL: OURS.protocol, FAULTS: OURS.faults}[paper]
    assert text.count(old) == 1
    cut = text.replace(old, new)
    less = Papers(cut, OURS.faults) if paper == PROTOCOL else Papers(OURS.protocol, cut)
    assert list(less.missing(cited() + implied()))
