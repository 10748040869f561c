"""A21: activities that stop the event loop or cancel its tasks cost neither the process nor what runs beside them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from harness import Engine, Host, running_host

from flowherd.free_threading import OVERRIDE

if TYPE_CHECKING:
    from pathlib import Path

APP = "interfering_app:registry"
RETRY = {"retry": {"max_attempts": 10, "initial_delay_seconds": 0}}
StartHost = Callable[..., Host]


def begin_neighbours(engine: Engine) -> None:
    engine.submit("neighbour", 8, settings=RETRY, seconds=1.5)
    engine.wait_for("claim", 8)


def assert_undisturbed(host: Host, before: dict[int, int]) -> None:
    assert host.children() == before
    assert not host.log("process_died")
    assert not host.log("internal_error")
    host.signal(signal.SIGTERM)
    assert host.wait() == 0


@pytest.mark.parametrize(("loop", "where"), [("uvloop", "handler"), ("asyncio", "callback")])
def test_a21_a_stopped_loop_costs_nothing(engine: Engine, run_host: StartHost, loop: str, where: str) -> None:
    """The process goes on, and each of the eight neighbours ends once."""
    host = run_host(APP, "--loop", loop, "-c", "16", processes=1, url=engine.url)
    begin_neighbours(engine)
    before = host.children()
    engine.submit("stop_the_loop", 1, settings=RETRY, where=where)
    engine.wait_for("complete", 9)
    assert set(engine.claims_per_activity().values()) == {1}
    [line] = host.log("loop_stop_ignored")
    if where == "handler":
        assert line["name"] == "stop_the_loop"
        assert line["at"].endswith(" _do")
    assert_undisturbed(host, before)


@pytest.mark.parametrize(("loop", "where"), [("uvloop", "handler"), ("asyncio", "callback")])
def test_a22_when_all_tasks_are_cancelled_ours_go_on_and_neighbours_run_again(
    engine: Engine, run_host: StartHost, loop: str, where: str
) -> None:
    """An attempt is the only price, in the same process."""
    host = run_host(APP, "--loop", loop, "-c", "16", processes=1, url=engine.url)
    begin_neighbours(engine)
    before = host.children()
    engine.submit("cancel_all", 1, settings=RETRY, where=where)
    engine.wait_for("fail", 8, within_s=3.0)
    engine.wait_for("complete", 9)
    assert sorted(engine.claims_per_activity().values()) == [1, *[2] * 8]
    [line] = host.log("cancel_ignored")
    failed = host.log("activity_failed")
    assert [one["code"] for one in failed] == ["TASK_CANCELLED"] * 8
    if where == "handler":
        assert line["name"] == "cancel_all"
        assert all("by code of cancel_all (" in one["reason"] for one in failed)
    assert_undisturbed(host, before)


def test_a21_a22_workers_that_are_threads_go_on_too(engine: Engine, tmp_path: Path) -> None:
    """Each has a loop of its own."""
    words = ("--parallel", "threads", "-p", "2", "-c", "32")
    with running_host(tmp_path, APP, *words, url=engine.url, env={OVERRIDE: "1"}) as host:
        host.ready(1)
        begin_neighbours(engine)
        before = host.children()
        engine.submit("stop_the_loop", 1, settings=RETRY, where="handler")
        engine.wait_for("complete", 1)
        engine.submit("cancel_all", 1, settings=RETRY, where="thread")
        engine.wait_for("complete", 10)
        assert len(host.log("loop_stop_ignored")) == 1
        assert len(host.log("cancel_ignored")) == 1
        assert_undisturbed(host, before)


def test_a23_a_handler_that_never_stops_cancelling_goes_on_alone(engine: Engine, run_host: StartHost) -> None:
    """Its process is replaced, which blames it alone: it was on the loop."""
    host = run_host(APP, "-c", "16", processes=1, url=engine.url)
    engine.submit("cancel_all", 1, settings=RETRY, where="handler", times=10)
    engine.wait_for("complete", 1)
    assert len(host.log("cancel_ignored")) == 5
    [line] = host.log("cancels_do_not_stop")
    assert line["name"] == "cancel_all"
    assert len(host.log("process_died")) == 1
    [apart] = host.log("suspect_runs_in_isolate")
    assert apart["name"] == "cancel_all"
    host.signal(signal.SIGTERM)
    assert host.wait() == 0
