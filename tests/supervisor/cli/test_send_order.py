"""`flowherd ctl --wait`: the outcome of this order, not of another one."""

from __future__ import annotations

import math

import httpx
import msgspec
import pytest

from flowherd.errors import ConfigurationError
from flowherd.exit_codes import Exit
from flowherd.leases.cancellation import ANSWERED_WITHIN_S
from flowherd_supervisor.cli import send_order
from flowherd_supervisor.cli.send_order import _WITHIN_S, Where, _deadline, _Reload
from flowherd_supervisor.keeper.http_server import REPLY_WITHIN_S

ORDERED_AT = 1000.0


def lines(*events: tuple[float, str]) -> list[str]:
    """The stream of these events, each with its time."""
    told = [{"at": at, "id": int(at * 1e6), "event": event, "reason": "it says why"} for at, event in events]
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
        (((999.0, "reloading"), (1001.0, "reloaded")), None),
    ],
)
def test_a_wait_for_a_reload_ends_with_its_own_and_not_with_an_earlier_one(
    events: tuple[tuple[float, str], ...], code: Exit | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier one may end between the order and its beginning; a script would believe that the old code is gone."""
    monkeypatch.setattr("time.time", lambda: ORDERED_AT)
    with httpx.Client() as client:
        assert _Reload(client, Where(), None).read(lines(*events)) is code


class Streams(httpx.BaseTransport):
    """A host whose event stream ends before each of these parts, and in the end nobody listens."""

    def __init__(self, *parts: list[str]) -> None:
        self.parts = list(parts)
        self.orders = 0
        self.asked_after: list[str] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.orders += 1
            return httpx.Response(202, json={"note": "replacing every process", "accepted": True})
        if request.url.path == "/api/status":
            return httpx.Response(200, json={"app": "a:b", "pid": 1, "children": []})
        if not self.parts:
            raise httpx.ConnectError("nobody listens")
        self.asked_after.append(request.headers["last-event-id"])
        return httpx.Response(200, text="".join(f"{line}\n\n" for line in self.parts.pop(0)))


@pytest.mark.parametrize(
    ("parts", "code", "said"),
    [
        ([[(1001.0, "reloading")], [(1002.0, "reloaded")]], Exit.CLEAN, ""),
        ([[(1001.0, "reloading")], [(1002.0, "draining")]], Exit.INTERNAL, "it is stopping"),
        ([[(1001.0, "reloading")]], Exit.INTERNAL, "it has ended"),
    ],
)
def test_a_wait_for_a_reload_outlives_the_process_that_sends_the_events(
    parts: list[list[tuple[float, str]]],
    code: Exit,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The order is given once, and no event is read twice."""
    monkeypatch.setattr("time.time", lambda: ORDERED_AT)
    monkeypatch.setattr(send_order, "_LOOK_EVERY_S", 0.0)
    host = Streams(*(lines(*events) for events in parts))
    with httpx.Client(transport=host, base_url="http://flowherd") as client:
        assert _Reload(client, Where(), None).outcome() == code
    assert host.orders == 1
    assert host.asked_after == ["1000000000", "1001000000"][: len(parts)]
    assert said in capsys.readouterr().err


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
