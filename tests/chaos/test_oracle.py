"""The oracle finds what it should: a storm that cannot fail proves nothing."""

from __future__ import annotations

from typing import Any

import pytest
from chaos.oracle import IN_A_REPLY, Facts, Note

A, POLL_1, POLL_2 = "activity-1", "host-70-aaa-1", "host-71-bbb-1"


def _entry(
    at_s: float, event: str, worker_id: str, attempt: int | None = 1, verdict: str = "accepted"
) -> dict[str, Any]:
    return {
        "at_s": at_s,
        "event": event,
        "activity_id": A,
        "worker_id": worker_id,
        "attempt": attempt,
        "verdict": verdict,
    }


def _facts(*journal: dict[str, Any], status: str = "completed", **more: Any) -> Facts:
    row = {"activity_id": A, "workflow_id": "w", "status": status}
    notes = [Note(1.1, "start", A, 70, "-"), Note(1.9, "end", A, 70, "good")]
    return Facts(
        **(
            {"journal": list(journal), "rows": [row], "outputs": {A: "good"}, "notes": notes}
            | {"submitted": {"w"}, "budget": 1}
            | more
        )
    )


CLAIM, DONE = _entry(1.0, "claim", POLL_1), _entry(2.0, "complete", POLL_1)
LAPSE, AGAIN = _entry(4.0, "lapse", POLL_1, verdict="will_retry"), _entry(5.0, "claim", POLL_2, 2)
BACK = _entry(1.5, "fail", POLL_1, verdict="will_retry")


def test_a_good_run_has_no_complaint() -> None:
    """The other tests each change one thing of it."""
    facts = _facts(CLAIM, DONE)
    assert not facts.lost() + facts.accepted_twice() + facts.wrong_outputs() + facts.unexplained()
    assert facts.most_running() == 1


def test_i1_what_did_not_end_is_lost() -> None:
    """Also an unknown workflow, and an end as failed."""
    assert _facts(CLAIM, status="pending").lost()
    assert _facts(CLAIM, DONE, submitted={"w", "v"}).lost()
    assert _facts(CLAIM, DONE, _entry(3.0, "lapse", POLL_1, verdict="failed")).lost()


def test_poison_is_judged_by_what_it_does_and_bystanders_by_how_often_they_began() -> None:
    """A healthy activity given up, a killer that was not, a bystander of two deaths."""
    given_up = {"w": "given up after 3 processes died with it, the last time alone: …"}
    assert _facts(CLAIM, errors=given_up).misjudged()
    assert not _facts(CLAIM, errors=given_up, killers={"w"}, status="failed").misjudged()
    assert _facts(CLAIM, DONE, killers={"w"}).misjudged()
    assert _facts(CLAIM, DONE, killers={"w"}).lost()
    both = [Note(1.0, "start", id_, pid, "-") for pid in (70, 71) for id_ in (A, "other")]
    deaths = {70: 2.0, 71: 2.0}
    assert len(_facts(CLAIM, DONE, killers={"v"}, notes=both, deaths=deaths).taken_down_twice()) == 2
    assert len(_facts(CLAIM, DONE, killers={"w"}, notes=both, deaths=deaths).taken_down_twice()) == 1
    assert not _facts(CLAIM, DONE, killers={"v"}, notes=both, deaths={70: 2.0}).taken_down_twice()
    alone = [*both[:3], Note(1.5, "end", A, 70, "good")]
    assert not _facts(CLAIM, DONE, killers={"v"}, notes=alone, deaths=deaths).taken_down_twice()


def test_i2_two_accepted_completions_are_seen() -> None:
    """A repeat without effect does not count."""
    assert not _facts(CLAIM, DONE, _entry(2.5, "complete", POLL_1, None, "repeated")).accepted_twice()
    assert _facts(CLAIM, DONE, _entry(2.5, "complete", POLL_2)).accepted_twice()


def test_i3_an_output_that_no_handler_returned_is_seen() -> None:
    """The handlers' own notes decide."""
    assert _facts(CLAIM, DONE, outputs={A: "bad"}).wrong_outputs()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({}, ""),
        ({"deaths": {70: 1.5}}, IN_A_REPLY),
        ({"deaths": {70: 1.5}, "answered": {POLL_1: 1.0}}, IN_A_REPLY),
        ({"deaths": {70: 2.5}, "answered": {POLL_1: 1.0}}, ""),  # it knew by then: who has forgotten it?
        ({"deaths": {70: 2.5}, "answered": {POLL_1: 1.0}, "freezes": [(70, 1.0, 2.4)]}, IN_A_REPLY),
        ({"deaths": {70: 9.0}}, ""),
        ({"deaths": {71: 1.5}}, ""),
        ({"lost_polls": {POLL_1}}, "poll reply lost"),
        ({"outages": [(1.5, 2.0)]}, "engine restarted"),
        ({"outages": [(6.0, 7.0)]}, ""),
        ({"outages": [(-9.0, -8.0)]}, ""),
        ({"freezes": [(70, 0.9, 3.5)], "notes": []}, "frozen with a poll's reply unread"),
        ({"freezes": [(70, 0.9, 3.5)]}, ""),  # it had begun by then
        ({"freezes": [(70, 0.9, 2.5)], "notes": []}, ""),
        ({"freezes": [(71, 0.9, 3.5)], "notes": []}, ""),
    ],
)
def test_i4_only_a_fault_that_fits_explains_a_repeat(more: dict[str, Any], reason: str) -> None:
    """The right process, at the right time."""
    facts = _facts(CLAIM, LAPSE, AGAIN, DONE, **more)
    assert list(facts.explanations()) == [reason]
    assert bool(facts.unexplained()) == (not reason)


def test_i4_a_kill_explains_what_was_handed_back_after_it_or_what_nobody_knew_of() -> None:
    """C2, C3, C4: a claim that somebody kept and nobody handed back is a fault of ours."""
    killed = {"deaths": {70: 1.2}, "answered": {POLL_1: 1.0}}
    assert list(_facts(CLAIM, BACK, AGAIN, DONE, **killed).explanations()) == ["process killed"]
    beat = _entry(1.4, "heartbeat", POLL_1, None)
    assert not _facts(CLAIM, LAPSE, AGAIN, DONE, **killed).unexplained()
    assert _facts(CLAIM, beat, LAPSE, AGAIN, DONE, **killed).unexplained()


def test_i4_what_was_handed_back_alive_or_never_handed_out_is_unexplained() -> None:
    """An outage does not explain a reported failure; a start needs a claim of its process."""
    assert _facts(CLAIM, BACK, AGAIN, DONE, outages=[(1.2, 1.4)]).unexplained()
    assert _facts(_entry(1.0, "claim", POLL_2), DONE).unexplained()


def test_i5_what_ran_in_a_killed_process_runs_no_more() -> None:
    """Two starts without an end are two at a time, unless the first process was dead by then."""
    notes = [Note(1.1, "start", A, 70, "-"), Note(3.0, "start", "other", 71, "-")]
    assert _facts(CLAIM, notes=notes).most_running() == 2
    assert _facts(CLAIM, notes=notes, deaths={70: 2.0}).most_running() == 1
