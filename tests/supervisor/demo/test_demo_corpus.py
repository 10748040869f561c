"""The demo's choice of work: bounded, deterministic, and real files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowherd_supervisor.demo import corpus

if TYPE_CHECKING:
    from pathlib import Path

BODY = "def f(a):\n    return a\n" * 400


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for name in ("a.py", "pkg/b.py", "test/c.py", "site-packages/d.py", "encodings/e.py", "big one.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(BODY)
    (tmp_path / "small.py").write_text("x = 1\n")
    (tmp_path / "large.py").write_text(BODY * 20)
    (tmp_path / "two.py").write_text(BODY * 4)
    return tmp_path


def test_only_files_of_a_useful_size_outside_tests_and_packages_are_chosen(library: Path) -> None:
    """Test data holds files that do not parse, and site-packages differ from machine to machine."""
    assert {chunk.path for chunk in corpus.chunks(library)} == {"a.py", "pkg/b.py", "two.py"}


def test_a_long_file_is_fingerprinted_in_parts(library: Path) -> None:
    """An activity should take some 40 ms, whatever the size of its file."""
    parts = [(c.kind, c.part, c.parts) for c in corpus.chunks(library) if c.path == "two.py"]
    assert sorted(parts) == [("fingerprint", 0, 2), ("fingerprint", 1, 2), ("measure", 0, 1)]


def test_a_limit_takes_the_beginning_of_the_same_order(library: Path) -> None:
    """A shorter run does a part of the longer one's work, nothing else."""
    everything = corpus.chunks(library)
    assert corpus.chunks(library, 3) == everything[:3]
    assert len({chunk.key for chunk in everything}) == len(everything) == 7


def test_the_work_computed_here_merges_to_an_answer_that_notices_a_change(library: Path) -> None:
    """The comparison of answers is only worth something if another input gives another answer."""

    def answer() -> dict[str, object]:
        return corpus.merge([(chunk, corpus.compute(library, chunk)) for chunk in corpus.chunks(library)])

    before = answer()
    assert before == answer()
    (library / "a.py").write_text(BODY + "def g(a):\n    return a if a else 0\n")
    assert answer() != before


def test_this_interpreter_has_enough_to_do() -> None:
    """Below a few hundred activities a run is over before its bars are drawn."""
    found = corpus.chunks(corpus.stdlib())
    assert 300 <= len(found) <= 1200
    assert not any(" " in chunk.key for chunk in found)
