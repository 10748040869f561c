"""What is measured of each contender, written once; a scenario returns figures and judges nothing.

A figure that is its ceiling stands for "not within".
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from typing import TYPE_CHECKING

from bench_kit import quantile

if TYPE_CHECKING:
    from collections.abc import Callable

    from hosting import Hosted

LIGHT_PER_S, LIGHT_S, HEAVY_S, DRAIN_S = 10, 0.03, 2.0, 20.0
IDLE_S, SETTLE_S = 15.0, 4.0
LEASE_S, BLOCK_S = 5.0, 20.0
KILLED_S, AGAIN_S, TERM_S, LEASED_S = 75.0, 20.0, 30.0, 40.0  # ceilings

CPU, BROKER, RATE = "CPU µs per no-op", "broker's CPU µs per no-op", "no-ops a second"
PSS, PSS_BESIDE = "memory alone, MB", "memory beside the others, MB"
LIGHT_P50, LIGHT_P95 = "light beside heavy, p50 ms", "light beside heavy, p95 ms"
IDLE_ASKED, IDLE_CPU = "idle: asked a second", "idle: CPU %"
KILLED, KILLED_LEASE = "kill -9 to running again, s", "the same with a lease, s"
RUNS = "blocks beyond its lease, times begun"
TERM, FINISHED, REQUEUED = "TERM to gone, s", "TERM: finished of 2", "TERM: begun again of 2"
COLUMNS = {
    "CPU of a no-op, µs: worker / broker": (CPU, BROKER),
    "no-ops a second": (RATE,),
    "light beside heavy, ms: p50 / p95": (LIGHT_P50, LIGHT_P95),
    f"kill -9 to running again, s: default / lease {LEASE_S:g} s": (KILLED, KILLED_LEASE),
    f"blocks {BLOCK_S:g} s with lease {LEASE_S:g} s: times begun": (RUNS,),
    "TERM, two tasks of 3 s: gone after s / finished / begun again": (TERM, FINISHED, REQUEUED),
    "memory of the host, MB: alone / beside the others": (PSS, PSS_BESIDE),
    "idle: asked a second / CPU %": (IDLE_ASKED, IDLE_CPU),
}


def at_work(host: Hosted) -> dict[str, float]:
    """One contender alone on the machine."""
    return noops(host) | {PSS: host.pss_mb()} | beside(host, 8.0)


def at_rest(host: Hosted) -> dict[str, float]:
    """Beside the others, which mostly wait; its own defaults."""
    return idle(host) | {KILLED: killed(host, KILLED_S)} | terminated(host)


def leased(host: Hosted) -> dict[str, float]:
    """Beside the others, which mostly wait; a short lease."""
    return {KILLED_LEASE: killed(host, LEASED_S)} | blocked(host)


def noops(host: Hosted) -> dict[str, float]:
    """CPU of a backlog of no-ops, sent while the host is stopped, from the first tenth on."""
    count = host.contender.noops
    with host.frozen():
        numbers = host.send("noop", count)

    def ended() -> int:
        return sum(bool(host.ended.get(number)) for number in numbers)

    host.must_come(lambda: ended() >= count // 10, "the first no-ops")
    before, cpu_s, broker_s, begun_at = ended(), host.cpu_s(), host.broker.cpu_s(), time.monotonic()
    host.must_come(lambda: ended() == count, f"{count} no-ops", 120.0)
    done, took_s = count - before, max(host.ended[number][0][0] for number in numbers) - begun_at
    return {
        CPU: (host.cpu_s() - cpu_s) / done * 1e6,
        BROKER: (host.broker.cpu_s() - broker_s) / done * 1e6,
        RATE: done / took_s,
    }


def beside(host: Hosted, seconds: float) -> dict[str, float]:
    """Light tasks at a steady rate beside a heavy one at a time: from sending to the end of the handler."""
    lights: list[int] = []
    heavies: list[int] = []
    begun_at = time.monotonic()
    while len(lights) < seconds * LIGHT_PER_S:
        due_at = begun_at + len(lights) / LIGHT_PER_S
        host.comes(lambda due_at=due_at: time.monotonic() >= due_at, 5.0)
        if not heavies or host.ended[heavies[-1]]:
            heavies += host.send("heavy", 1, HEAVY_S)
        lights += host.send("wait", 1, LIGHT_S)
    host.comes(lambda: all(host.ended[number] for number in lights), DRAIN_S)
    sent = {number: host.sent[number][0][0] for number in lights}
    took_s = [host.ended[number][0][0] - sent[number] if host.ended[number] else DRAIN_S for number in lights]
    return {LIGHT_P50: statistics.median(took_s) * 1e3, LIGHT_P95: quantile(took_s, 0.95) * 1e3}


def idle(host: Hosted) -> dict[str, float]:
    """What a host without work costs, a few seconds after its last task."""
    host.comes(lambda: False, SETTLE_S)
    asked, cpu_s, begun_at = host.broker.asked(), host.cpu_s(), time.monotonic()
    host.comes(lambda: False, IDLE_S)
    took_s = time.monotonic() - begun_at
    cpu_s = host.cpu_s() - cpu_s
    return {IDLE_ASKED: (host.broker.asked() - asked) / took_s, IDLE_CPU: cpu_s / took_s * 100}


def meanwhile(host: Hosted, what: Callable[[], object], within_s: float) -> bool:
    """Waits until it is true; two light tasks arrive a second, since some look after lost ones only then."""
    give_up_at = time.monotonic() + within_s
    while time.monotonic() < give_up_at:
        if host.comes(what, 0.5):
            return True
        host.send("wait", 1, LIGHT_S)
    return False


def killed(host: Hosted, within_s: float) -> float:
    """Seconds from SIGKILL of the process at work until its task is begun again."""
    [number] = host.send("wait", 1, 4.0)
    host.must_come(lambda: host.begun[number], "the task")
    killed_at = time.monotonic()
    os.kill(host.begun[number][0][1], signal.SIGKILL)
    if not meanwhile(host, lambda: len(host.begun[number]) > 1, within_s):
        return within_s
    return host.begun[number][1][0] - killed_at


def terminated(host: Hosted) -> dict[str, float]:
    """SIGTERM with two tasks of 3 s at work; those not finished must be begun again by a new host."""
    numbers = host.send("wait", 2, 3.0)
    host.must_come(lambda: all(host.begun[number] for number in numbers), "two tasks")
    took_s = host.terminate(TERM_S)
    host.look()
    rest = [number for number in numbers if not host.ended[number]]
    finished = len(numbers) - len(rest)
    if rest:
        host.start()
        host.ready()
        meanwhile(host, lambda: all(len(host.begun[number]) > 1 for number in rest), AGAIN_S)
    again = sum(len(host.begun[number]) > 1 for number in rest)
    return {TERM: took_s, FINISHED: finished, REQUEUED: again}


def blocked(host: Hosted) -> dict[str, float]:
    """How often a handler begins that blocks its thread, or its event loop, for longer than its lease."""
    [number] = host.send("block", 1, BLOCK_S)
    assert meanwhile(host, lambda: host.ended[number], BLOCK_S * 4), (
        f"what blocks never ends: {host.last_words()}"
    )
    host.comes(lambda: False, LEASE_S + 1)
    return {RUNS: len(host.begun[number])}
