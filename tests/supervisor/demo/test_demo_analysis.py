"""The demo's analysis on small sources whose answers are known by hand."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap

import pytest

from flowherd_supervisor.demo import analysis

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


def function(text: str) -> ast.FunctionDef:
    node = ast.parse(textwrap.dedent(text)).body[0]
    assert isinstance(node, ast.FunctionDef)
    return node


@pytest.mark.parametrize(
    ("body", "score"),
    [
        ("return 1", 1),
        ("if a:\n        return 1\n    elif b:\n        return 2", 3),
        ("return a and b and c", 3),
        ("return [x for x in a if x]", 2),
        ("try:\n        pass\n    except A:\n        pass\n    except B:\n        pass", 3),
        ("match a:\n        case 1: pass\n        case _: pass", 3),
        ("def g():\n        if a: pass\n    while a: pass", 2),
    ],
)
def test_complexity_counts_decisions_of_the_function_itself(body: str, score: int) -> None:
    """McCabe's number; a nested function's decisions are its own."""
    assert analysis.complexity(function(f"def f(a, b, c):\n    {body}\n")) == score


@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("__init__", "dunder"),
        ("x", "lower"),
        ("_size", "lower"),
        ("max_size", "snake_case"),
        ("MAX_SIZE", "UPPER_CASE"),
        ("BadReply", "PascalCase"),
        ("readLine", "camelCase"),
        ("Bad_reply", "other"),
    ],
)
def test_a_name_has_one_style(name: str, style: str) -> None:
    """The first pattern that fits the whole name decides."""
    assert analysis.style(name) == style


def test_functions_are_found_with_their_qualified_names_in_source_order() -> None:
    """Methods and nested functions count as functions of their own."""
    found = [(f.name, f.line) for f in analysis.functions(SOURCE)]
    assert found == [("Reader.readLine", 3), ("Reader.readLine.inner", 9), ("main", 13)]


def test_the_parts_of_a_file_are_its_functions_each_exactly_once() -> None:
    """Else the merged answer would depend on how the work is cut."""
    parts = [analysis.functions(SOURCE, part, 2) for part in range(2)]
    assert sorted(f.line for part in parts for f in part) == [3, 9, 13]
    assert all(parts)


def test_merging_parts_gives_what_the_whole_gives_in_any_order() -> None:
    """N processes finish in any order, and the answer must not show it."""
    whole = analysis.merge([analysis.measure("a.py", SOURCE)], [])
    parts = [analysis.measure("a.py", SOURCE, part, 3) for part in range(3)]
    assert analysis.merge(parts, []) == analysis.merge(reversed(parts), []) == whole
    assert whole["most_complex"][0] == [5, "a.py", "Reader.readLine", 3]
    assert whole["sizes"]["functions"] == 3


def test_a_copied_function_is_found_across_files_with_other_literals() -> None:
    """Strings and numbers differ between copies; names and structure make the likeness."""
    first = analysis.fingerprint("a.py", LONG)
    copied = analysis.fingerprint("b.py", "import os\n\n" + LONG.replace("values[3:]", "values[77:]"))
    other = analysis.fingerprint("c.py", LONG.replace("sum", "max").replace("total", "best") * 2)
    answer = analysis.merge([], [first, copied, other])
    assert answer["closest_pairs"] == [[1.0, "a.py:1 f", "b.py:3 f"]]
    assert answer["near_duplicates"] == 1


def test_the_table_of_signatures_is_the_same_file_however_the_work_was_cut_and_its_facts_in_any_chunks() -> (
    None
):
    """One process after another uploads and downloads it: byte for byte, or the check is worth nothing."""
    parts = [analysis.fingerprint(name, LONG) for name in ("b.py", "a.py")]
    table = analysis.signature_table(parts)
    assert table == analysis.signature_table(reversed(parts))
    assert [line.split(b'"')[1] for line in table.splitlines()] == [b"a.py", b"b.py"]
    facts = analysis.table_facts([table])
    assert facts == analysis.table_facts(table[n : n + 7] for n in range(0, len(table), 7))
    assert (facts["functions"], facts["bytes"]) == (2, len(table))
    assert facts != analysis.table_facts([table.replace(b"a.py", b"c.py")])


def test_likeness_inside_one_file_and_of_short_functions_is_not_reported() -> None:
    """Overloads and properties resemble each other by nature."""
    short = "def f(self):\n    return self._f\n"
    found = [
        analysis.fingerprint(name, text)
        for name, text in [("a.py", LONG * 2), ("b.py", short), ("c.py", short)]
    ]
    assert analysis.merge([], found)["near_duplicates"] == 0


def test_a_form_feed_does_not_shift_the_lines() -> None:
    """The standard library has form feeds; `str.splitlines` would count them as line ends."""
    [row] = analysis.fingerprint("a.py", "\f\n" + LONG)["prints"]
    assert analysis.fingerprint("a.py", LONG)["prints"][0][3] == row[3]


def test_another_hash_seed_gives_the_same_findings() -> None:
    """Every process has its own seed of `hash()`: an answer that showed it would never be equal."""
    program = (
        "from flowherd_supervisor.demo import analysis; import sys; s = sys.stdin.read();"
        "print(analysis.fingerprint('a.py', s), analysis.measure('a.py', s))"
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
