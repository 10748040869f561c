"""The activities that were moved off the loop, as one process knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from attempts_kit import an_activity

from flowherd.execution.activity_costs import ActivityProfiles
from flowherd.execution.blocked_loop import Occupied
from flowherd.execution.loop_meter import LoopMeter
from flowherd.execution.moved import POOL, MovedActivities
from flowherd.ledger.activity_cost_table import Where
from flowherd.ledger.permits import Demand
from flowherd.link.link import Link
from flowherd.link.messages import LoopBlocked, MoveFailed, decode_upward
from flowherd.sdk.activity_definition import Mode
from flowherd.sdk.registry import Registry
from flowherd.worker.attempt import Attempt

if TYPE_CHECKING:
    from collections.abc import Iterator


class Process:
    """One process of a host with two CPUs, and the supervisor's end of its link."""

    def __init__(self) -> None:
        self.registry = Registry()

        async def heavy() -> None: ...
        async def placed() -> None: ...
        def plain() -> None: ...

        self.registry.register(heavy)
        self.registry.register(placed, offload="loop")
        self.registry.register(plain)
        self.meter, self.undecoded = LoopMeter(), set[str]()
        self.profiles = ActivityProfiles({"heavy": Where.LOOP})
        self.supervisor, self.link = Link.pair()
        self.supervisor.set_blocking(False)
        self.moved = MovedActivities(
            self.registry,
            cpus=2,
            link=self.link,
            meter=self.meter,
            profiles=self.profiles,
            undecoded=self.undecoded,
        )

    def close(self) -> None:
        self.supervisor.close()
        self.link.close()

    def told(self) -> list[object]:
        messages = []
        while (received := self.supervisor.receive()) is not None:
            messages.append(decode_upward(received[0]))
        return messages

    def attempt(self, parameters: object) -> Attempt:
        activity = an_activity("a-1", "heavy", parameters=parameters)
        return Attempt(activity, 0, 1, claimed_at=0.0, lease_s=60.0, limit_s=60.0)


@pytest.fixture
def moves() -> Iterator[Process]:
    process = Process()
    yield process
    process.close()


def run_of(name: str, *, is_over: bool = True) -> Occupied:
    return Occupied(name, "app.py:7", 0.2, 1.0, is_over)


def test_what_occupies_the_loop_is_reported_unless_somebody_has_placed_it(moves: Process) -> None:
    """`offload="loop"` is the user's word; a plain def runs in a thread."""
    for name in ("heavy", "placed", "plain", "unknown"):
        moves.moved.occupied(run_of(name))
    assert moves.told() == [LoopBlocked("heavy", "app.py:7", 0.2, 1.0, is_over=True)]


def test_of_a_moved_activity_only_the_end_of_a_run_is_reported(moves: Process) -> None:
    """It began before the move; the supervisor waits for it."""
    moves.moved.set({"heavy": 1.0}, ())
    moves.moved.occupied(run_of("heavy", is_over=False))
    moves.moved.occupied(run_of("heavy"))
    assert [one.is_over for one in moves.told()] == [True]  # type: ignore[attr-defined]


def test_a_place_that_nobody_saw_is_where_the_handler_is_defined(moves: Process) -> None:
    """A C function that holds the GIL lets no thread look."""
    moves.moved.occupied(run_of("heavy")._replace(place=""))
    [report] = moves.told()
    assert isinstance(report, LoopBlocked)
    assert "heavy, " in report.place
    assert __file__ in report.place


def test_a_move_changes_place_profile_and_decoding_and_back(moves: Process) -> None:
    on_loop = moves.profiles.by_name["heavy"]
    moves.moved.set({"heavy": 0.5, "placed": 1.0, "unknown": 1.0}, ())
    assert set(moves.moved.definitions) == {"heavy"}, "what was placed is not moved, whoever says so"
    assert moves.moved.definitions["heavy"].mode is Mode.PROCESS
    assert moves.undecoded == {"heavy"}
    assert moves.profiles.by_name["heavy"] is not on_loop
    moves.moved.set({}, ("heavy",))
    assert not moves.moved.definitions
    assert moves.undecoded == set()
    assert moves.profiles.by_name["heavy"] is on_loop


def test_what_was_claimed_for_an_isolate_and_runs_on_the_loop_is_decoded(moves: Process) -> None:
    """An order may bring the activity back between claim and start."""
    definition = moves.registry.lookup("heavy")
    assert definition is not None
    attempt = moves.attempt(msgspec.Raw(b'{"n": 1}'))
    moves.moved.set({"heavy": 1.0}, ())
    assert moves.moved.placed(attempt, definition).mode is Mode.PROCESS
    assert isinstance(attempt.activity.parameters, msgspec.Raw)
    moves.moved.set({}, ())
    assert moves.moved.placed(attempt, definition).mode is Mode.LOOP
    assert attempt.activity.parameters == {"n": 1}


def test_an_activity_that_gets_no_isolate_runs_on_the_loop_again_and_the_supervisor_is_told(
    moves: Process,
) -> None:
    moves.moved.set({"heavy": 1.0}, ())
    assert moves.moved.cannot_run("heavy", "no memory")
    assert not moves.moved.definitions
    assert moves.told() == [MoveFailed("heavy", "no memory")]
    assert moves.moved.cannot_run("heavy", "no memory"), "another run of it waited for an isolate too"
    assert moves.told() == []
    assert not moves.moved.cannot_run("placed", "no memory"), "it was not moved"


@pytest.mark.parametrize(
    ("share", "demand"),
    [
        (1.0, Demand(POOL, range(0, 8, 4), 4)),
        (0.7, Demand(POOL, range(0, 8, 4), 4)),
        (0.5, Demand(POOL, range(6, -1, -2), 2)),
        (0.1, Demand(POOL, range(7, -1, -1), 1)),
    ],
)
def test_a_run_takes_the_share_of_a_cpu_that_was_measured(
    moves: Process, share: float, demand: Demand
) -> None:
    """Four that only wait run where one that computes would."""
    moves.moved.set({"heavy": share}, ())
    assert moves.moved.demand("heavy") == demand


def test_the_share_follows_what_isolates_measure(moves: Process) -> None:
    """Waiting for a CPU is no waiting: else each would make room for one more that waits."""
    moves.moved.set({"heavy": 0.25}, ())
    for _ in range(20):
        moves.meter.offloaded("heavy", cpu_s=1.0, wall_s=4.0, queued_s=3.0, growth_bytes=0)
    assert moves.moved.demand("heavy").needed == 4
    for _ in range(20):
        moves.meter.offloaded("heavy", cpu_s=0.01, wall_s=1.0, queued_s=0.0, growth_bytes=0)
    assert moves.moved.demand("heavy").needed == 1


def test_without_a_link_nothing_moves(moves: Process) -> None:
    """`--offload declared`, and a worker without a supervisor."""
    alone = MovedActivities(
        moves.registry, cpus=2, link=None, meter=moves.meter, profiles=moves.profiles, undecoded=set()
    )
    alone.occupied(run_of("heavy"))
    alone.set({"heavy": 1.0}, ())
    assert not alone.definitions


def test_an_activity_that_rarely_occupies_the_loop_is_not_reported(moves: Process) -> None:
    """A collection of garbage, or a short freeze, hits what runs most."""
    profile = moves.profiles.by_name["heavy"]
    for _ in range(500):
        profile.kept_loop(0.001, 0.001)
    moves.moved.occupied(run_of("heavy", is_over=False))
    moves.moved.occupied(run_of("heavy")._replace(is_new=False))
    assert moves.told() == []
    profile.kept_loop(0.2, 0.2)
    moves.moved.occupied(run_of("heavy"))
    assert len(moves.told()) == 1, "twice in a row is a habit"
