"""The document of `flowherd advise`, computed from the ledger's measurements."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from flowherd.free_threading import is_gil_enabled
from flowherd.ledger import Cell, Clock, Ledger, Life
from flowherd.ledger.activity_cost_table import STEP_BUCKETS, Load, Metric, Where
from flowherd.ledger.histogram import BUCKETS, quantile_s, upper_s
from flowherd_supervisor.advise import capacity
from flowherd_supervisor.advise.measurements import Measured, Place, Steps, median_s
from flowherd_supervisor.advise.placement import Advice, Criterion, Surroundings, advise

if TYPE_CHECKING:
    from flowherd.ledger.activity_cost_table import Work
    from flowherd.link.messages import SupervisorState

_PLACES = {Where.LOOP: Place.ASYNC, Where.THREAD: Place.THREAD, Where.PROCESS: Place.PROCESS}
_LENGTHS_S = tuple(
    0.75 * upper_s(bucket) if bucket < BUCKETS - 1 else 1.5 * upper_s(bucket - 1) for bucket in range(BUCKETS)
)


class Adviser:
    """Computes advice from the ledger's measurements.

    Args:
        ledger: the ledger, which is only read.
        cpus: number of usable CPUs.

    """

    def __init__(self, ledger: Ledger, cpus: int) -> None:
        self._ledger = ledger
        self._cpus = cpus

    def document(self, supervisor: SupervisorState | None) -> dict[str, Any]:
        """Returns the document of `flowherd advise --json`, whose keys are a public interface.

        Args:
            supervisor: its last state, with the wanted processes and slots; None before the first.

        """
        work = self._ledger.work()
        moved = supervisor.moved if supervisor else {}
        hosted = self._hosted() - {(name, Where.LOOP) for name in moved}
        advice = judged(work, hosted)
        load = host_load(
            work,
            advice,
            processes=supervisor.wanted if supervisor else 0,
            slots=supervisor.total_slots if supervisor else 0,
            cpus=self._cpus,
        )
        rows = [{**_activity(found), "moved": found.measured.name in moved} for found in advice]
        return {"activities": rows, "host": _host(load, supervisor)}

    def _hosted(self) -> set[tuple[str, Where]]:
        """Returns the activities of the live processes with their places; without any, those of the newest process."""
        segments = [
            segment for segment in self._ledger.segments if segment.readable and segment.get(Cell.STARTED)
        ]
        living = [segment for segment in segments if segment.life is Life.LIVE]
        last = sorted(segments, key=lambda segment: segment.clock(Clock.STARTED_AT))[-1:]
        return {key for segment in living or last for key in segment.work.read().entries}


def judged(work: Work, hosted: set[tuple[str, Where]]) -> list[Advice]:
    """Returns the advice about each hosted activity, from the measurements at its current place.

    Args:
        work: measurements of all incarnations.
        hosted: the activities served now with their places; an activity that was moved starts afresh.

    """
    entries = {key: figures for key, figures in work.entries.items() if key in hosted}
    steps = {key: _steps(figures) for key, figures in entries.items()}
    late = work.load[Load.LATE : Load.LATE + BUCKETS]
    lag_s = quantile_s(late, 0.95) if any(late) else 0.0
    return [
        advise(
            _measured(*key, figures),
            Surroundings(
                active_s=work.load[Load.ACTIVE_S],
                lag_s_p95=_LENGTHS_S[-1] if lag_s is None else lag_s,
                others=tuple(other for its, other in steps.items() if its != key),
            ),
        )
        for key, figures in sorted(entries.items())
    ]


def host_load(
    work: Work, advice: list[Advice], *, processes: int, slots: int, cpus: int
) -> capacity.HostLoad:
    """Computes how busy the host's processes were while they had work."""
    load = work.load
    active_s = load[Load.ACTIVE_S]
    off_the_loop_s = sum(
        found.measured.cpu_ms / 1e3 * found.measured.attempts
        for found in advice
        if found.measured.place is not Place.ASYNC
    )
    moved_s = sum(found.measured.kept_s for found in advice if found.is_change)
    return capacity.HostLoad(
        processes=processes,
        slots=slots,
        cpus=cpus,
        active_s=active_s,
        loop_busy=_share(load[Load.BUSY_S], active_s),
        movable=_share(moved_s, active_s),
        cpu=_share(load[Load.CPU_S] + off_the_loop_s, active_s),
        full=_share(load[Load.FULL_S], active_s),
    )


def summary(document: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of the document that `status --json` contains."""
    keys = ("activity", "runs", "verdict", "change", "reason")
    return {
        "activities": [{key: row[key] for key in keys} for row in document["activities"]],
        "host": {key: document["host"][key] for key in ("processes", "slots")},
    }


def _measured(name: str, where: Where, figures: tuple[float, ...]) -> Measured:
    alone = figures[Metric.ALONE]
    return Measured(
        name=name,
        place=_PLACES[where],
        attempts=int(figures[Metric.ATTEMPTS]),
        samples=int(figures[Metric.SAMPLES]),
        cpu_s=figures[Metric.CPU_S],
        wall_s=figures[Metric.WALL_S],
        wait_s=figures[Metric.WAIT_S],
        cpu_s_p50=median_s(figures[Metric.STEP_CPU : Metric.STEP_CPU + STEP_BUCKETS], 1e-6),
        kept_s=figures[Metric.KEPT_S],
        longest_block_s=figures[Metric.LONGEST_BLOCK_S],
        steps=_steps(figures),
        probes=int(figures[Metric.PROBES]),
        released=int(figures[Metric.RELEASED]),
        longest_hold_s=figures[Metric.LONGEST_HOLD_S],
        growth_bytes=figures[Metric.GROWTH_BYTES] / alone if alone else None,
    )


def _steps(figures: tuple[float, ...]) -> Steps:
    return Steps(figures[Metric.LONG_STEPS : Metric.LONG_STEPS + BUCKETS], _LENGTHS_S)


def _activity(found: Advice) -> dict[str, Any]:
    its = found.measured
    samples = max(its.samples, 1)
    return {
        "activity": its.name,
        "runs": its.place.value,
        "attempts": its.attempts,
        "samples": its.samples,
        "cpu_ms_p50": round(1e3 * its.cpu_s_p50, 3),
        "cpu_share": round(its.cpu_share, 3),
        "wall_ms": round(its.wall_ms, 3),
        "wait_ms": round(1e3 * its.wait_s / samples, 3),
        "block_ms_max": round(1e3 * its.longest_block_s, 2),
        "gil_released_share": None if its.released_share is None else round(its.released_share, 3),
        "memory_growth_kb": None if its.growth_bytes is None else round(its.growth_bytes / 1e3, 1),
        "verdict": found.verdict.value,
        "change": found.is_change,
        "reason": found.reason,
        "criteria": {
            "cpu_bound": _criterion(found.cpu_bound),
            "loop_is_bottleneck": _criterion(found.bottleneck),
            "gain": {
                "metric": "p95 of other activities",
                "now": round(found.gain.now_ms, 2),
                "estimated": round(found.gain.estimated_ms, 2),
                "cost": found.gain.cost,
            },
        },
    }


def _criterion(criterion: Criterion) -> dict[str, Any]:
    return {
        "metric": criterion.metric,
        "value": round(criterion.value, 3),
        "threshold": criterion.threshold,
        "met": criterion.is_met,
    }


def _host(load: capacity.HostLoad, supervisor: SupervisorState | None) -> dict[str, Any]:
    processes = capacity.processes(load)
    workers = processes.advised or load.processes
    now = "threads" if supervisor and supervisor.threads else "processes"
    return {
        "cpus": load.cpus,
        "active_s": round(load.active_s, 1),
        "loop_busy_share": round(load.loop_busy, 3),
        "slots_full_share": round(load.full, 3),
        "processes": asdict(processes),
        "slots": asdict(capacity.slots(load)),
        "parallel": asdict(capacity.parallel(now, workers, takes_turns=is_gil_enabled())),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
