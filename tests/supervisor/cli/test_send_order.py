"""`flowherd ctl --wait`: the outcome of this order, not of another one."""

from __future__ import annotations

import math

import msgspec
import pytest

from flowherd.errors import ConfigurationError
from flowherd.exit_codes import Exit
from flowherd.leases.cancellation import ANSWERED_WITHIN_S
from flowherd_supervisor.cli.send_order import _WITHIN_S, _deadline, _outcome
from flowherd_supervisor.keeper.http_server import REPLY_WITHIN_S

ORDERED_AT = 1000.0


def lines(*events: tuple[float, str]) -> list[str]:
    """The stream of these events, each with its time."""
    told = [{"at": at, "event": event, "reason": "it says why"} for at, event in events]
    return [f"data: {msgspec.json.encode(one).decode()}" for one in told]


@pytest.mark.parametrize(
    ("events", "code"),
    [
        (((1001.0, "reloading"), (1002.0, "reloaded")), Exit.CLEAN),
        (((1001.0, "reloading"), (1002.0, "reload_failed")), Exit.BOOT_FAILED),
        (((1001.0, "reload_refused"),), Exit.USAGE),
        (((999.0, "reload_refused"), (1001.0, "reloading"), (1002.0, "reloaded")), Exit.CLEAN),
        (((1001.0, "reloaded"), (1002.0, "reloading"), (1003.0, "reload_failed")), Exit.BOOT_FAILED),
        (
            ((999.0, "reloading"), (1001.0, "reload_failed"), (1002.0, "reloading"), (1003.0, "reloaded")),
            Exit.CLEAN,
        ),
        (((999.0, "reloading"), (1001.0, "reloaded")), Exit.INTERNAL),
    ],
)
def test_a_wait_for_a_reload_ends_with_its_own_and_not_with_an_earlier_one(
    events: tuple[tuple[float, str], ...], code: Exit
) -> None:
    """An earlier one may end between the order and its beginning; a script would believe that the old code is gone."""
    assert _outcome(lines(*events), ORDERED_AT, None) is code


def test_a_cancel_waits_longer_than_the_host_waits_for_the_engine() -> None:
    """Otherwise the client blames the host, and the activity is cancelled all the same."""
    assert ANSWERED_WITHIN_S < _WITHIN_S["cancel"] < REPLY_WITHIN_S


@pytest.mark.parametrize("timeout_s", [-1.0, math.inf, math.nan])
def test_a_time_that_nobody_can_wait_is_refused(timeout_s: float) -> None:
    with pytest.raises(ConfigurationError, match=r"--timeout .*: should be seconds, 0 or more"):
        _deadline(timeout_s)


def test_any_other_time_can_be_waited() -> None:
    """`select` takes less than what a user may type."""
    assert _deadline(None) is None
    assert (_deadline(1e300) or 0.0) < 1e12
