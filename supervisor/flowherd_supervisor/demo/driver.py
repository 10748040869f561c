"""`flowherd demo`: does the same work directly, on one process and on all, and compares the three answers.

It starts engine and supervisor as programs and observes them from outside, as a user would.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from flowherd.counted import counted
from flowherd.errors import ConfigurationError, EngineError
from flowherd_supervisor.demo import app
from flowherd_supervisor.demo.report import Report, Result, Screen, document, summary
from flowherd_supervisor.print_text import print_text
from flowherd_supervisor.processes.cpus import usable_cpus
from flowherd_supervisor.processes.prctl import die_with_parent
from flowherd_supervisor.require_engine_extra import require_engine
from flowherd_supervisor.testkit.engine_program import EngineProgram
from flowherd_supervisor.testkit.programs import ProgramError, short_folder
from flowherd_supervisor.testkit.supervisor_program import SupervisorProgram
from flowherd_supervisor.testkit.workflow_client import ENDED, one_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import FrameType

    from flowherd_supervisor.testkit.workflow_client import WorkflowClient

ACTIVITIES = 200
"""About 9 s of one CPU: the demo takes less than a minute, and a phase much longer than its start."""

POLL_S, LAST_POLL_S = 0.3, 0.05  # the latter near the end, since it times the last completion
STALL_S = 30.0  # without progress; missing activities then count as lost
SLOTS_EACH = 4  # so that the next activity is already claimed when one ends
SEED, KILL_EVERY_S = 20261124, (1.5, 2.5)

# A short lease for activities that a process claims just before a kill, and more attempts than `--chaos` can use up.
_SETTINGS = {"timeout_seconds": 10, "retry": {"max_attempts": 20, "strategy": "fixed", "base_seconds": 1}}
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_demo(
    processes: int | None = None, *, chaos: bool = False, as_json: bool = False, activities: int = ACTIVITIES
) -> int:
    """Runs the demo and returns its exit code: 0 only if every answer was right and nothing was lost.

    1 is a wrong or missing answer or program, 130 Ctrl-C. `processes` None means all usable CPUs.

    Raises:
        ConfigurationError: the extra `engine` is missing, or `processes` is less than 1.

    """
    require_engine("demo")
    if processes is not None and processes < 1:
        raise ConfigurationError("-p: the demo needs at least one process, such as -p 1")

    def work(session: Session) -> int:
        with session.screen:
            report = _demonstrate(session, processes or usable_cpus(), activities, Chaos() if chaos else None)
        if as_json:
            os.write(1, (json.dumps(document(report)) + "\n").encode())
        else:
            print_text(summary(report))
        return 0 if report.good else 1

    return run_session("demo", work)


# A session, which `flowherd bench` also uses


class App(NamedTuple):
    """An app to host: `module:attr`, its worker type, and the folder to import it from."""

    name: str
    worker: str
    directory: Path = Path()


DEMO = App(app.APP, app.WORKER_TYPE)


class StoppedError(Exception):
    """A signal has arrived; the argument is its number."""


class Session:
    """A screen, a private folder, and signals: `check` raises for the first one, the second raises at once.

    An exception between the start of a program and its `with` block would leave the program running.
    """

    def __init__(self, folder: Path) -> None:
        self.screen = Screen()
        self._folder = folder
        self._received: int | None = None
        self._before = [(number, signal.getsignal(number)) for number in _SIGNALS]

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises StoppedError if a signal has arrived."""
        if self._received is not None:
            raise StoppedError(self._received)

    def new_folder(self) -> Path:
        """Creates a new private folder with a short name."""
        return Path(tempfile.mkdtemp(dir=self._folder))

    def engine(self) -> EngineProgram:
        """Starts an engine in memory, which ends with this process, however that ends."""
        return EngineProgram(hooked=False, log=self.new_folder() / "engine.log", tie=die_with_parent)

    def host(self, engine: EngineProgram, count: int, slots: int, hosted: App = DEMO) -> SupervisorProgram:
        """Starts a supervisor with `count` processes, which ends as the engine does."""
        words = ("-p", str(count), "-c", str(slots), "--worker", hosted.worker, "--log-level", "warning")
        # A random kill by `--chaos` is not the fault of the activities in the process.
        env = {"KRUXIAFLOW_WORKER_POISON_AFTER": "0", "PYTHONUNBUFFERED": "1"}
        return SupervisorProgram(
            self.new_folder(), hosted.name, *words, engine=engine, env=env, tie=die_with_parent,
            runtime=self.new_folder(), app_dir=hosted.directory,
        )  # fmt: skip

    def pause(self, host: SupervisorProgram, seconds: float) -> None:
        """Waits `seconds`; raises if the supervisor has ended or a signal has arrived."""
        host.program.wait(seconds)
        host.program.check()
        self.check()

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._received is not None:
            raise KeyboardInterrupt
        self._received = number


def run_session(name: str, work: Callable[[Session], int]) -> int:
    """Does `work` and returns its exit code; 1 if it could not run, 128 + the signal if a signal stopped it."""
    say = Screen().say
    home = tempfile.TemporaryDirectory(prefix="flowherd-", dir=short_folder(), ignore_cleanup_errors=True)
    try:
        with home as folder, Session(Path(folder)) as session:
            return work(session)
    except StoppedError as stopped:
        number = signal.Signals(stopped.args[0])
        say(f"The {name} was stopped by {number.name}; everything it started has ended.")
        return 128 + number
    except KeyboardInterrupt:
        say(f"The {name} was stopped at once; everything it started has been killed.")
        return 130
    except (ProgramError, EngineError) as error:
        say(f"The {name} could not run:", str(error))
        return 1


# The demo


@dataclass(frozen=True)
class Work:
    """The work to compute, and its expected answer."""

    root: Path
    parts: list[app.Part]
    expected: dict[str, Any] = field(repr=False)


def _demonstrate(session: Session, processes: int, activities: int, chaos: Chaos | None) -> Report:
    root = app.stdlib()
    parts = app.parts_of(root, activities)
    files = len({part.path for part in parts})
    session.screen.say(
        f"flowherd demo: {len(parts)} activities analyse {files} files of the Python "
        f"{sys.version_info.major}.{sys.version_info.minor} library",
        "The embedded engine and real worker processes, on this machine; no other engine is touched.",
        "",
    )
    began_s = time.monotonic()
    work = Work(root, parts, _directly(root, parts, session))
    reference_s = time.monotonic() - began_s
    baseline = Phase(session, work, 1, chaos if processes == 1 else None).run()
    main = baseline if processes == 1 else Phase(session, work, processes, chaos).run()
    return Report(baseline, main, usable_cpus(), files, reference_s, SEED if chaos is not None else None)


def _directly(root: Path, parts: list[app.Part], session: Session) -> dict[str, Any]:
    """Computes the answer in this process, without flowherd."""
    stage = session.screen.stage("directly, without flowherd", len(parts))
    began_s = time.monotonic()
    findings = []
    for part in parts:
        session.check()
        findings.append(app.analyse(part, app.read_source(root, part.path)))
        stage.update(len(findings))
    facts = app.table_facts([app.signature_table(findings)])
    answer: dict[str, Any] = json.loads(json.dumps({**app.merge(findings), "signatures": facts}))
    elapsed_s = time.monotonic() - began_s
    stage.finish(len(findings), f"{len(findings) / elapsed_s:.1f}/s, {elapsed_s:.1f} s")
    return answer


class Chaos:
    """Kills a worker process now and then; `kills` maps the pid of each one to the time of its kill."""

    def __init__(self, seed: int = SEED) -> None:
        self.kills: dict[int, float] = {}
        self._random = random.Random(seed)
        self._next_s: float | None = None

    def act(self, host: SupervisorProgram, children: Iterable[Mapping[str, Any]], now: float) -> None:
        """Kills one running process if it is time; the first kill comes one pause after the first call."""
        if self._next_s is not None and now < self._next_s:
            return
        running = sorted({child["process"] for child in children if child["phase"] == "running"})
        if self._next_s is not None and running:
            with contextlib.suppress(AssertionError, OSError):  # it has just ended by itself
                ended = host.kill(self._random.choice(running))
                self.kills[ended] = time.monotonic()
        self._next_s = now + self._random.uniform(*KILL_EVERY_S)


class Phase:
    """The whole work once, on N processes with a fresh engine."""

    def __init__(self, session: Session, work: Work, processes: int, chaos: Chaos | None = None) -> None:
        self._session = session
        self._work = work
        self._processes = processes
        self._chaos = chaos
        title = f"on {counted(processes, 'process')}"
        self._stage = session.screen.stage(title, len(work.parts))
        self._journal = session.new_folder() / "journal"

    def run(self) -> Result:
        """Queues everything, starts the supervisor, waits, merges and counts; both programs have ended on return."""
        with self._session.engine() as engine:
            workflows = self._queue(engine.client)
            with self._session.host(engine, self._processes, SLOTS_EACH * self._processes) as host:
                return self.work_through(engine.client, host, workflows)

    def work_through(self, client: WorkflowClient, host: SupervisorProgram, workflows: list[str]) -> Result:
        """Waits for the queued work, merges and counts."""
        completed, failed, ended_s = self._watch(client, host)
        began_s = time.monotonic()
        answer = self._reduce(client, host, workflows) if completed == len(workflows) else {}
        merge_s = time.monotonic() - began_s
        # Accepted outcomes, by the workers, beyond the engine's count: independent of the journal.
        twice = host.status().get("totals", {}).get("completed", 0) - completed - (2 if answer else 0)
        kills = self._chaos.kills if self._chaos is not None else {}
        ran = app.executions(self._journal)
        keys = [part.key for part in self._work.parts]
        counts = app.tally(ran, [*keys, "merge", "signatures"] if answer else keys, kills)
        result = Result(
            processes=self._processes,
            activities=len(keys),
            completed=completed,
            failed=failed,
            lost=max(len(keys) - completed - failed, counts.never),
            duplicates=max(counts.duplicates, twice),
            after_kill=counts.after_kill,
            kills=len(kills),
            wall_s=ended_s - min((execution.started_s for execution in ran), default=ended_s),
            merge_s=merge_s,
            correct=answer == self._work.expected,
            answer=answer,
        )
        self._stage.finish(completed, f"{result.activities_per_s:.1f}/s, {result.wall_s:.1f} s")
        return result

    def _queue(self, client: WorkflowClient) -> list[str]:
        """Queues all activities before the supervisor starts; returns the workflows in the order of the parts."""
        workflows: list[str] = []
        deployed = client.deploy(_definition("analyse_source", ("root", *app.Part._fields, "journal")))
        where = {"root": str(self._work.root), "journal": str(self._journal)}
        for part in self._work.parts:
            self._session.check()
            workflows.append(client.submit(deployed, where | part._asdict()).id)
        self._stage.update(0, "starting")
        return workflows

    def _watch(self, client: WorkflowClient, host: SupervisorProgram) -> tuple[int, int, float]:
        """Draws until every workflow has ended or none has for `STALL_S`; returns completed, failed and the time."""
        total, began_s = len(self._work.parts), time.monotonic()
        moved_s, completed, failed = began_s, 0, 0
        while True:
            before, completed, now = completed, client.total("completed"), time.monotonic()
            if completed == before:  # only then, since each query takes CPU from the activities
                failed = client.total("failed")
            else:
                moved_s = now
            done = completed + failed
            rate = done / (now - began_s)
            children = host.status().get("children", [])
            self._stage.update(completed, f"{rate:.0f}/s" if done else "", children)
            if done >= total:
                return completed, failed, now
            if now - moved_s > STALL_S:
                self._stage.warn(f"nothing has moved for {STALL_S:g} s; the log ends:\n{host.program.tail()}")
                return completed, failed, now
            if self._chaos is not None:
                self._chaos.act(host, children, now)
            half_s = (total - done) / rate / 2 if done else POLL_S  # of what remains
            self._session.pause(host, min(POLL_S, max(LAST_POLL_S, half_s)))

    def _reduce(
        self, client: WorkflowClient, host: SupervisorProgram, workflows: list[str]
    ) -> dict[str, Any]:
        """Merges all outputs with one activity and checks its file with another; returns the answer."""
        self._stage.update(len(workflows), "merging")
        findings = []
        for workflow in workflows:
            self._session.check()
            findings.append(client.workflow(workflow).output)
        answer = self._outcome(client, host, "merge_findings", {"findings": findings})
        if "table" in answer:
            table = {"table": answer.pop("table")}
            answer["signatures"] = self._outcome(client, host, "check_signatures", table)
        return answer

    def _outcome(
        self, client: WorkflowClient, host: SupervisorProgram, activity: str, inputs: dict[str, Any]
    ) -> dict[str, Any]:
        """Runs one more activity and returns its output, empty if there is none."""
        inputs["journal"] = str(self._journal)
        workflow = client.submit(client.deploy(_definition(activity, inputs)), inputs).id
        deadline_s = time.monotonic() + STALL_S
        while client.workflow(workflow).status not in ENDED and time.monotonic() < deadline_s:
            self._session.pause(host, LAST_POLL_S)
        return client.workflow(workflow).output


def _definition(activity: str, names: Iterable[str]) -> bytes:
    return one_step(f"demo-{activity}", activity, names, worker=app.WORKER_TYPE, settings=_SETTINGS)
