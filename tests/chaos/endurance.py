"""Endurance of a host (M8 to M12, M17); each measure is a function of folder, scale and seed."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING

import psutil
from chaos.measures import Row, Scale
from chaos.oracle import pid_of
from chaos.proxy import Fate
from chaos.world import CHAOS_APPS, World
from harness import eventually, running_host

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = "http://127.0.0.1:1"


def blocked(folder: Path, _scale: Scale, seed: int) -> list[Row]:
    """M8: a blocked loop of 12 s and a held GIL of 8 s under a lease of 3 s."""
    with World(folder, seed=seed) as world:
        host = world.start_host(processes=2, slots=2)
        world.submitted |= set(world.engine.submit("block_loop", 1, seconds=12))
        world.submitted |= set(world.engine.submit("hold_gil", 1, seconds=8))
        world.until_done(60)
        lapses, deaths = len(world.engine.entries("lapse")), len(host.log("process_died"))
        again = sum(count - 1 for count in world.engine.claims_per_activity().values())
        text = f"leases lost {lapses} of 2, processes ended {deaths}, handed out again {again}"
        return [
            Row(
                "M8",
                "loop blocked 12 s, GIL held 8 s",
                text,
                "0, 0, 0",
                not lapses and not deaths and not again,
            )
        ]


def crash_loops(folder: Path, scale: Scale, _seed: int) -> list[Row]:
    """M9: an app that cannot be imported, and one whose processes end a second after their start."""
    imported, crashed = folder / "imported", folder / "crashed"
    for here in (imported, crashed):
        here.mkdir()
    since = time.monotonic()
    with running_host(imported, "broken_app:registry", "-p", "2", url=NOBODY) as host:
        code, took_s = host.wait(), time.monotonic() - since
        tracebacks = host.log_path.read_text().count("Traceback (most recent call last)")
    text = f"exit {code} after {took_s:.2f} s, {tracebacks} traceback"
    first = Row("M9", "import error", text, "exit 3 ≤ 5 s, one", (code, tracebacks) == (3, 1) and took_s <= 5)
    flags = ("-p", "2", "-c", "2", "--max-restarts", "0")
    with running_host(crashed, "crashing_app:registry", *flags, url=NOBODY, app_dir=CHAOS_APPS) as host:
        host.wait_for_log("process_ready", 3)
        supervisor, since = psutil.Process(host.pid), time.monotonic()
        before_s = sum(supervisor.cpu_times()[:2])
        time.sleep(scale.crash_loop_s)
        took_s, used_s = time.monotonic() - since, sum(supervisor.cpu_times()[:2]) - before_s
        most = max(Counter(line["process"] for line in host.log("process_died")).values())
    share = used_s / took_s
    text = f"{most} restarts a process in {took_s:.0f} s, supervisor {share:.2%} of a CPU"
    good = 3 <= most <= 12 and share <= 0.02
    return [first, Row("M9b", "crash after 1 s", text, "≤ 12 a minute, ≤ 2 %", good)]


def poison(folder: Path, _scale: Scale, seed: int) -> list[Row]:
    """M10: one killer among 200 that have two attempts each."""
    with World(folder, seed=seed) as world:
        world.submit_work(100, (0.02, 0.2), max_attempts=2)
        world.submit_killers(1)
        world.submit_work(100, (0.02, 0.2), max_attempts=2)
        host = world.start_host(poison_after=3)
        world.until_done(90)
        error = str(world.engine.workflow(*world.killers)["activities"][0].get("error"))
        completed = len(world.engine.completions_per_activity())
        deaths = len(host.log("process_died")) + len(host.log("isolate_died"))
        text = f"{completed} of 200 completed, killer ended after {deaths} deaths: {error[:60]!r}"
        good = completed == 200 and deaths == 3 and "given up after 3" in error
        return [Row("M10", "poison among 200", text, "200 of 200, terminal after 3", good)]


def tokens(folder: Path, scale: Scale, seed: int) -> list[Row]:
    """M11: eight children, tokens of 4 s, and a token route that is away for a while."""
    with World(
        folder, seed=seed, credentials=("m11", "canary-token-secret"), token_ttl_s=4, lease_s=60
    ) as world:
        world.submit_work(160, (0.3, 1.0))
        since = time.time()
        world.start_host(processes=8, slots=16)
        eventually(lambda: world.ended() >= 60, "60 done", within_s=60)
        world.proxy.refuses.add("token")
        time.sleep(scale.outage_s)
        world.proxy.refuses.clear()
        world.until_done(60)
        asked, took_s = world.proxy.count("token"), time.time() - since - scale.outage_s
        most = 1 + took_s / 3.0
        granted, refused, done = asked[Fate.PASSED], asked[Fate.REFUSED], world.ended()
        text = (
            f"{granted} token requests of 8 children in {took_s:.1f} s, {refused} more in an outage of "
            f"{scale.outage_s:g} s; {done} of 160 done"
        )
        good = granted <= most and 1 <= refused <= 15 and done == 160
        return [Row("M11", "one token for the host", text, f"≤ {most:.0f}, ≤ 15, all done", good)]


def outage(folder: Path, scale: Scale, seed: int) -> list[Row]:
    """M12: the engine goes away while 32 results come due."""
    with World(folder, seed=seed, lease_s=60) as world:
        world.submit_work(32, (1.5, 2.5))
        world.start_host()
        eventually(lambda: len(world.notes("start")) == 32, "32 running")
        world.submit_work(8, (0.02, 0.05))
        world.restart_engine(away_s=scale.outage_s)
        [(since, back_at)] = world.outages
        world.until_done(60)
        tries = tries_in_vain(world, since, since + scale.outage_s)
        first = min(e["at_s"] for e in world.engine.entries("claim") if e["at_s"] > since) - back_at
        twice = sum(count > 1 for count in world.engine.completions_per_activity().values())
        done, again = world.ended(), sum(c - 1 for c in world.engine.claims_per_activity().values())
        text = (
            f"away {back_at - since:.1f} s: at most {max(tries.values())} tries a child, {done} of 40 delivered, "
            f"{twice} twice, {again} run again, first claim {first:.2f} s after return"
        )
        good = max(tries.values()) <= 15 and done == 40 and not twice and not again and first <= 10
        return [
            Row(
                "M12",
                "engine away, 32 results wait",
                text,
                "≤ 15 tries, all delivered, first claim ≤ 10 s",
                good,
            )
        ]


def tries_in_vain(world: World, since_s: float, until_s: float) -> Counter[int]:
    """Returns each worker's number of calls that found no engine, without the keeper's heartbeats.

    On a busy machine the engine may answer before the test learns that it is back; answered calls do not count.
    """
    return Counter(
        pid_of({"worker_id": call.worker_id})
        for call in world.proxy.calls
        if since_s < call.at_s < until_s
        and call.verb in {"poll", "complete", "fail"}
        and call.fate in {Fate.UNREACHABLE, Fate.UNANSWERED}
    )


def drift(folder: Path, scale: Scale, seed: int) -> list[Row]:
    """M17: many no-ops through one child leave nothing behind."""
    with World(folder, seed=seed) as world:
        host = world.start_host("--poll-max", "50", processes=1, slots=32)
        [pid] = host.children().values()
        marks = []
        for _ in range(3):
            world.submitted |= set(
                world.engine.submit("noop", scale.noops // 2 if marks else scale.noops // 4)
            )
            world.until_done(240)
            marks.append(
                (len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task")), _rss_mb(pid))
            )
        (fds, threads, _), (_, _, rss), (fds_at_end, threads_at_end, rss_at_end) = marks
        more = (fds_at_end - fds, threads_at_end - threads, rss_at_end - rss)
        text = f"fds {more[0]:+d}, threads {more[1]:+d}, rss {more[2]:+.1f} MB in the last {scale.noops // 2} no-ops"
        good = more[0] <= 2 and more[1] <= 0 and more[2] <= 1.0
        return [Row("M17", f"drift in {len(world.submitted)} no-ops", text, "+0, +0, ≤ 1 MB", good)]


def _rss_mb(pid: int) -> float:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
