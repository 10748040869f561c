"""Times of replacements and stops (M3 to M7); each measure is a function of folder, scale and seed."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from chaos.oracle import median_and_most, pid_of
from chaos.world import World, every
from harness import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Host


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    id: str
    what: str
    result: str
    target: str
    is_met: bool


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the measures are; `words` are for pytest, `mutation_words` for the mutations."""

    kills: int
    orphans: int
    outage_s: float
    noops: int
    crash_loop_s: float
    histories: int
    requests: int
    words: tuple[str, ...] = ()
    mutation_words: tuple[str, ...] = ()


BESIDE = 24  # activities at a time: slots stay free, so that a queue adds nothing to the times
SHORT = Scale(6, 3, 8.0, 2_000, 15.0, 60, 300, mutation_words=("--quick",))
LONG = Scale(32, 10, 20.0, 10_000, 60.0, 300, 2_000, words=("--soak",))


def kills(folder: Path, scale: Scale, seed: int) -> list[Row]:
    """M3, M4, M4b: the cost of a killed worker."""
    with World(folder, seed=seed) as world:
        world.submit_work(BESIDE, (0.2, 1.0))
        host = world.start_host()
        mature = _Mature(host)

        def strike() -> None:
            if len(world.deaths) < scale.kills and (pids := mature.workers()):
                world.kill(world.rng.choice(pids))

        def top_up() -> None:
            if len(world.deaths) < scale.kills:
                world.submit_work(BESIDE - len(world.submitted) + world.ended(), (0.2, 1.0))

        world.until_done(240, every(0.6, strike), every(0.1, top_up))
        replaced = [born - died for died, born in _replacements(host, world.deaths)]
        back = [
            e["at_s"] - world.deaths[pid_of(e)]
            for e in world.engine.entries("fail")
            if pid_of(e) in world.deaths and e["at_s"] < world.deaths[pid_of(e)] + 60
        ]
        again = list(_started_again(world))
        n = len(world.deaths)
        good = len(replaced) == n and _within(replaced, 0.3, 1.0)
        return [
            Row("M3", "kill → replacement Ready", median_and_most(replaced), "p50 ≤ 0.3 s, p99 ≤ 1 s", good),
            Row(
                "M4",
                "kill → handed back",
                median_and_most(back),
                "p50 ≤ 0.2 s, p99 ≤ 1 s",
                _within(back, 0.2, 1.0),
            ),
            Row(
                "M4b",
                "kill → started again",
                median_and_most(again),
                "the engine's retry delay (2 s) and M4",
                bool(again),
            ),
        ]


QUEUED = 400
CROWDS = (  # a queue of what, and what the settings file says of it
    ("light work, slots full", ("work", {"number": 0, "seconds": 0.5}), ""),
    ("50 ms of CPU each", ("block_loop", {"seconds": 0.05}), ""),
    (
        "max_concurrent = 4",
        ("work", {"number": 0, "seconds": 0.1}),
        "[activities.work]\nmax_concurrent = 4\n",
    ),
)


def unbegun(folder: Path, scale: Scale, seed: int) -> list[Row]:
    """M4c: how much of what a killed worker held had not begun, and how much of that was handed back."""
    rows = []
    for number, (crowd, (activity, parameters), config) in enumerate(CROWDS):
        here = folder / str(number)
        here.mkdir()
        settings = here / "flowherd.toml"
        settings.write_text(config)
        with World(here, seed=seed) as world:
            retry = {"retry": {"max_attempts": 20}}
            world.submitted |= set(world.engine.submit(activity, QUEUED, settings=retry, **parameters))
            host = world.start_host("--config", str(settings))
            eventually(lambda: world.notes("start"), "work")

            def strike() -> None:
                if len(world.deaths) < scale.kills:
                    world.kill_a_worker()

            world.until_done(120, every(0.7, strike))
            told = [line["reason"] for line in host.log("activity_failed")]
            waited = sum("waited to begin" in reason for reason in told)
            adopted = len(host.log("activity_adopted"))
            ran = sum("while the activity" in reason for reason in told) - waited
            held = waited + adopted + ran
            text = f"{waited + adopted} of {held} claims at {len(world.deaths)} kills, {waited} handed back"
            rows.append(Row("M4c", f"not begun: {crowd}", text, "0 handed back", not waited))
    return rows


class _Mature:
    """The workers that have been ready for 2 s."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._seen: dict[int, float] = {}

    def workers(self) -> list[int]:
        now, pids = time.monotonic(), sorted(self._host.children().values())
        for pid in pids:
            self._seen.setdefault(pid, now)
        return [pid for pid in pids if now - self._seen[pid] >= 2.0]


def _replacements(host: Host, deaths: dict[int, float]) -> list[tuple[float, float]]:
    """When each victim died and when the next process of its process was ready."""
    found, process_of, open_deaths = [], {}, {}
    for line in host.log():
        process = line.get("process")
        match line.get("event"):
            case "process_started":
                if (died := deaths.get(process_of.get(process, 0))) is not None:
                    open_deaths[process] = died
                process_of[process] = line["pid"]
            case "process_ready" if process in open_deaths:
                found.append((open_deaths.pop(process), datetime.fromisoformat(line["time"]).timestamp()))
            case _:
                continue
    return found


def _started_again(world: World) -> list[float]:
    """For each handed-back activity, from the kill to the next start of its handler."""
    starts = world.notes("start")
    found = []
    for entry in world.engine.entries("fail"):
        died = world.deaths.get(pid_of(entry))
        if died is not None:
            later = [n.at_s for n in starts if n.activity_id == entry["activity_id"] and n.at_s > died]
            found += [min(later) - died] if later else []
    return found


def orphans(folder: Path, scale: Scale, seed: int) -> list[Row]:
    """M5: nothing outlives a killed supervisor."""
    times: dict[str, list[float]] = {"idle": [], "busy": []}
    for number in range(scale.orphans):
        doing = ("", "work_in_isolate", "block_loop", "hold_gil", "work_in_thread", "work")[number % 6]
        here = folder / str(number)
        here.mkdir()
        with World(here, seed=seed, lease_s=60) as world:
            host = world.start_host("--activity-timeout", "100", processes=2, slots=8)
            if doing:
                extra = {"number": 0} if doing.startswith("work") else {}
                world.engine.submit(doing, 2, seconds=30, **extra)
                eventually(lambda: world.notes("start"), "a running activity")
            since = time.monotonic()
            os.kill(host.pid, signal.SIGKILL)
            host.process.wait()
            eventually(lambda: not (host.tree() or world.isolates()), "the end of all", within_s=15)  # noqa: B023 - as above
            times["busy" if doing else "idle"].append(time.monotonic() - since)
    good = max(times["idle"]) <= 2 and max(times["busy"], default=0) <= 5
    text = f"idle {median_and_most(times['idle'])}; else {median_and_most(times['busy'])}"
    return [Row("M5", "supervisor killed → all gone", text, "idle ≤ 2 s, else ≤ 5 s", good)]


def drains(folder: Path, _scale: Scale, seed: int) -> list[Row]:
    """M6, M7: the ends of a host."""
    ends = {}
    for name, flags, length, terms in (
        ("M6", ("--graceful-timeout", "10"), (1.0, 3.0), 1),
        ("M7", ("--graceful-timeout", "3"), (60.0, 60.0), 1),
        ("M7b", ("--graceful-timeout", "30"), (60.0, 60.0), 2),
    ):
        here = folder / name
        here.mkdir()
        with World(here, seed=seed, lease_s=60) as world:
            world.submit_work(32, length, in_thread=0.25 if terms == 1 else 0.0)
            host = world.start_host(*flags)
            eventually(lambda: len(world.notes("start")) == 32, "32 running")
            since = time.monotonic()
            host.signal(signal.SIGTERM)
            if terms == 2:
                host.wait_for_log("draining")
                since = time.monotonic()
                host.signal(signal.SIGTERM)
            code = host.wait(40)
            took_s = time.monotonic() - since
            ends[name] = (
                took_s,
                code,
                len(world.engine.entries("complete")),
                len(world.engine.entries("fail")),
            )
    rows = []
    for name, limit_s, wanted in (("M6", 3.5, (0, 32, 0)), ("M7", 4.0, (6, 0, 32)), ("M7b", 1.0, (6, 0, 32))):
        took_s, *found = ends[name]
        text = f"{took_s:.2f} s, exit {found[0]}, {found[1]} completed and {found[2]} given back of 32"
        target = f"≤ {limit_s} s, exit {wanted[0]}, {wanted[1]} completed, {wanted[2]} given back"
        what = {"M6": "drain", "M7": "drain limit 3 s", "M7b": "second SIGTERM"}[name]
        rows.append(Row(name, what, text, target, took_s <= limit_s and tuple(found) == wanted))
    return rows


def _within(times: list[float], p50: float, p99: float) -> bool:
    ordered = sorted(times)
    return bool(ordered) and ordered[len(ordered) // 2] <= p50 and ordered[int(len(ordered) * 0.99)] <= p99
