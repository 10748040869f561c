"""The traceback of a failure as the log shows it: from the user's frame on, with its root cause, and short."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flowherd import Registry, activity
from flowherd.execution.invoke import invoke_async, invoke_sync
from flowherd.execution.run_environment import RunEnvironment
from flowherd.sdk.error_texts import MAX_TRACE_CHARS, trace_of
from flowherd.sdk.run_state import RunState
from flowherd.testing import make_activity

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.activities_and_outcomes import Failed

HERE = Path(__file__).name


def caught(call: Callable[[], Any]) -> BaseException:
    """What a call raises."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - SystemExit too
        return error
    raise AssertionError("it raised nothing")


def failure_of(handler: Any) -> Failed:
    """The failure of a handler, called as a worker calls it."""
    (definition,) = Registry.of([handler])
    state = RunState(make_activity(definition.name), RunEnvironment())
    if definition.is_async:
        outcome: Any = asyncio.run(invoke_async(definition, state))
    else:
        outcome = invoke_sync(definition, state)
    return outcome  # type: ignore[no-any-return]


def _down(depth: int) -> None:
    if depth:
        _down(depth - 1)
    raise ValueError("deep")


@pytest.mark.parametrize("kind", ["async", "def"])
def test_a_traceback_begins_at_the_handler(kind: str) -> None:
    """Frames of flowherd, asyncio and the SDK do not help the author of a handler."""

    @activity(name="a")
    async def on_loop() -> None:
        raise KeyError("x")

    @activity(name="b")
    def plain() -> None:
        raise KeyError("x")

    failure = failure_of(on_loop if kind == "async" else plain)
    assert failure.raised is not None
    first = failure.raised.report.splitlines()[0]
    assert HERE in first
    assert first.endswith(("in on_loop", "in plain"))
    assert failure.raised.report.splitlines()[-1] == "KeyError: 'x'"
    assert "invoke.py" not in failure.raised.report


def test_a_failure_says_the_line_of_the_users_where_it_was_raised() -> None:
    """Also where a library has raised it: `json` is none of the user's."""

    @activity(name="a")
    def work() -> None:
        import json

        json.loads("{")

    failure = failure_of(work)
    file, _, rest = failure.at.rpartition(":")
    assert Path(file).name == HERE
    assert rest.endswith(" in work")
    assert "decoder.py" in failure.raised.report  # type: ignore[union-attr]


def test_a_failure_without_a_line_of_the_users_names_none() -> None:
    """Parameters that do not fit are refused before the handler is called."""

    @activity(name="a")
    def work(n: int) -> int:
        return n

    failure = failure_of(work)
    assert (failure.code, failure.at) == ("INVALID_PARAMETERS", "")


def test_a_long_traceback_is_trimmed_in_its_middle() -> None:
    """The frame it begins with and the frame that raised say more than the hundreds between."""
    trace = trace_of(caught(lambda: _down(500)))
    lines = trace.text.splitlines()
    assert len(trace.text) <= MAX_TRACE_CHARS
    assert "in <lambda>" in trace.text
    assert any("frames left out" in line for line in lines)
    assert lines[-1] == "ValueError: deep"
    assert lines[-2].strip() == 'raise ValueError("deep")'


def test_the_root_cause_is_kept_whatever_is_left_out() -> None:
    """It is what has to be mended."""

    def cause() -> None:
        try:
            _down(200)
        except ValueError as error:
            raise RuntimeError("second " + "y" * 1000) from error

    def again() -> None:
        try:
            cause()
        except RuntimeError as error:
            raise LookupError("third " + "z" * 1000) from error

    def last() -> None:
        try:
            again()
        except LookupError as error:
            raise OSError("fourth") from error

    trace = trace_of(caught(last))
    assert len(trace.text) <= MAX_TRACE_CHARS
    assert "ValueError: deep" in trace.text
    assert trace.text.index("ValueError: deep") < trace.text.index("RuntimeError: second")
    assert trace.text.index("LookupError: third") < trace.text.index("OSError: fourth")
    assert trace.at.endswith("in last")


def test_an_exit_reads_as_what_it_is() -> None:
    """`3` alone would say nothing."""

    @activity(name="a")
    def work() -> None:
        sys.exit(3)

    failure = failure_of(work)
    assert failure.message == "SystemExit: 3"
    assert failure.raised is not None
    assert failure.raised.kind == "SystemExit"
    assert failure.raised.report.endswith("SystemExit: 3")


def test_failures_of_the_same_line_and_kind_are_not_distinct_and_others_are() -> None:
    """Their words may name an order or a customer."""

    def raises(error: BaseException) -> None:
        raise error

    def chained(cause: BaseException) -> None:
        try:
            raise cause
        except type(cause) as error:
            raise ValueError("wrapped") from error

    same = {trace_of(caught(lambda n=n: raises(ValueError(f"order {n}")))).distinct for n in range(3)}  # type: ignore[misc]
    assert len(same) == 1
    other = trace_of(caught(lambda: raises(KeyError("x")))).distinct
    by_cause = {trace_of(caught(lambda e=e: chained(e))).distinct for e in (OSError(), KeyError())}  # type: ignore[misc]
    assert len({*same, other, *by_cause}) == 4
