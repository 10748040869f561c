"""One phase of the demo: the whole work on N processes of a fresh engine, watched from outside."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowherd_supervisor.demo import corpus, journal, programs
from flowherd_supervisor.demo.client import EngineApi, StatusSocket
from flowherd_supervisor.demo.report import Result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowherd_supervisor.demo.chaos import Chaos
    from flowherd_supervisor.demo.client import Status
    from flowherd_supervisor.demo.interruption import Interruption
    from flowherd_supervisor.demo.progress import Stage

POLL_S = 0.3
LAST_POLL_S = 0.05  # near the end: the last completion is timed by it
STALL_S = 30.0  # without any progress: what is missing then counts as lost
SLOTS_EACH = 4  # the next activity is there when one ends
_CHUNK_INPUT = ("root", "path", "part", "parts", "key", "journal")
_MERGE_INPUT = ("measured", "fingerprinted", "key", "journal")
_CHECK_INPUT = ("table", "key", "journal")
_REDUCE_KEYS = ("merge", "signatures")


@dataclass(frozen=True)
class Work:
    """What is to be computed, and the answer that must come out."""

    root: Path
    chunks: list[corpus.Chunk]
    expected: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Phase:
    """What one phase works with; `folder` is its own."""

    work: Work
    processes: int
    folder: Path
    stage: Stage
    interruption: Interruption
    chaos: Chaos | None = None

    @property
    def journal(self) -> Path:
        return self.folder / "journal"


@dataclass(frozen=True)
class _Settled:
    completed: int
    failed: int
    ended_s: float


def run_phase(phase: Phase) -> Result:
    """Run the whole work once and return what came of it; both programs have ended when it returns."""
    with ExitStack() as stack:
        url = stack.enter_context(programs.engine(phase.folder))
        api = stack.enter_context(EngineApi(url))
        supervisor = programs.supervisor(phase.folder, url, phase.processes, SLOTS_EACH * phase.processes)
        return work_through(phase, api, lambda: stack.enter_context(supervisor))


def work_through(phase: Phase, api: EngineApi, start: Callable[[], programs.Program]) -> Result:
    """Queue everything, start the supervisor, watch, merge and count."""
    workflows = _submit(phase, api)
    program = start()
    settled = _watch(phase, api, program)
    began_s = time.monotonic()
    answer = _reduce(phase, api, program, workflows) if settled.completed == len(workflows) else {}
    merge_s = time.monotonic() - began_s
    with StatusSocket(programs.status_socket(phase.folder, program)) as socket:
        twice = accepted_twice(socket.read(), settled.completed + len(_REDUCE_KEYS) * bool(answer))
    return _count(phase, settled, answer, merge_s, twice)


def accepted_twice(status: Status | None, completed: int) -> int:
    """Return how many outcomes the workers saw accepted beyond `completed`, what the engine says there is.

    Another witness than the journal, which knows of starts only.
    """
    return max(0, status.completed - completed) if status is not None else 0


def _submit(phase: Phase, api: EngineApi) -> list[str]:
    """Queue all activities while nobody takes any; return the workflows in the order of the chunks."""
    versions = {
        kind: api.deploy(f"demo-{kind}", f"{kind}_source", _CHUNK_INPUT)
        for kind in ("measure", "fingerprint")
    }
    workflows = []
    for chunk in phase.work.chunks:
        phase.interruption.check()
        where = {"root": str(phase.work.root), "key": chunk.key, "journal": str(phase.journal)}
        parameters = where | {"path": chunk.path, "part": chunk.part, "parts": chunk.parts}
        workflows.append(api.submit(f"demo-{chunk.kind}", versions[chunk.kind], parameters))
        if len(workflows) % 50 == 0:
            phase.stage.update(0, f"queueing {len(workflows)}")
    phase.stage.update(0, "starting")
    return workflows


def _watch(phase: Phase, api: EngineApi, program: programs.Program) -> _Settled:
    """Draw the progress until every workflow has ended, or nothing has for `STALL_S`."""
    total, began_s = len(phase.work.chunks), time.monotonic()
    moved_s, completed, failed = began_s, 0, 0
    with StatusSocket(programs.status_socket(phase.folder, program)) as socket:
        while True:
            before, completed, now = completed, api.total("completed"), time.monotonic()
            if completed == before:  # only then: each question costs CPU that the activities could use
                failed = api.total("failed")
            else:
                moved_s = now
            done = completed + failed
            rate = done / (now - began_s)
            status = socket.read()
            if status is not None:
                phase.stage.update(completed, f"{rate:.0f}/s" if done else "", status.children)
            if done >= total:
                return _Settled(completed, failed, now)
            if now - moved_s > STALL_S:
                phase.stage.warn(
                    f"nothing has moved for {STALL_S:g} s; the supervisor last said:\n{program.tail()}"
                )
                return _Settled(completed, failed, now)
            if status is not None and phase.chaos is not None:
                phase.chaos.act(status, now)
            _pause(phase, program, (total - done) / rate if done else POLL_S)


def _pause(phase: Phase, program: programs.Program, remaining_s: float) -> None:
    """Wait until the next look, sooner near the end; the supervisor's end and signals are exceptions."""
    program.wait(min(POLL_S, max(LAST_POLL_S, remaining_s / 2)))
    program.check()
    phase.interruption.check()


def _reduce(phase: Phase, api: EngineApi, program: programs.Program, workflows: list[str]) -> dict[str, Any]:
    """Collect the outputs, have one activity merge them and another look at its file, and return the answer."""
    findings = []
    for chunk, workflow in zip(phase.work.chunks, workflows, strict=True):
        phase.interruption.check()
        findings.append((chunk, api.output(workflow) or {}))
    phase.stage.update(len(workflows), "merging")
    merge, check = _REDUCE_KEYS
    version = api.deploy(f"demo-{merge}", "merge_findings", _MERGE_INPUT)
    parameters = {**corpus.by_kind(findings), "key": merge, "journal": str(phase.journal)}
    answer = _outcome(phase, api, program, api.submit(f"demo-{merge}", version, parameters))
    if "table" not in answer:
        return answer
    version = api.deploy(f"demo-{check}", "check_signatures", _CHECK_INPUT)
    parameters = {"table": answer.pop("table"), "key": check, "journal": str(phase.journal)}
    facts = _outcome(phase, api, program, api.submit(f"demo-{check}", version, parameters))
    return {**answer, "signatures": facts}


def _outcome(phase: Phase, api: EngineApi, program: programs.Program, workflow: str) -> dict[str, Any]:
    """Wait for one more activity and return its output, empty if there is none."""
    deadline_s = time.monotonic() + STALL_S
    while api.status(workflow) not in {"completed", "failed"} and time.monotonic() < deadline_s:
        _pause(phase, program, LAST_POLL_S)
    return api.output(workflow) or {}


def _count(phase: Phase, settled: _Settled, answer: dict[str, Any], merge_s: float, twice: int) -> Result:
    """Compare the engine's word with the journal and the answer with the direct computation."""
    keys = [chunk.key for chunk in phase.work.chunks]
    kills = phase.chaos.kills if phase.chaos is not None else {}
    ran = journal.executions(phase.journal)
    tally = journal.tally(ran, [*keys, *_REDUCE_KEYS] if answer else keys, kills)
    started_s = min((execution.started_s for execution in ran), default=settled.ended_s)
    result = Result(
        processes=phase.processes,
        activities=len(keys),
        completed=settled.completed,
        failed=settled.failed,
        lost=max(len(keys) - settled.completed - settled.failed, tally.never),
        duplicates=max(tally.duplicates, twice),
        after_kill=tally.after_kill,
        kills=len(kills),
        wall_s=settled.ended_s - started_s,
        merge_s=merge_s,
        correct=answer == phase.work.expected,
        answer=answer,
    )
    phase.stage.finish(result.completed, f"{result.activities_per_s:.1f}/s, {result.wall_s:.1f} s")
    return result
