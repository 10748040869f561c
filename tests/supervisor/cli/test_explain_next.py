"""The last line of `flowherd explain`: the next step in each case."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from explain_kit import host, present

from flowherd.leases.cancellation import CANCELLED
from flowherd_supervisor.cli.explain_next import next_of
from flowherd_supervisor.testkit.workflow_client import Step, Workflow

if TYPE_CHECKING:
    from flowherd_supervisor.cli.explain_next import Explained, Present

NOW = 1_000.0


def event(name: str, at: float, seen: int = 1) -> dict[str, Any]:
    return {"key": "add", "event": name, "at": at, "seen": seen}


def running(*steps: Step) -> Workflow:
    return Workflow("running", list(steps) or [Step("add", "pending")])


@pytest.mark.parametrize(
    ("status", "words"),
    [("completed", "Nothing more happens: the workflow has completed."), ("failed", "submit it again.")],
)
def test_an_ended_workflow_has_no_next(status: str, words: str) -> None:
    assert next_of(Workflow(status), [], [], NOW).endswith(words)


@pytest.mark.parametrize(
    ("keys", "subject"),
    [
        (["add"], "add"),
        (["add", "sum"], "add, sum"),
        ([f"s-{number}" for number in range(5)], "s-0, s-1, s-2 and 2 more"),
    ],
)
def test_a_workflow_that_failed_because_an_operator_cancelled_it_has_no_cause_that_goes_away(
    keys: list[str], subject: str
) -> None:
    """The engine keeps the message, so it is told also after the host has ended."""
    cancelled = [Step(key, "failed", error=CANCELLED) for key in keys]
    steps = [Step("before", "completed"), *cancelled, Step("after", "not_scheduled")]
    assert next_of(Workflow("failed", steps), [], [], NOW) == (
        f"Nothing more happens: an operator cancelled {subject}, so the workflow has failed for good. "
        "Submit it again only if it is to run after all."
    )


def test_a_failure_beside_a_cancelled_activity_is_a_cause() -> None:
    steps = [Step("add", "failed", error=CANCELLED), Step("sum", "failed", error="no such size")]
    assert next_of(Workflow("failed", steps), [], [], NOW).endswith(
        "When the cause is gone, submit it again."
    )


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (
            present("running", limit_s=300.0),
            "on process 2 of app:r, pid 7: it ends by itself, or is stopped at its limit in 288 s.",
        ),
        (present("stopping"), "add was told to stop on process 2"),
        (
            present("reporting"),
            "add has ended on process 2 of app:r, pid 7: the engine is told, as soon as it answers.",
        ),
        (
            present("reporting", has_result=True),
            "add has completed on process 2 of app:r, pid 7: the engine is told, as soon as it answers.",
        ),
        (present("settling"), "the keeper tells the engine, which may run it again."),
        (
            present("settling", waits_for="a slot"),
            "add had not begun when its process ended on process 2 of app:r, pid 7: another process goes on with it",
        ),
        (
            present("waiting", waits_for="a slot"),
            "add begins on process 2 of app:r, pid 7 when it gets a slot.",
        ),
    ],
)
def test_what_a_host_holds_is_next_and_not_pending_too(one: Present, words: str) -> None:
    own = [host(present=[one])]
    said = next_of(running(), own, own, NOW)
    assert words in said
    assert "hands add out" not in said
    assert next_of(None, own, own, NOW) == said, "also when the engine does not answer"


@pytest.mark.parametrize(
    ("seen", "ago_s", "words"),
    [
        (1, 0.4, "hands add out again in about 2 s"),
        (3, 1.0, "hands add out again in about 7 s"),
        (1, 30.0, "hands add out again at the next poll"),
        (60, 0.0, "hands add out again in about 300 s"),
    ],
)
def test_after_a_requeue_the_engine_s_delay_is_counted(seen: int, ago_s: float, words: str) -> None:
    own = [host(events=[event("claimed", 1.0, seen), event("requeued", NOW - ago_s, seen)])]
    said = next_of(running(), own, own, NOW)
    assert words in said
    assert "app:r, pid 7 (worker type py-std) polls, with 3 free slots." in said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "polls, with 3 free slots"),
        ({"free_slots": 0}, "all slots of app:r, pid 7 (worker type py-std) are in use"),
        ({"polled_s_ago": 40.0}, "has not polled for 40 s"),
        ({"polled_s_ago": None}, "has not polled yet"),
    ],
)
def test_an_activity_unknown_to_hosts_waits_for_a_poll_by_the_listed_hosts(
    more: dict[str, Any], words: str
) -> None:
    assert words in next_of(running(), [], [host(**more)], NOW)


@pytest.mark.parametrize("last", [[], [event("requeued", NOW - 30.0)], [event("lost", 900.0)]])
def test_only_hosts_that_poll_the_queue_of_an_activity_are_listed_if_it_is_known(
    last: list[dict[str, Any]],
) -> None:
    workflow = running()
    workflow.workers = {"add": "std"}
    own = [host(events=last), host(pid=8, worker="std")]
    said = next_of(workflow, own, own, NOW)
    assert "app:r, pid 8 (worker type std) polls" in said
    assert "pid 7" not in said


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ([host()], "polls it; app:r, pid 7 polls py-std. Is the definition's worker: right?"),
        ([host(), host(pid=8)], "polls it; app:r, pid 7 polls py-std, app:r, pid 8 polls py-std. Is the"),
        ([], "polls it: flowherd run APP starts one"),
    ],
)
def test_an_activity_in_a_queue_that_no_host_here_polls_is_named_with_its_queue(
    own: list[Explained], words: str
) -> None:
    """The engine's default queue is `std`; it may also run on another machine."""
    workflow = running()
    workflow.workers = {"add": "std"}
    said = next_of(workflow, [], own, NOW)
    assert said.startswith(
        "add waits in queue 'std', or runs on another machine; no host on this machine " + words
    )


def test_a_stalled_process_is_the_reason_why_nothing_ends_and_no_poll_is_sent() -> None:
    one = {"process": 2, "for_s": 12.4, "is_stopped": False, "name": "resize", "at": "/app/a.py:7"}
    cause = "process 2: its event loop has been blocked for 12s by resize, at /app/a.py:7"
    holder = host(present=[present("running", limit_s=300.0)], standstills=[one])
    said = next_of(running(), [holder], [holder], NOW)
    assert said.endswith(f"is stopped at its limit in 288 s. But {cause}.")
    idle = host(polled_s_ago=12.0, standstills=[one])
    assert next_of(running(), [], [idle], NOW).endswith(f"has not polled for 12 s ({cause}).")


def test_without_a_host_for_the_engine_the_remedy_is_named() -> None:
    assert "no host on this machine works for this engine: flowherd run APP" in next_of(
        running(), [], [], NOW
    )


def test_a_lost_lease_and_a_signal_are_explained() -> None:
    lost = [host(events=[event("lost", 900.0)])]
    assert "another worker has add" in next_of(running(), lost, lost, NOW)
    assert "add waits for a signal" in next_of(running(Step("add", "waiting")), [], [], NOW)


def test_between_two_steps_the_engine_is_next() -> None:
    steps = [Step("add", "completed"), Step("next", "not_scheduled")]
    assert "the engine makes the next step ready" in next_of(running(*steps), [], [], NOW)


def test_of_many_only_the_nearest_are_named() -> None:
    steps = [Step(f"s-{number}", "pending") for number in range(9)]
    own = [host(present=[present("running", key="s-8")])]
    said = next_of(running(*steps), own, own, NOW)
    assert said.startswith("s-8 has run")
    assert said.endswith("And 6 more.")


@pytest.mark.parametrize(
    ("ago_s", "changed_s_ago", "is_named"), [(75.0, 75.1, True), (30.0, 30.1, False), (75.0, 20.0, False)]
)
def test_a_result_that_the_engine_has_passed_over_is_named_after_a_minute_without_a_change(
    ago_s: float, changed_s_ago: float, *, is_named: bool
) -> None:
    """The engine still says pending; a change since would be the next turn of a loop, for example."""
    workflow = running(Step("first", "completed"), Step("add", "pending"))
    workflow.updated_at = datetime.fromtimestamp(NOW - changed_s_ago, UTC)
    own = [host(events=[event("completed", NOW - ago_s)])]
    said = next_of(workflow, own, own, NOW)
    words = (
        "Nothing more happens: the engine took the result of add 75 s ago and has passed it over. Submit the"
    )
    assert (words in said) is is_named


def test_an_engine_that_hides_its_unhealthy_orchestrator_is_named_before_all_else() -> None:
    workflow = running()
    workflow.orchestrator = "no heartbeat"
    said = next_of(workflow, [], [host()], NOW)
    assert said.startswith("Nothing more happens until the engine is restarted: ")
    assert "(no heartbeat)" in said
