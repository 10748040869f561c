"""The line about each activity that has ended: what, why, for how long, and what comes next."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from attempts_kit import Table, an_activity
from structlog.testing import capture_logs
from virtual_time import now, virtual_time

from flowherd import ActivityError, Registry, activity
from flowherd.activities_and_outcomes import Failed, Raised
from flowherd.attempt_ids import AttemptIds
from flowherd.client.engine_protocol import Batch, Undecodable
from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.run_environment import RunEnvironment
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import WORKFLOW_ID, make_activity
from flowherd.worker.activity_log import AGAIN_AFTER_S, MOST_DISTINCT, ActivityLog, Times
from flowherd.worker.run_without_engine import WithoutEngine

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACES = ("loop", "thread")
IDS = {
    "name": "work",
    "seen": 1,
    "workflow_id": "00000000-0000-0000-0000-000000000001",
    "activity_id": "00000000-0000-0000-0000-000000000001",
    "activity_key": "step",
}


async def lines_of(
    handler: Any,
    *,
    offload: str = "loop",
    settings: Mapping[str, Any] | None = None,
    name: str = "work",
    **config: Any,
) -> list[dict[str, Any]]:
    """All that is logged about one activity."""
    registry = Registry.of([activity(name="work", offload=None if offload == "loop" else offload)(handler)])
    own = WorkerConfig(worker_id="t", **{"cancel_grace_s": 60.0, **config})
    worker = WithoutEngine(registry, own, ThreadPool(1), RunEnvironment())
    with capture_logs() as lines:
        attempt = worker.start(make_activity(name, key="step", settings=settings or {}))
        await asyncio.wait_for(worker.outcome(attempt), 10)
        await asyncio.wait_for(worker.ended(attempt), 10)
    return lines  # type: ignore[return-value]


async def returns() -> int:
    return 1


async def raises() -> None:
    raise ValueError("no such order")


@pytest.mark.parametrize("offload", PLACES)
async def test_a_completed_activity_is_a_line_at_info_with_its_times(
    offload: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    [line] = await lines_of(returns, offload=offload, log_activities=True)
    took_s, waited_s = line.pop("took_s"), line.pop("waited_s")
    assert 0 <= took_s < 10
    assert 0 <= waited_s < 10
    assert line == {"event": "activity_completed", "log_level": "info", **IDS}


async def test_a_completed_activity_is_a_line_at_debug_unless_it_is_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A host of many small activities would fill its log."""
    caplog.set_level(logging.INFO)
    assert await lines_of(returns) == []
    caplog.set_level(logging.DEBUG)
    [line] = await lines_of(returns)
    assert (line["event"], line["log_level"]) == ("activity_completed", "debug")


@pytest.mark.parametrize("offload", PLACES)
async def test_what_a_handler_raises_is_one_warning_with_all_that_is_known(offload: str) -> None:
    [line] = await lines_of(raises, offload=offload)
    at, traceback = line.pop("at"), line.pop("exception")
    assert at.endswith("in raises")
    assert "test_activity_log.py" in at
    assert traceback.endswith("ValueError: no such order")
    assert line.pop("took_s") >= 0
    assert line.pop("waited_s") >= 0
    assert line == {
        "event": "activity_failed",
        "log_level": "warning",
        "type": "ValueError",
        "code": "EXECUTION_ERROR",
        "reason": "no such order",
        "retryable": True,
        "retry_in_s": 2.0,
        **IDS,
    }


async def test_a_refusal_for_good_is_an_error() -> None:
    """Nothing will mend it but an operator."""

    async def refuses() -> None:
        raise ActivityError("card declined", code="CARD_DECLINED", retryable=False)

    [line] = await lines_of(refuses)
    assert (line["event"], line["log_level"]) == ("activity_failed", "error")
    assert (line["type"], line["code"], line["reason"]) == ("ActivityError", "CARD_DECLINED", "card declined")
    assert line["retryable"] is False
    assert "retry_in_s" not in line


async def test_an_exit_reads_as_what_it_is() -> None:
    def leaves() -> None:
        raise SystemExit(3)

    [line] = await lines_of(leaves)
    assert (line["type"], line["reason"]) == ("SystemExit", "SystemExit: 3")


@pytest.mark.parametrize("offload", PLACES)
async def test_a_handler_past_its_limit_is_named_with_the_line_where_it_stood(offload: str) -> None:
    async def waits() -> None:
        await asyncio.Event().wait()

    [line] = await lines_of(waits, offload=offload, activity_timeout_s=0.05)
    assert (line["event"], line["log_level"], line["code"]) == ("activity_failed", "warning", "TIMEOUT")
    assert line["reason"] == "the handler took longer than its limit of 0.05 s"
    assert line["at"].endswith("in waits")
    assert line["took_s"] >= 0.05
    assert "type" not in line


async def test_an_unknown_activity_is_a_warning_with_the_nearest_names() -> None:
    """A typo in the definition, or an old version of the app."""
    [line] = await lines_of(returns, name="wokr")
    assert (line["event"], line["log_level"], line["code"]) == (
        "activity_failed",
        "warning",
        "UNKNOWN_ACTIVITY",
    )
    assert line["reason"] == "the activity is named 'wokr', did you mean 'work'? This worker knows: work"
    assert line["name"] == "wokr"


@pytest.mark.parametrize(
    ("settings", "level", "fields"),
    [
        ({}, "warning", {"retryable": True, "retry_in_s": 2.0}),
        ({"retry": {}}, "error", {"retryable": False, "attempts_left": 0}),
        ({"retry": {"max_attempts": 1}}, "error", {"retryable": False, "attempts_left": 0}),
        ({"retry": {"max_attempts": 3}}, "warning", {"retryable": True, "retry_in_s": 2.0}),
        (
            {"retry": {"max_attempts": 3, "strategy": "fixed", "base_seconds": 7}},
            "warning",
            {"retryable": True, "retry_in_s": 7.0},
        ),
        ({"retry": {"max_attempts": "many"}}, "error", {"retryable": False, "attempts_left": 0}),
    ],
)
async def test_the_level_and_the_next_try_are_what_the_settings_say(
    settings: dict[str, Any], level: str, fields: dict[str, Any]
) -> None:
    """A retry block allows one attempt unless it says more (protocol.md §3.1)."""
    [line] = await lines_of(raises, settings=settings)
    names = ("retryable", "retry_in_s", "attempts_left")
    assert line["log_level"] == level
    assert {name: line[name] for name in names if name in line} == fields


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def failure(distinct: str, message: str = "boom") -> Failed:
    raised = Raised("ValueError", message, f"  File x\nValueError: {message}", distinct)
    return Failed("EXECUTION_ERROR", message, retryable=True, raised=raised)


def said(log: ActivityLog, *failures: Failed, name: str = "work") -> list[dict[str, Any]]:
    with capture_logs() as lines:
        for number, one in enumerate(failures):
            log.failed(AttemptIds(f"a-{number}", "wf", "step", name), one, {}, Times(0.0, 0.1))
    return lines  # type: ignore[return-value]


def test_a_traceback_comes_once_for_each_distinct_failure_and_then_is_counted() -> None:
    """Ten thousand failures of one cause must not bury the other cause."""
    clock = Clock()
    log = ActivityLog(log_completed=False, clock=clock)
    lines = said(log, failure("a", "1"), failure("a", "2"), failure("b"), failure("a", "3"))
    assert [line.get("traceback") for line in lines] == [
        None,
        "same as the one above",
        None,
        "same as the one above, 2 times",
    ]
    assert ["exception" in line for line in lines] == [True, False, True, False]
    assert [line["reason"] for line in lines] == ["1", "2", "boom", "3"]
    [of_another] = said(log, failure("a"), name="other")
    assert "exception" in of_another
    clock.now += AGAIN_AFTER_S
    [again] = said(log, failure("a"))
    assert "exception" in again


def test_distinct_failures_take_bounded_memory() -> None:
    log = ActivityLog(log_completed=False, clock=Clock())
    said(log, *(failure(f"f-{number}") for number in range(MOST_DISTINCT + 1)))
    first, last = said(log, failure("f-0"), failure(f"f-{MOST_DISTINCT}"))
    assert "exception" in first
    assert last["traceback"] == "same as the one above"


@virtual_time
async def test_the_number_of_times_this_host_has_seen_an_activity_is_in_each_line() -> None:
    """The engine tells no attempt number; a retry may come to another process of the host."""
    tables = [Table(), Table()]
    tables[1].attempts._records._seen = tables[0].attempts._records._seen  # as the rows of one ledger
    with capture_logs() as lines:
        for number in range(3):
            table = tables[number % 2]
            table.bring(an_activity("a-1", "fail"), poll=f"p-{number}")
            table.handlers.end("a-1")
            await table.rest()
            await asyncio.sleep(1.0)
    failed = [line for line in lines if line["event"] == "activity_failed"]
    assert [line["seen"] for line in failed] == [1, 2, 3]
    assert [line["retry_in_s"] for line in failed] == [2.0, 4.0, 8.0]


@virtual_time
async def test_a_lost_lease_and_a_repeated_claim_are_attempts_that_were_seen() -> None:
    """Each costs one of the engine's attempts."""
    table = Table()
    with capture_logs() as lines:
        table.bring(an_activity("a-1", "fail"))
        await table.rest()
        table.bring(an_activity("a-1", "fail"))
        await table.rest()
        table.lose("a-1")
        await table.rest()
        table.bring(an_activity("a-1", "fail"))
        table.handlers.end("a-1")
        await table.rest()
    [again] = [line for line in lines if line["event"] == "activity_claimed_again"]
    [failed] = [line for line in lines if line["event"] == "activity_failed"]
    assert (again["seen"], again["name"], again["workflow_id"]) == (2, "fail", WORKFLOW_ID)
    assert failed["seen"] == 3


@virtual_time
async def test_what_cannot_be_run_at_all_is_a_failure_like_any_other() -> None:
    """With as much of its names as could be read."""
    table = Table()
    reserved = table.attempts.reserve(1)
    bad = Undecodable("bad-1", "t-1", "activity_name is not a string", workflow_id="wf-9", key="step")
    with capture_logs() as lines:
        table.attempts.polled(reserved, Batch([], [bad]), asked_at=now())
        await table.rest()
    [line] = lines
    assert (line["event"], line["log_level"], line["code"]) == (
        "activity_failed",
        "error",
        "INVALID_ACTIVITY",
    )
    assert (line["activity_id"], line["workflow_id"], line["activity_key"]) == ("bad-1", "wf-9", "step")


def test_a_line_that_is_switched_off_is_not_made(caplog: pytest.LogCaptureFixture) -> None:
    """The hot path asks one attribute."""
    caplog.set_level(logging.INFO)
    assert not ActivityLog(log_completed=False, clock=Clock()).says_completed
    assert ActivityLog(log_completed=True, clock=Clock()).says_completed
    caplog.set_level(logging.WARNING)
    assert not ActivityLog(log_completed=True, clock=Clock()).says_completed
