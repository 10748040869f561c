"""A running host's /metrics through work and a crash."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

import httpx
from harness import eventually, running_host
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Engine, Host


def value(host: Host, name: str, **labels: str) -> float:
    """The sum of the samples that match."""
    families = text_string_to_metric_families(host.get("/metrics").text)
    samples = [sample for family in families for sample in family.samples if sample.name == name]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def test_work_is_counted_and_a_killed_process_is_named_with_its_cause(engine: Engine, tmp_path: Path) -> None:
    """A `kill -9` is visible in metrics with the cause; counters go on across it."""
    engine.submit("hello", 6, name="Ada")
    with running_host(tmp_path, "sample_app:registry", "-p", "2", url=engine.url) as host:
        host.ready(2)
        engine.wait_for("complete", 6)
        eventually(
            lambda: value(host, "flowherd_activities_total", outcome="completed") == 6, "6 in /metrics"
        )
        assert value(host, "flowherd_activity_run_seconds_count") == 6
        assert value(host, "flowherd_report_seconds_count") == 6
        assert value(host, "flowherd_poll_seconds_count") >= 1
        assert value(host, "flowherd_ready") == 1
        assert value(host, "flowherd_process_resident_memory_bytes", process="1") > 1e6
        os.kill(host.children()[1], signal.SIGKILL)
        eventually(
            lambda: value(host, "flowherd_process_restarts_total", process="1", cause="signal") == 1,
            "the restart and its cause",
            within_s=5.0,
        )
        assert value(host, "flowherd_activities_total", outcome="completed") == 6


def counters(host: Host) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Returns all counters and histograms of the page, from the current keeper."""
    page = eventually(lambda: _page(host), "a page")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        if family.type in {"counter", "histogram"} and family.name != "flowherd_process_cpu_seconds"
        for sample in family.samples
    }


def _page(host: Host) -> str:
    with contextlib.suppress(httpx.HTTPError):
        return host.get("/metrics").text
    return ""


def test_no_counter_falls_while_processes_and_the_keeper_are_killed(engine: Engine, tmp_path: Path) -> None:
    """A decreasing counter looks like a reset; sums survive their processes and their keeper."""
    with running_host(tmp_path, "sample_app:registry", "-p", "2", url=engine.url) as host:
        host.ready(2)
        before: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for number in range(3):
            engine.submit("hello", 6, name="Ada")
            engine.wait_for("complete", 6 * (number + 1))
            eventually(lambda wanted=6 * (number + 1): completed(host) == wanted, "all of them in /metrics")
            keeper, victims = host.keeper(), host.children()
            os.kill(victims[number % 2], signal.SIGKILL)
            if number:
                os.kill(keeper, signal.SIGKILL)
                eventually(lambda keeper=keeper: host.keeper() not in {0, keeper}, "another keeper")
            host.wait_for_log("process_ready", 4 + 2 * number)
            now = counters(host)
            assert {name: now[name] for name in before if now[name] < before[name]} == {}
            before = now
        assert completed(host) == 18


def completed(host: Host) -> float:
    """Activities done by all processes."""
    return sum(
        count
        for (name, labels), count in counters(host).items()
        if name == "flowherd_activities_total" and ("outcome", "completed") in labels
    )
