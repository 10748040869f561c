"""Rows of the table that other test suites measure (M13 to M16, M19, M20)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from chaos.measures import Row

if TYPE_CHECKING:
    from collections.abc import Iterable

    from chaos.measures import Scale

TOP = Path(__file__).parents[2]
CONTRACT_ROWS = 17


@dataclass(frozen=True, slots=True)
class Case:
    """A test that was run, and the counts it has printed."""

    name: str
    outcome: str
    counts: dict[str, int] = field(default_factory=dict)


def hostile_replies(folder: Path, scale: Scale, _seed: int) -> list[Row]:
    """M13: what engines and proxies may answer."""
    cases = run_tests(folder, "tests/worker/worker/test_hostile.py", *scale.words)
    return [none_of("M13", "hostile replies", cases)]


def hostile_code(folder: Path, scale: Scale, _seed: int) -> list[Row]:
    """M14: what handlers may return, raise and name."""
    cases = run_tests(folder, "tests/worker/worker/test_hostile_code.py", *scale.words)
    return [none_of("M14", "hostile code", cases)]


def lease_model(folder: Path, scale: Scale, seed: int) -> list[Row]:
    """M15: the engine's lease rules against a model."""
    where = "tests/engine/test_engine_lease_model.py"
    env = {"FLOWHERD_LEASE_HISTORIES": str(scale.histories)}
    cases = run_tests(folder, where, f"--hypothesis-seed={seed}", env=env)
    return [none_of("M15", "lease model", cases, {"histories of 40 steps diverged": scale.histories})]


def engine_fuzz(folder: Path, scale: Scale, seed: int) -> list[Row]:
    """M16: any request gets a documented answer."""
    where = "tests/engine/test_engine_fuzz.py"
    env = {"FLOWHERD_FUZZ_CASES": str(scale.requests)}
    cases = run_tests(folder, where, f"--hypothesis-seed={seed}", env=env)
    return [none_of("M16", "engine's API", cases, {"requests met a 5xx or no schema": scale.requests})]


def mutations(_folder: Path, scale: Scale, _seed: int) -> list[Row]:
    """M19: protections switched off one at a time."""
    words = [sys.executable, str(Path(__file__).with_name("mutations.py")), *scale.mutation_words]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=_environment())
    marks = re.findall(r"^(red|GREEN|BROKEN|STALE) ", done.stdout, re.MULTILINE)
    text = f"{marks.count('red')} of {len(marks)} protections, switched off, made their test go red"
    return [Row("M19", "mutations", text, "all", bool(marks) and marks.count("red") == len(marks))]


def conformance(folder: Path, _scale: Scale, _seed: int) -> list[Row]:
    """M20: the embedded engine against the contract."""
    outcomes: dict[int, set[str]] = defaultdict(set)
    for case in run_tests(folder, "tests/contract"):
        if found := re.match(r"test_c(\d+)_", case.name):
            outcomes[int(found[1])].add(case.outcome)
    good = sum("passed" in seen and "failed" not in seen for seen in outcomes.values())
    skipped = sum("skipped" in seen for seen in outcomes.values())
    text = f"{good} of {CONTRACT_ROWS} rows hold" + f", parts of {skipped} skipped" * bool(skipped)
    return [
        Row("M20", "conformance C1-C17", text, f"{CONTRACT_ROWS} of {CONTRACT_ROWS}", good == CONTRACT_ROWS)
    ]


def none_of(id_: str, what: str, cases: Iterable[Case], more: dict[str, int] | None = None) -> Row:
    """Returns zero of everything that was counted, or the names of failed tests."""
    cases = list(cases)
    failed = [case.name for case in cases if case.outcome == "failed"]
    counts = {name: count for case in cases for name, count in case.counts.items()} | (more or {})
    text = ", ".join(f"0 of {count} {name}" for name, count in counts.items())
    if failed or not cases:
        text = f"{len(failed)} of {len(cases)} tests failed: {', '.join(failed)[:200]}"
    return Row(id_, what, text, "0 of everything", bool(cases) and not failed)


def run_tests(folder: Path, *words: str, env: dict[str, str] | None = None) -> list[Case]:
    """Runs tests in a separate process and returns their results."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1"]
    subprocess.run(
        [*command, f"--junitxml={report}", *words],
        cwd=TOP,
        capture_output=True,
        check=False,
        env=_environment() | (env or {}),
    )
    return [_case(element) for element in ET.parse(report).iter("testcase")] if report.exists() else []


def _environment() -> dict[str, str]:
    """Without what would make every run the same one."""
    return {name: value for name, value in os.environ.items() if name != "CI"}


def _case(element: ET.Element) -> Case:
    bad = element.find("failure") is not None or element.find("error") is not None
    outcome = "failed" if bad else "skipped" if element.find("skipped") is not None else "passed"
    counts = {
        one.get("name", ""): int(value)
        for one in element.iter("property")
        if (value := one.get("value", "")).isdigit()
    }
    return Case(element.get("name", ""), outcome, counts)
