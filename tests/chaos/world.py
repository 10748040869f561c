"""A host, a proxy and an engine that can be killed, and the agents that kill them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import httpx
import psutil
from chaos.oracle import Facts, Note, pid_of, read_notes
from chaos.proxy import CALM_NETWORK, REPLY_LOST, Proxy, Toxics
from harness import Engine, Host, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHAOS_APPS = Path(__file__).parent / "apps"
SHORT_LEASE_S = 3.0
TICK_S = 0.05
CANARY = "canary-5ecret-in-the-environment"


class IsolateRun(NamedTuple):
    """An attempt in an isolate, as its handler has noted it."""

    activity_id: str
    isolate: str
    worker: str

    @property
    def pid(self) -> int:
        """The isolate's."""
        return int(self.isolate)


class World:
    """A run with everything in one folder.

    Args:
        folder: for the database, the notes, the log.
        toxics: what the proxy does.
        lease_s: of the engine's and the host's activities.
        sweep_s: how often the engine takes back leases that have lapsed.

    Attributes:
        killers: the workflows whose activity kills its process.
        deaths: when we killed a process, by pid.
        isolate_deaths: when we killed an isolate, by pid.
        freezes: whom we stopped, from and to.
        outages: when the engine was away.

    """

    def __init__(
        self,
        folder: Path,
        toxics: Toxics = CALM_NETWORK,
        seed: int = 0,
        *,
        credentials: tuple[str, str] | None = None,
        lease_s: float = SHORT_LEASE_S,
        token_ttl_s: float = 86_400.0,
        sweep_s: float = 1.0,
    ) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.lease_s = lease_s
        self._credentials = credentials
        self._db = str(folder / "engine.sqlite")
        self._flags = (
            "--default-lease",
            f"{lease_s:g}",
            "--sweep-interval",
            f"{sweep_s:g}",
            "--workflow-timeout",
            "3600",
        )
        self._flags += ("--token-ttl", f"{token_ttl_s:g}")
        self.engine = Engine(*self._flags, db=self._db, credentials=credentials)
        self._port = int(self.engine.url.rsplit(":", 1)[1])
        self.proxy = Proxy(self._port, toxics, seed)
        self.submitted: set[str] = set()
        self.killers: set[str] = set()
        self.deaths: dict[int, float] = {}
        self.isolate_deaths: dict[int, float] = {}
        self.freezes: list[tuple[int, float, float]] = []
        self.outages: list[tuple[float, float]] = []
        self.host: Host | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit_work(
        self,
        count: int,
        seconds: tuple[float, float],
        in_thread: float = 0.25,
        max_attempts: int = 20,
        in_isolate: float = 0.0,
    ) -> None:
        """Queues activities of random length, some of which run in threads, or in isolates."""
        retry = {"retry": {"max_attempts": max_attempts}}
        for number in range(count):
            chance = self.rng.random()
            name = "work_in_thread" if chance < in_thread else "work"
            name = "work_in_isolate" if chance > 1 - in_isolate else name
            length_s = round(self.rng.uniform(*seconds), 3)
            self.submitted |= set(
                self.engine.submit(name, 1, settings=retry, number=number, seconds=length_s)
            )

    def submit_killers(self, count: int) -> None:
        """Queues activities that take their process down whenever they run."""
        killers = self.engine.submit("kill_self", count, settings={"retry": {"max_attempts": 20}})
        self.killers |= set(killers)
        self.submitted |= set(killers)

    def start_host(
        self,
        *flags: str,
        app: str = "chaos_app:registry",
        processes: int = 4,
        slots: int = 32,
        poison_after: int = 0,
        env: dict[str, str] | None = None,
        past_the_proxy: bool = False,
        name: str = "host",
    ) -> Host:
        """Starts `flowherd run` against the proxy or the engine itself, and waits until its workers are ready."""
        folder = self.folder / name
        (folder / "tmp").mkdir(parents=True)
        env = (env or {}) | {
            "KRUXIAFLOW_WORKER_POISON_AFTER": str(poison_after),
            "CHAOS_NOTES": str(self.notes_path),
            "TMPDIR": str(folder / "tmp"),
            "CHAOS_CANARY": CANARY,
        }
        words = ["-p", str(processes), "-c", str(slots), "--default-lease", f"{self.lease_s:g}", *flags]
        if self._credentials:
            words += ["--client-id", self._credentials[0]]
            env["KRUXIAFLOW_CLIENT_SECRET"] = self._credentials[1]
        url = self.engine.url if past_the_proxy else self.proxy.url
        self.host = Host(folder, app, *words, url=url, env=env, app_dir=CHAOS_APPS)
        return self.host.ready(processes)

    @property
    def notes_path(self) -> Path:
        """Where handlers write."""
        return self.folder / "notes"

    def notes(self, event: str) -> list[Note]:
        """The handlers' lines of a kind so far."""
        return [note for note in read_notes(self.notes_path) if note.event == event]

    # Faults

    def kill(self, pid: int) -> float:
        """Sends SIGKILL; returns the time."""
        at_s = self.deaths[pid] = time.time()
        with contextlib.suppress(ProcessLookupError):  # it has already ended by itself
            os.kill(pid, signal.SIGKILL)
        return at_s

    def kill_a_worker(self) -> None:
        """Sends SIGKILL to a random worker."""
        assert self.host is not None
        if workers := sorted(self.host.children().values()):
            self.kill(self.rng.choice(workers))

    def kill_a_worker_between_polls(self) -> None:
        """Sends SIGKILL to a random worker without claimed activities that have not begun.

        A claim that is on its way to a dying worker comes back only with its lease (C2). So new polls are refused, and
        the replies of earlier ones are awaited.
        """
        assert self.host is not None
        if workers := sorted(self.host.children().values()):
            victim = self.rng.choice(workers)
            self.proxy.bars.add(victim)
            eventually(
                lambda: self._has_begun_everything(victim), f"all begun that process {victim} was given"
            )
            self.kill(victim)

    def _has_begun_everything(self, pid: int) -> bool:
        if self.proxy.polling[pid]:
            return False
        given = Counter(e["activity_id"] for e in self.engine.entries("claim") if pid_of(e) == pid)
        begun = Counter(note.activity_id for note in self.notes("start") if note.pid == pid)
        return given <= begun or not is_alive(pid)

    def kill_a_busy_worker(self) -> None:
        """SIGKILL to a random worker in which several activities run.

        A worker in which a suspect runs alone is spared, since its kill would look like the suspect's crash.
        """
        assert self.host is not None
        workers = sorted(self.host.children().values())
        running: Counter[int] = Counter()
        for note in read_notes(self.notes_path):
            running[note.pid] += {"start": 1, "end": -1}[note.event]
        if busy := [pid for pid in workers if running[pid] > 1]:
            self.kill(self.rng.choice(busy))

    def kill_an_isolate(self) -> None:
        """SIGKILL to a random isolate, while there are several: else the last activities would never end."""
        pids = self.isolates()
        if len(pids) > 2:
            pid = self.rng.choice(pids)
            self.isolate_deaths[pid] = time.time()
            with contextlib.suppress(ProcessLookupError):  # it has already ended by itself
                os.kill(pid, signal.SIGKILL)

    def isolates(self) -> list[int]:
        """The pids of the isolates that exist."""
        return sorted(pid for pid in {run.pid for run in self._isolate_runs()} if is_alive(pid))

    def _isolate_runs(self) -> list[IsolateRun]:
        path = self.notes_path.with_name("notes.isolates")
        lines = path.read_text().splitlines() if path.exists() else []
        return [IsolateRun(*line.split()) for line in lines]

    def _isolate_ends(self) -> list[Note]:
        """Returns the end notes that handlers in killed isolates could not write."""
        last = {run.pid: run for run in self._isolate_runs()}
        return [
            Note(at_s, "end", last[pid].activity_id, int(last[pid].worker), "-")
            for pid, at_s in self.isolate_deaths.items()
        ]

    def _struck_before_their_first_note(self) -> Iterator[str]:
        """Returns the activity of a killed isolate whose handler had not written a note yet, from the worker's log.

        The log counts for isolates that we killed, and once for each of them.
        """
        assert self.host is not None
        for line in self.host.log("isolate_died"):
            if line.get("isolate") in self.isolate_deaths and "activity_id" in line:
                yield line["activity_id"]

    def restart_engine(self, away_s: float = 0.0) -> None:
        """SIGKILL to the engine, and a new one on the same file and port."""
        since_s = time.time()
        self.engine.process.kill()
        self.engine.process.wait()
        assert self.engine.process.stdout is not None
        self.engine.process.stdout.close()
        self.engine.http.close()
        if away_s:
            threading.Event().wait(away_s)
        self.engine = Engine(*self._flags, port=self._port, db=self._db, credentials=self._credentials)
        self.outages.append((since_s, time.time()))

    def until_done(self, within_s: float, *agents: Callable[[float], None]) -> None:
        """Runs the agents until every submitted activity has ended; an agent gets the seconds passed."""
        started_at = time.monotonic()
        while self.ended() < len(self.submitted):
            passed_s = time.monotonic() - started_at
            if passed_s > within_s:
                return  # the oracle names what is missing
            for act in agents:
                act(passed_s)
            threading.Event().wait(TICK_S)

    def ended(self) -> int:
        """Returns the number of ended activities, by the engine's journal."""
        journal = self.engine.journal()
        return sum(
            (e["event"] == "complete" and e["attempt"] is not None) or e["verdict"] == "failed"
            for e in journal
        )

    # The end

    def facts(self, budget: int) -> Facts:
        """Returns the records of the engine, the handlers and the proxy."""
        rows = self.engine.http.get("/__test__/activities").json()["activities"]
        killers = {row["activity_id"] for row in rows if row["workflow_id"] in self.killers}
        polls = [call for call in self.proxy.calls if call.verb == "poll"]
        apart = {(run.activity_id, int(run.worker)) for run in self._isolate_runs()}
        written = read_notes(self.notes_path)
        suicides = [note for note in written if note.activity_id in killers]
        ends = self._isolate_ends()
        ends += [replace(n, event="end") for n in suicides if (n.activity_id, n.pid) in apart]
        notes = sorted([*written, *ends], key=lambda note: note.at_s)
        deaths = {n.pid: n.at_s for n in suicides if (n.activity_id, n.pid) not in apart}
        return Facts(
            journal=self.engine.journal(),
            rows=rows,
            outputs=dict(self._outputs(rows)),
            errors=dict(self._errors(rows)),
            notes=notes,
            submitted=self.submitted,
            killers=self.killers,
            budget=budget,
            deaths=deaths | self.deaths,
            outages=self.outages,
            freezes=self.freezes,
            isolate_victims={note.activity_id for note in ends} | set(self._struck_before_their_first_note()),
            apart=apart,
            lost_polls={call.worker_id for call in polls if call.fate in REPLY_LOST},
            answered={call.worker_id: call.answered_s for call in polls},
        )

    def _outputs(self, rows: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
        for row in rows:
            if row["status"] == "completed":
                outputs = self.engine.output(row["workflow_id"])
                yield row["activity_id"], str(outputs.get("digest", outputs))

    def _errors(self, rows: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
        for row in rows:
            if row["status"] == "failed":
                [step] = self.engine.workflow(row["workflow_id"])["activities"]
                yield row["workflow_id"], str(step.get("error"))

    def leftovers(self) -> list[str]:
        """I6: processes, sockets and files of a host that has ended."""
        assert self.host is not None
        found = [f"process {pid}" for pid in (*self.host.tree(), *self.isolates())]
        found += [str(path) for path in (self.host.folder / "tmp").rglob("*")]
        return found + [str(path) for path in (self.host.folder / "r").rglob("*") if not path.is_dir()]

    def close(self) -> None:
        """Ends all remaining programs."""
        if self.host is not None:
            self.host.stop()
        with contextlib.suppress(httpx.HTTPError):
            self.engine.stop()
        self.proxy.__exit__(None, None, None)


def is_alive(pid: int) -> bool:
    """True if a process exists and has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def every(period_s: float, act: Callable[[], None]) -> Callable[[float], None]:
    """An agent that acts once a period."""
    due_s = period_s

    def agent(passed_s: float) -> None:
        nonlocal due_s
        if passed_s >= due_s:
            due_s = passed_s + period_s
            act()

    return agent
