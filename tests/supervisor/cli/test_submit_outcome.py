"""What `flowherd submit` prints of a failed workflow: the engine's message, and what the hosts here know more."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from explain_kit import host, present

from flowherd_supervisor.cli.submit_outcome import failed_steps, show_outcome
from flowherd_supervisor.testkit.workflow_client import Started, Step, Workflow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowherd_supervisor.cli.explain_next import Explained

STARTED = Started("w-1", "created", "flowherd-add")


def failure(message: str = "'missing'", seen: int = 1, **more: Any) -> dict[str, Any]:
    """Builds the event of a failed attempt, as a host returns it."""
    known = {
        "event": "failed", "key": "add", "activity_id": "a-1", "at": float(seen), "seen": seen, "message": message,
        "code": "EXECUTION_ERROR", "type": "KeyError", "line": "/srv/orders.py:32 in add",
    }  # fmt: skip
    return known | more


def failed(error: str | None = "'missing'") -> Workflow:
    return Workflow("failed", [Step("add", "failed", error=error)], "One or more activities failed")


def steps(workflow: Workflow, *hosts: Explained) -> list[tuple[str, str | None, int | None]]:
    found = failed_steps(STARTED, workflow, lambda _: hosts)
    return [(one.text, one.code, one.attempts) for one in found]


def test_a_failure_has_the_code_class_and_line_that_a_host_knows() -> None:
    """The engine keeps the message alone."""
    events = [failure(seen=number) for number in (1, 2)]
    words = "add: EXECUTION_ERROR: KeyError: 'missing', at orders.py:32 in add"
    assert steps(failed(), host(events=events)) == [(words, "EXECUTION_ERROR", 2)]


def test_attempts_on_several_hosts_are_added_up() -> None:
    one, other = host(events=[failure()]), host(pid=8, events=[failure(at=9.0, code="NO_SIZE")])
    [(text, code, attempts)] = steps(failed(), one, other)
    assert (text, code, attempts) == ("add: NO_SIZE: 'missing', at orders.py:32 in add", "NO_SIZE", 2)


@pytest.mark.parametrize(
    ("error", "message", "is_known"),
    [
        ("long " * 300, "long " * 60, True),
        ("no", "other", False),
        ("no", "", False),
        (None, "", True),
    ],
)
def test_only_the_attempt_of_which_the_engine_has_the_message_counts(
    error: str | None, message: str, *, is_known: bool
) -> None:
    """The last one may have run on another machine; a host cuts a long message."""
    [(_, code, attempts)] = steps(failed(error), host(events=[failure(message)]))
    assert (code, attempts) == (("EXECUTION_ERROR", 1) if is_known else (None, None))


def test_without_a_host_the_engine_s_message_stands_alone() -> None:
    assert steps(failed()) == [("add: 'missing'", None, None)]
    timeout = "ORCHESTRATOR_ERROR: Workflow timed out"
    assert steps(failed(timeout)) == [(f"add: {timeout}", "ORCHESTRATOR_ERROR", None)]


def test_a_failure_that_is_still_being_written_down_is_waited_for() -> None:
    """The engine has failed the workflow before its answer has reached the worker."""
    answers = [host(present=[present("reporting")]), host(events=[failure()])]
    [one] = failed_steps(STARTED, failed(), lambda _: [answers.pop(0)])
    assert (one.code, answers) == ("EXECUTION_ERROR", [])


def test_a_host_that_never_writes_it_down_is_not_waited_for_long() -> None:
    asked: list[str] = []

    def explain(wanted: str) -> Sequence[Explained]:
        asked.append(wanted)
        return [host(present=[present("reporting")])]

    [one] = failed_steps(STARTED, failed(), explain, within_s=0.1)
    assert one.text == "add: 'missing'"
    assert set(asked) == {"w-1"}


def test_the_last_line_names_the_command_that_shows_more(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr: stdout is for outputs."""
    show_outcome(STARTED, failed(), is_one_step=True, as_json=False, explain=lambda _: [host()])
    out, err = capsys.readouterr()
    assert out == "flowherd-add w-1: failed\n  add: 'missing'\n"
    assert err == "flowherd: flowherd explain w-1 shows more\n"


def test_json_has_the_code_and_the_attempts_that_a_host_knows(capsys: pytest.CaptureFixture[str]) -> None:
    known = [host(events=[failure()])]
    show_outcome(STARTED, failed(), is_one_step=True, as_json=True, explain=lambda _: known)
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert (document["error"], document["code"], document["attempts"]) == ("'missing'", "EXECUTION_ERROR", 1)
    assert err == ""


def test_a_workflow_that_fails_without_a_failed_step_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    """Its time-out, for example."""
    workflow = Workflow("failed", [Step("add", "skipped")], "Workflow timed out")
    show_outcome(STARTED, workflow, is_one_step=True, as_json=False, explain=lambda _: [])
    assert capsys.readouterr().out == "flowherd-add w-1: failed\n  Workflow timed out\n"
