"""A phase of the demo against an engine that errs on purpose: every error must show in the counts."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from flowherd_supervisor.demo import analysis, corpus, journal, phase
from flowherd_supervisor.demo.client import EngineApi
from flowherd_supervisor.demo.interruption import Interruption
from flowherd_supervisor.demo.programs import Program, ProgramError
from flowherd_supervisor.demo.progress import Screen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from flowherd_supervisor.demo.report import Result


class FakeEngine(EngineApi):
    """An engine and its workers in one object: a look at it runs everything in this process."""

    def __init__(self, *, skip: str = "", twice: str = "", phantom: str = "", fail: str = "") -> None:
        self.submitted: list[tuple[str, dict[str, Any]]] = []
        self.outputs: dict[str, dict[str, Any]] = {}
        self.failed: set[str] = set()
        self.table = b""
        self._faults = {"skip": skip, "twice": twice, "phantom": phantom, "fail": fail}

    def deploy(self, name: str, activity: str, parameters: tuple[str, ...]) -> str:
        return "1"

    def submit(self, name: str, version: str, parameters: Any) -> str:
        self.submitted.append((name, parameters))
        return str(len(self.submitted) - 1)

    def total(self, status: str) -> int:
        for number in range(len(self.submitted)):
            self.run(str(number))
        return len(self.failed) if status == "failed" else len(self.outputs)

    def output(self, workflow: str) -> dict[str, Any] | None:
        return self.outputs.get(workflow)

    def status(self, workflow: str) -> str:
        self.run(workflow)
        return "completed"

    def run(self, workflow: str) -> None:
        name, given = self.submitted[int(workflow)]
        key = given["key"]
        if workflow in self.outputs or key == self._faults["skip"]:
            return
        if key == self._faults["fail"]:
            self.failed.add(workflow)
        elif key != self._faults["phantom"]:
            journal.record(given["journal"], key)
        if key == self._faults["twice"]:
            journal.record(given["journal"], key)
        if workflow not in self.failed:
            self.outputs[workflow] = self.compute(name, given)

    def compute(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        if name == "demo-merge":
            self.table = analysis.signature_table(given["fingerprinted"])
            return {**analysis.merge(given["measured"], given["fingerprinted"]), "table": "its reference"}
        if name == "demo-signatures":
            assert given["table"] == "its reference"
            return analysis.table_facts([self.table])
        kind, path, _ = given["key"].split(":")
        return corpus.compute(given["root"], corpus.Chunk(kind, path, given["part"], given["parts"]))


class Tampering(FakeEngine):
    def compute(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        found = super().compute(name, given)
        if given["key"] == "measure:two.py:0":
            found["sizes"]["tokens"] += 1
        return found


class Adding(FakeEngine):
    def compute(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        if name == "demo-signatures":
            self.table += b"\n"
        return super().compute(name, given)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Program]:
    """Stands in for a supervisor that lives as long as the test."""
    log = tmp_path / "log"
    log.write_text("the last words\n")
    process = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    yield Program("supervisor", process, log)
    process.kill()
    process.wait()


@pytest.fixture
def run(tmp_path: Path, sleeper: Program, monkeypatch: pytest.MonkeyPatch) -> Callable[[EngineApi], Result]:
    monkeypatch.setattr(phase, "STALL_S", 0.3)
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text("def f(a):\n    return a if a else 0\n" * 300)
    chunks = corpus.chunks(tmp_path)
    expected = corpus.merge([(chunk, corpus.compute(tmp_path, chunk)) for chunk in chunks])

    def run(engine: EngineApi) -> Result:
        stage = Screen(Console(file=io.StringIO())).stage("on 1 process", len(chunks))
        work = phase.Work(tmp_path, chunks, expected)
        given = phase.Phase(work, 1, tmp_path, stage, Interruption())
        return phase.work_through(given, engine, lambda: sleeper)

    return run


def test_a_faultless_engine_gives_the_right_answer_and_clean_counts(
    run: Callable[[EngineApi], Result],
) -> None:
    result = run(FakeEngine())
    assert (result.correct, result.completed, result.lost, result.duplicates) == (True, 4, 0, 0)
    assert result.wall_s > 0


def test_one_token_counted_wrongly_makes_the_answer_wrong(run: Callable[[EngineApi], Result]) -> None:
    """The check must be able to fail, or it proves nothing."""
    result = run(Tampering())
    assert not result.correct
    assert result.lost == 0


def test_one_byte_too_many_in_the_file_makes_the_answer_wrong(run: Callable[[EngineApi], Result]) -> None:
    """The file is compared byte for byte, by its digest."""
    assert not run(Adding()).correct


def test_an_activity_that_never_ends_is_lost(run: Callable[[EngineApi], Result]) -> None:
    """After a stall without progress the demo reports instead of waiting for ever."""
    result = run(FakeEngine(skip="measure:one.py:0"))
    assert (result.completed, result.lost, result.correct) == (3, 1, False)


def test_a_completion_without_an_execution_is_lost_work(run: Callable[[EngineApi], Result]) -> None:
    """The engine's word alone is not believed."""
    assert run(FakeEngine(phantom="measure:one.py:0")).lost == 1


def test_an_execution_too_many_is_a_duplicate(run: Callable[[EngineApi], Result]) -> None:
    assert run(FakeEngine(twice="measure:one.py:0")).duplicates == 1


def test_a_failed_activity_ends_the_phase_with_a_wrong_answer(run: Callable[[EngineApi], Result]) -> None:
    result = run(FakeEngine(fail="measure:one.py:0"))
    assert (result.completed, result.failed, result.correct) == (3, 1, False)


def test_a_supervisor_that_ends_too_early_is_an_error_with_its_last_words(
    run: Callable[[EngineApi], Result], sleeper: Program
) -> None:
    """Waiting for the stall would hide the reason for half a minute."""
    sleeper.process.kill()
    sleeper.process.wait()
    with pytest.raises(ProgramError, match="the last words"):
        run(FakeEngine(skip="measure:one.py:0"))
