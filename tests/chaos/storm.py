"""The chaos soak (scorecard M1): a queue of work, random kills of processes and engine, network faults."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil
from chaos.oracle import Facts, bound
from chaos.proxy import HARSH, Toxics
from chaos.world import CANARY, World, every

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


SLOTS = 32
KEEPER_SPARED_S = 14.0  # 10 s, and what it takes to notice and replace a frozen one
SECRET = "canary-5ecret-of-the-client"


@dataclass(frozen=True, slots=True)
class Profile:
    """The amounts and periods of a storm; times in seconds, 0 for never."""

    activities: int
    lengths_s: tuple[float, float]
    kill_every_s: float = 3.0
    restart_engine_every_s: float = 30.0
    harass_every_s: float = 0.0  # a random process of ours, the keeper too, is killed or frozen for a while
    toxics: Toxics = HARSH
    within_s: float = 600.0
    poison_after: int = 0  # with it, a process is only killed while several activities run there
    killers: int = 0
    in_isolate: float = 0.1  # of the activities
    kill_isolate_every_s: float = 0.0
    transport: str = "direct"


SHORT = Profile(
    240,
    (0.02, 0.8),
    kill_every_s=2.0,
    restart_engine_every_s=4.0,
    within_s=60.0,
    kill_isolate_every_s=1.5,
)
LONG = Profile(3000, (0.02, 2.0), kill_isolate_every_s=2.0)
HARASSED = Profile(1500, (0.02, 2.0), 0.0, 0.0, harass_every_s=1.5)
HARASSED_SHORT = Profile(
    250, (0.02, 1.5), kill_every_s=0.0, restart_engine_every_s=0.0, harass_every_s=1.5, within_s=60.0
)
SUSPICIOUS = Profile(
    300,
    (0.05, 1.0),
    kill_every_s=1.5,
    restart_engine_every_s=0.0,
    toxics=Toxics(),
    within_s=90.0,
    poison_after=3,
    killers=3,
)
CALM_SHORT = Profile(400, (0.0, 0.05), 0.0, 0.0, toxics=Toxics(), within_s=60.0)
CALM = Profile(2000, (0.0, 0.05), 0.0, 0.0, toxics=Toxics())


@dataclass
class Judgement:
    """The oracle's findings about one run; every list is empty after a good one."""

    facts: Facts = field(repr=False)
    complaints: dict[str, list[str]]
    counts: dict[str, int]
    explanations: Counter[str]

    @property
    def is_good(self) -> bool:
        """True if nothing was found."""
        return not any(self.complaints.values())

    def __str__(self) -> str:
        lines = [
            f"{name}: {len(found)}, such as {found[:5]}" for name, found in self.complaints.items() if found
        ]
        return "\n".join(
            [*lines, f"counts {self.counts}", f"explained {dict(self.explanations)}", self.facts.tail()]
        )

    def summary(self) -> str:
        """One line for the table."""
        found = ", ".join(f"{name} {len(found)}" for name, found in self.complaints.items())
        done = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        reasons = ", ".join(f"{count} x {reason}" for reason, count in self.explanations.most_common())
        worst = bound(self.counts["kills"] or self.counts["activities"])
        return f"{found} — of {done}; handed out again: {reasons or 'none'}; loss per kill {worst}"


def storm(folder: Path, profile: Profile, seed: int) -> Judgement:
    """Runs a profile to its end and checks it."""
    with World(folder, profile.toxics, seed, credentials=("soak", SECRET)) as world:
        half = profile.activities // 2
        world.submit_work(half, profile.lengths_s, in_isolate=profile.in_isolate)
        world.submit_killers(profile.killers)
        world.submit_work(profile.activities - half, profile.lengths_s, in_isolate=profile.in_isolate)
        world.start_host("--transport", profile.transport, slots=SLOTS, poison_after=profile.poison_after)
        secrets = _Secrets(world)
        harasser = _Harasser(world)
        world.until_done(profile.within_s, *_agents(world, profile, harasser), every(2.0, secrets.look))
        harasser.leave_alone()
        return _judge(world, secrets)


def _agents(world: World, profile: Profile, harasser: _Harasser) -> Iterator[object]:
    if profile.kill_every_s:
        yield every(
            profile.kill_every_s, world.kill_a_busy_worker if profile.poison_after else world.kill_a_worker
        )
    if profile.kill_isolate_every_s:
        yield every(profile.kill_isolate_every_s, world.kill_an_isolate)
    if profile.restart_engine_every_s:
        yield every(profile.restart_engine_every_s, world.restart_engine)
    if profile.harass_every_s:
        yield every(profile.harass_every_s, harasser.strike)


def _judge(world: World, secrets: _Secrets) -> Judgement:
    assert world.host is not None
    secrets.look()
    world.host.signal(signal.SIGTERM)
    exit_code = world.host.wait(40)
    facts = world.facts(SLOTS)
    most = facts.most_running()
    fates = world.proxy.count()
    return Judgement(
        facts,
        {
            "lost": facts.lost(),
            "poison misjudged": facts.misjudged(),
            "bystanders twice": facts.taken_down_twice(),
            "accepted twice": facts.accepted_twice(),
            "wrong outputs": facts.wrong_outputs(),
            "unexplained repeats": facts.unexplained(),
            "over budget": [f"{most} of {facts.budget} at a time"] * (most > facts.budget),
            "leftovers": world.leftovers() + ([f"exit code {exit_code}"] if exit_code else []),
            "secrets seen": secrets.hits(),
            "causes misnamed": _misnamed(world, facts),
        },
        {
            "activities": len(facts.submitted),
            "kills": len(facts.deaths),
            "isolate kills": len(world.isolate_deaths),
            "freezes": len(world.freezes),
            "engine restarts": len(facts.outages),
            "calls": sum(fates.values()),
            "faults in the network": sum(count for fate, count in fates.items() if fate.value != "passed"),
        },
        facts.explanations(),
    )


def _misnamed(world: World, facts: Facts) -> list[str]:
    """I8: each kill has exactly one line in the log, and there are no other crashes."""
    assert world.host is not None
    killed, frozen = set(facts.deaths), {pid for pid, _, _ in facts.freezes}
    named: Counter[int] = Counter()
    started: set[int] = set()
    for line in world.host.log():
        match line.get("event"):
            case "process_started" | "preload_started":
                started.add(line["pid"])
            case "process_died" | "keeper_died" | "preload_died":
                named[line["pid"]] += 1
            case _:
                continue
    found = [f"pid {pid} was not killed by us" for pid in named if pid not in killed | frozen]
    return found + [f"pid {pid} named {named[pid]} times" for pid in killed & started if named[pid] != 1]


class _Secrets:
    """I7: searches for the canaries wherever our processes are visible from outside."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._hits: list[str] = []

    def look(self) -> None:
        """Searches command lines and the status page now."""
        host = self._world.host
        assert host is not None
        self._search("status", str(host.status()))
        for pid in (host.pid, *host.tree()):
            try:
                self._search(f"command line of {pid}", " ".join(psutil.Process(pid).cmdline()))
            except psutil.NoSuchProcess:
                continue

    def hits(self) -> list[str]:
        """Returns all findings, including the log and the runtime folder."""
        host = self._world.host
        assert host is not None
        for path in host.folder.rglob("*"):
            if path.is_file():
                self._search(str(path), path.read_text(errors="replace"))
        return self._hits

    def _search(self, place: str, text: str) -> None:
        self._hits += [f"{canary} in {place}" for canary in (SECRET, CANARY, "eyJ") if canary in text]


class _Harasser:
    """Kills or freezes any process below the supervisor; a frozen one is resumed after a while.

    The keeper is not killed three times in a row, since three exits in 10 s make a host drain by design.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._frozen: tuple[int, float] | None = None
        self._keeper_struck: list[float] = []

    def strike(self) -> None:
        """Resumes the process frozen last, then chooses another one."""
        self.leave_alone()
        host = self._world.host
        assert host is not None
        now, keeper = time.monotonic(), host.keeper()
        spared = {keeper} if sum(now - at < KEEPER_SPARED_S for at in self._keeper_struck) >= 2 else set()
        victim = self._world.rng.choice([pid for pid in host.tree() if pid not in spared])
        if victim == keeper:
            self._keeper_struck.append(now)
        if self._world.rng.random() < 0.5:
            self._world.kill(victim)
        else:
            self._signal(victim, signal.SIGSTOP)
            self._frozen = victim, time.time()

    def leave_alone(self) -> None:
        """Resumes the frozen process."""
        if self._frozen is not None:
            victim, since_s = self._frozen
            self._world.freezes.append((victim, since_s, time.time()))
            self._signal(victim, signal.SIGCONT)
            self._frozen = None

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return  # the supervisor has replaced it
