"""The demo against an engine that errs on purpose: every error must be reported; kills, signals, options."""

from __future__ import annotations

import json
import re
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from flowherd.errors import ConfigurationError
from flowherd_supervisor import require_engine_extra as extra
from flowherd_supervisor.demo import app, driver
from flowherd_supervisor.demo.driver import Chaos, Phase, Session, StoppedError, Work
from flowherd_supervisor.testkit.programs import ProgramError
from flowherd_supervisor.testkit.workflow_client import Deployed, Started, Step, Workflow, _Output

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowherd_supervisor.demo.report import Result

BODY = "def f(a):\n    return a if a else 0\n" * 300


class FakeEngine:
    """An engine and its workers in one object: a status call runs everything in this process."""

    def __init__(self, **faults: str) -> None:
        self.faults = faults
        self.queued: list[tuple[str, dict[str, Any]]] = []
        self.outputs: dict[str, dict[str, Any]] = {}
        self.failed: set[str] = set()
        self.table = b""

    def deploy(self, definition: bytes) -> Deployed:
        return Deployed(json.loads(definition)["activities"][0]["activity_name"], 1)

    def submit(self, deployed: Deployed, inputs: dict[str, Any]) -> Started:
        self.queued.append((deployed.name, inputs))
        return Started(str(len(self.queued) - 1), "created", deployed.name)

    def total(self, status: str) -> int:
        for number in range(len(self.queued)):
            self.run(str(number))
        return len(self.failed) if status == "failed" else len(self.outputs)

    def workflow(self, workflow: str) -> Workflow:
        self.run(workflow)
        output = [_Output(name, value) for name, value in self.outputs.get(workflow, {}).items()]
        return Workflow("completed", [Step("step", outputs=output)])

    def run(self, workflow: str) -> None:
        name, given = self.queued[int(workflow)]
        key = given.get("path", name)
        if workflow in self.outputs or key == self.faults.get("skipped"):
            return
        executions = {self.faults.get("phantom"): 0, self.faults.get("twice"): 2}.get(key, 1)
        words = {"merge_findings": "merge", "check_signatures": "signatures"}
        for _ in range(executions):
            app.record(given["journal"], words.get(name, f"{key}:0"))
        if key == self.faults.get("failing"):
            self.failed.add(workflow)
        else:
            self.outputs[workflow] = json.loads(json.dumps(self.compute(name, given)))

    def compute(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        if name == "merge_findings":
            self.table = app.signature_table(given["findings"])
            return {**app.merge(given["findings"]), "table": "its reference"}
        if name == "check_signatures":
            assert given["table"] == "its reference"
            return app.table_facts([self.table, b"\n" if "table" in self.faults else b""])
        found = app.analyse(
            app.Part(given["path"], given["part"], given["parts"]),
            app.read_source(given["root"], given["path"]),
        )
        found["sizes"]["tokens"] += given["path"] == self.faults.get("miscounted")
        return found


class FakeHost:
    """A supervisor that runs as long as the test, or has ended; `kill` returns the pid of a process."""

    def __init__(self, accepted: int = 0, *, has_ended: bool = False) -> None:
        self.program = self
        self.accepted = accepted
        self.has_ended = has_ended
        self.killed: list[int] = []

    def status(self) -> dict[str, Any]:
        return {"children": [], "totals": {"completed": self.accepted}}

    def wait(self, seconds: float) -> None:
        pass

    def check(self) -> None:
        if self.has_ended:
            raise ProgramError("the last words")

    def tail(self) -> str:
        return "the last words"

    def kill(self, process: int) -> int:
        self.killed.append(process)
        self.ended_s = time.monotonic()
        if process == 9:
            raise AssertionError("it has just ended")
        return 100 + process


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setattr(driver, "STALL_S", 0.2)
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(BODY)
    parts = app.parts_of(tmp_path)
    findings = [app.analyse(part, BODY) for part in parts]
    facts = app.table_facts([app.signature_table(findings)])
    expected = json.loads(json.dumps({**app.merge(findings), "signatures": facts}))

    def run(host: FakeHost | None = None, **faults: str) -> Result:
        engine: Any = FakeEngine(**faults)
        supervisor: Any = host or FakeHost()
        phase = Phase(Session(tmp_path), Work(tmp_path, parts, expected), 1)
        return phase.work_through(engine, supervisor, phase._queue(engine))

    return run


def test_a_faultless_engine_gives_the_right_answer_and_clean_counts(run: Callable[..., Result]) -> None:
    result = run()
    assert (result.correct, result.completed, result.lost, result.duplicates) == (True, 2, 0, 0)
    assert result.wall_s > 0


@pytest.mark.parametrize(
    ("faults", "shown"),
    [
        ({"miscounted": "two.py"}, {"completed": 2, "lost": 0, "correct": False}),  # by one token
        ({"table": "another line"}, {"completed": 2, "lost": 0, "correct": False}),
        ({"skipped": "one.py"}, {"completed": 1, "lost": 1, "correct": False}),
        ({"phantom": "one.py"}, {"completed": 2, "lost": 1}),  # the engine's status alone does not count
        ({"twice": "one.py"}, {"completed": 2, "duplicates": 1}),
        ({"failing": "one.py"}, {"completed": 1, "failed": 1, "correct": False}),
    ],
    ids=str,
)
def test_every_error_shows(run: Callable[..., Result], faults: dict[str, str], shown: dict[str, Any]) -> None:
    """A check that cannot fail proves nothing."""
    result = run(**faults)
    assert {name: getattr(result, name) for name in shown} == shown


@pytest.mark.parametrize(("accepted", "twice"), [(3, 0), (4, 0), (6, 2)])
def test_outcomes_accepted_beyond_those_there_are_were_accepted_twice(
    run: Callable[..., Result], accepted: int, twice: int
) -> None:
    """A count that lags behind is no error; one that is ahead is. Two outcomes are the reduce steps."""
    assert run(FakeHost(accepted)).duplicates == twice


def test_a_supervisor_that_ends_too_early_is_an_error_with_the_end_of_its_log(
    run: Callable[..., Result],
) -> None:
    """Waiting for the stall timeout would hide the reason for half a minute."""
    with pytest.raises(ProgramError, match="the last words"):
        run(FakeHost(has_ended=True), skipped="one.py")


def test_chaos_waits_a_pause_and_kills_only_running_processes() -> None:
    """Killing a starting process would be a boot failure."""
    host: Any = FakeHost()
    chaos = Chaos(seed=1)
    children = [{"process": 0, "phase": "starting"}, {"process": 1, "phase": "running"}]
    for now in (100.0, 101.0):
        chaos.act(host, children, now)
    assert host.killed == []
    for now in (103.0, 103.1):
        chaos.act(host, children, now)
    assert host.killed == [1]
    assert chaos.kills.keys() == {101}
    assert chaos.kills[101] >= host.ended_s, "what it began until its end is explained"


def test_a_kill_that_hit_no_process_is_not_noted() -> None:
    """Otherwise it would explain a repeat that it did not cause."""
    host: Any = FakeHost()
    chaos = Chaos(seed=1)
    for now in (100.0, 103.0):
        chaos.act(host, [{"process": 9, "phase": "running"}], now)
    assert host.killed == [9]
    assert chaos.kills == {}


def test_the_first_signal_is_noticed_at_a_safe_point_and_the_second_at_once(tmp_path: Path) -> None:
    """An exception between the start of a program and its `finally` would leave it behind."""
    before = signal.getsignal(signal.SIGTERM)
    with Session(tmp_path) as session:
        session.check()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StoppedError) as caught:
            session.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert caught.value.args == (signal.SIGTERM,)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("package", "processes", "remedy"),
    [("no_such_module", 2, "pip install 'flowherd[engine]'"), ("json", 0, "-p: the demo needs at least one")],
)
def test_what_cannot_run_says_what_to_do_and_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, package: str, processes: int, remedy: str
) -> None:
    """The engine is an extra: the first command of a newcomer must not end in a traceback."""
    monkeypatch.setattr(extra, "PACKAGES", (package,))
    with pytest.raises(ConfigurationError, match=re.escape(remedy)):
        driver.run_demo(processes)
