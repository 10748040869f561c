"""N15: leftovers of an activity in its isolate never affect the next one, and its slot is soon free."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from isolate_kit import CEILING_S, running_forker, workplace
from leftovers_app import LEFTOVERS

from flowherd.activities_and_outcomes import Completed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from isolate_kit import Fork, Workplace

pytestmark = [pytest.mark.fork, pytest.mark.timeout(60)]

APP = "leftovers_app:registry"
FLOODS = {"thread_that_prints", "executor_that_prints", "program_that_prints"}
ENDS = FLOODS | {
    "thread_that_prints_now_and_then",
    "thread_that_computes",
    "program_that_prints_now_and_then",
    "program_in_the_background",
    "many_programs_in_the_background",
    "event_loop_closed",
    "unlisted_thread_that_prints",
}


@pytest.fixture(scope="module")
def forker() -> Iterator[Fork]:
    """One for all tests of this file: it costs half a second."""
    with running_forker(APP) as made:
        yield made


async def output(place: Workplace, name: str, parameters: Any = None) -> dict[str, Any]:
    outcome = await place.outcome(name, parameters)
    assert isinstance(outcome, Completed), outcome
    return json.loads(outcome.output)


def strikes_later(parameters: Any) -> bool:
    return any(word in str(parameters) for word in ("alarm", "watchdog", "background", "unlisted"))


async def left_and_found(
    place: Workplace, name: str, parameters: Any, caplog: pytest.LogCaptureFixture
) -> tuple[float, int]:
    """Runs it between two looks that must be equal; returns the time its slot was held and its isolate's pid."""
    before = await output(place, "look", {"seconds": 0.0})
    caplog.clear()
    pid = (await output(place, name, parameters))["pid"]
    assert pid == before["pid"], "it is used again where nothing is left"
    loop, seconds = asyncio.get_running_loop(), 0.25 if strikes_later(parameters) else 0.0
    since, run = loop.time(), place.start("look", {"seconds": seconds})
    await place.until(lambda: run.phase.value != "waiting")
    held_s = loop.time() - since
    outcome = await asyncio.wait_for(run.outcome(), CEILING_S)
    assert isinstance(outcome, Completed), outcome
    after = json.loads(outcome.output)
    assert {**after, "pid": 0} == {**before, "pid": 0}
    about = run.activity.activity_id
    lines = lambda: [r.line for r in caplog.records if getattr(r, "activity_id", "") == about]  # noqa: E731
    await place.until(lambda: len(lines()) >= 2)
    assert sorted(lines()) == ["printed", "warned"]
    return held_s, pid


@pytest.mark.parametrize("kind", LEFTOVERS)
async def test_what_an_activity_leaves_behind_never_meets_the_next_one(
    forker: Fork, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """N15: it is restored, or its isolate is replaced."""
    caplog.set_level("INFO")
    async with workplace(forker, app=APP, concurrency=1) as place:
        held_s, pid = await left_and_found(place, "leave", {"kind": kind}, caplog)
        assert held_s < 1 + 3, "a second, and what a busy machine takes to fork"
        if kind in ENDS:
            key = next(key for key, found in place.pids.items() if found == pid)
            await place.until(lambda: key in place.statuses)


async def test_a_task_that_prints_for_ever_ends_with_its_isolate(
    forker: Fork, caplog: pytest.LogCaptureFixture
) -> None:
    """N15."""
    caplog.set_level("INFO")
    async with workplace(forker, app=APP, concurrency=1) as place:
        held_s, _ = await left_and_found(place, "leave_a_task", None, caplog)
        assert held_s < 1 + 3


async def test_threads_that_rest_cost_no_isolate(forker: Fork) -> None:
    """Pools and monitors of libraries stay where they were begun: a new one each time would cost a start-up."""
    async with workplace(forker, app=APP, concurrency=1) as place:
        pids = {(await output(place, "use_threads"))["pid"] for _ in range(3)}
        assert len(pids) == 1


async def test_a_limit_that_an_activity_sets_does_not_strike_its_own_output(forker: Fork) -> None:
    """The output crosses a file, and no limit on files is about that one."""
    async with workplace(forker, app=APP, concurrency=1) as place:
        assert len((await output(place, "write_with_a_limit", {"size": 100_000}))["text"]) == 100_000
