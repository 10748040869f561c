"""The demo's work: its analysis on small sources whose answers are known by hand, and its count of executions."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from flowherd_supervisor.demo import app
from flowherd_supervisor.demo.app import KILL_EXPLAINS_S, Execution, Part, executions, record, tally

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = textwrap.dedent(
    '''
    class Reader:
        def readLine(self, max_size):
            """Doc."""
            total = 0
            for x in range(max_size):
                if x and total or x > 3:
                    total += 1
            def inner(a):
                return 1 if a else 2
            return total

    async def main():
        pass
    '''
)
LONG = "def f(values):\n" + "".join(f"    total_{n} = sum(values[{n}:]) + len(values)\n" for n in range(12))
BODY = "def f(a):\n    return a\n" * 400


def whole(path: str, source: str) -> app.Findings:
    return app.analyse(Part(path, 0, 1), source)


# The analysis


@pytest.mark.parametrize(
    ("body", "score"),
    [
        ("return 1", 1),
        ("if a:\n        return 1\n    elif b:\n        return 2", 3),
        ("return a and b and c", 3),
        ("return [x for x in a if x]", 2),
        ("try:\n        pass\n    except A:\n        pass\n    except B:\n        pass", 3),
        ("match a:\n        case 1: pass\n        case _: pass", 3),
    ],
)
def test_complexity_counts_decisions(body: str, score: int) -> None:
    """McCabe's number."""
    assert whole("a.py", f"def f(a, b, c):\n    {body}\n")["complex"] == [[score, "a.py", "f", 1]]


def test_methods_and_nested_functions_count_for_themselves() -> None:
    assert whole("a.py", SOURCE)["complex"] == [
        [5, "a.py", "Reader.readLine", 3],
        [2, "a.py", "Reader.readLine.inner", 9],
        [1, "a.py", "main", 13],
    ]


def test_merging_parts_gives_what_the_whole_gives_in_any_order() -> None:
    """N processes finish in any order, and the answer must not show it."""
    parts = [app.analyse(Part("a.py", part, 3), SOURCE + LONG) for part in range(3)]
    assert app.merge(parts) == app.merge(reversed(parts)) == app.merge([whole("a.py", SOURCE + LONG)])
    assert app.merge(parts)["sizes"]["functions"] == 4


def test_a_copied_function_is_found_across_files_with_other_literals() -> None:
    """Literals differ between copies; names and structure count."""
    first = whole("a.py", LONG)
    copied = whole("b.py", "import os\n\n" + LONG.replace("values[3:]", "values[77:]"))
    other = whole("c.py", LONG.replace("sum", "max").replace("total", "best") * 2)
    answer = app.merge([first, copied, other])
    assert answer["closest_pairs"] == [[1.0, "a.py:1 f", "b.py:3 f"]]
    assert answer["near_duplicates"] == 1


def test_likeness_of_short_functions_is_not_reported() -> None:
    """Short functions such as properties are alike by chance."""
    short = "def f(self):\n    return self._f\n"
    assert app.merge([whole("b.py", short), whole("c.py", short)])["near_duplicates"] == 0


def test_a_form_feed_does_not_shift_the_lines() -> None:
    """The standard library has form feeds; `str.splitlines` would count them as line ends."""
    [row] = whole("a.py", "\f\n" + LONG)["signatures"]
    assert whole("a.py", LONG)["signatures"][0][3] == row[3]


def test_the_table_of_signatures_is_the_same_file_however_the_work_was_cut() -> None:
    """Different processes upload and download it, so it must be equal byte for byte."""
    parts = [whole(name, LONG) for name in ("b.py", "a.py")]
    table = app.signature_table(parts)
    assert table == app.signature_table(reversed(parts))
    assert [line.split(b'"')[1] for line in table.splitlines()] == [b"a.py", b"b.py"]
    facts = app.table_facts([table])
    assert facts == app.table_facts(table[n : n + 7] for n in range(0, len(table), 7))
    assert (facts["functions"], facts["bytes"]) == (2, len(table))
    assert facts != app.table_facts([table.replace(b"a.py", b"c.py")])


def test_another_hash_seed_gives_the_same_findings() -> None:
    """Every process has its own seed of `hash()`, which must not affect the answer."""
    program = (
        "from flowherd_supervisor.demo import app; import sys;"
        "print(app.analyse(app.Part('a.py', 0, 1), sys.stdin.read()))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=LONG,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


# The choice of work


def test_only_files_of_a_useful_size_outside_tests_and_packages_are_chosen(tmp_path: Path) -> None:
    """Test data holds files that do not parse, and site-packages differ from machine to machine.

    A limit takes the beginning of the same order, and a long file is several activities.
    """
    for name in ("a.py", "pkg/b.py", "test/c.py", "site-packages/d.py", "encodings/e.py", "big one.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(BODY)
    (tmp_path / "small.py").write_text("x = 1\n")
    (tmp_path / "large.py").write_text(BODY * 20)
    (tmp_path / "two.py").write_text(BODY * 4)
    found = app.parts_of(tmp_path)
    assert sorted(found) == [("a.py", 0, 1), ("pkg/b.py", 0, 1), ("two.py", 0, 2), ("two.py", 1, 2)]
    assert app.parts_of(tmp_path, 3) == found[:3]


def test_this_interpreter_has_enough_to_do() -> None:
    """Below two hundred activities a run is over before its bars are drawn."""
    found = app.parts_of(app.stdlib())
    assert len(found) >= 200
    assert not any(" " in part.key for part in found)


# The count of executions


def test_the_journal_keeps_the_lines_of_writers_at_the_same_time_whole(tmp_path: Path) -> None:
    """One O_APPEND write per line needs no lock, which a killed process might hold."""
    journal = tmp_path / "journal"
    assert executions(journal) == []
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: record(str(journal), f"key-{n}"), range(400)))
    ran = executions(journal)
    assert {each.key for each in ran} == {f"key-{n}" for n in range(400)}
    assert {each.pid for each in ran} == {os.getpid()}


A, AGAIN, THIRD = Execution(1.0, 7, "a"), Execution(2.0, 8, "a"), Execution(3.0, 8, "a")


@pytest.mark.parametrize(
    ("ran", "kills", "counted"),
    [
        ([A], {}, (0, 0, 0)),
        ([], {}, (1, 0, 0)),  # an engine that says completed without an execution has lost work
        ([A, AGAIN], {}, (0, 1, 0)),
        ([A, AGAIN], {7: 1.05}, (0, 0, 1)),
        ([A, AGAIN], {7: 0.9}, (0, 1, 0)),  # killed before
        ([A, AGAIN], {7: 1.1 + KILL_EXPLAINS_S}, (0, 1, 0)),  # killed long after
        ([A, AGAIN, THIRD], {7: 1.05}, (0, 1, 1)),
        ([A, AGAIN, THIRD], {7: 1.05, 8: 3.05}, (0, 0, 2)),
        ([A], {7: 1.05}, (0, 0, 0)),  # its result had arrived
    ],
)
def test_an_activity_runs_once_and_again_only_where_a_kill_explains_it(
    ran: list[Execution], kills: dict[int, float], counted: tuple[int, int, int]
) -> None:
    assert tally(ran, ["a"], kills) == counted
