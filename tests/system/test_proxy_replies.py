"""A real host behind an ingress that answers in the engine's place: only the engine says no (faults.md N22, N24)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from harness import Engine, Host, running_engine, running_host

if TYPE_CHECKING:
    from pathlib import Path

APP = "sample_app:registry"
HTML = "<html>sign in</html>"
ELSEWHERE = {"location": "http://127.0.0.1:1/login"}


def answer_instead(engine: Engine, statuses: list[int], *routes: str) -> None:
    """Lets each call to those routes get one of the statuses at random, in HTML."""
    faults = [
        {
            "route": route,
            "times": None,
            "status": status,
            "body": HTML,
            "headers": ELSEWHERE,
            "seed": number,
            "probability": 1 / (len(statuses) - number),
        }
        for route in routes
        for number, status in enumerate(statuses)
    ]
    engine.http.post("/__test__/faults", json=faults).raise_for_status()


def end_of_faults(engine: Engine) -> None:
    engine.http.delete("/__test__/faults").raise_for_status()


@pytest.mark.fork
@pytest.mark.timeout(60)
def test_n22_results_outlive_an_ingress_that_is_wrong_for_longer_than_their_limit(tmp_path: Path) -> None:
    """Ten seconds of redirects, refusals and login pages, and activities of six: all end as completed, once."""
    with running_engine() as engine, running_host(tmp_path, APP, "-p", "1", url=engine.url) as host:
        host.ready(1)
        answer_instead(engine, [302, 307, 403, 404, 451, 200], "complete", "fail")
        engine.submit("hello", 12, name="x", settings={"timeout_seconds": 6})
        engine.wait_for("claim", 12)
        time.sleep(10.0)
        assert not engine.entries("complete")
        end_of_faults(engine)
        engine.wait_for("complete", 12, within_s=12.0)
        assert set(engine.completions_per_activity().values()) == {1}
        assert set(engine.claims_per_activity().values()) == {1}
        assert not engine.entries("fail")
        assert len(host.log("outcome_refused_by_a_proxy")) == 12


@pytest.mark.fork
@pytest.mark.timeout(60)
def test_n24_a_host_is_at_work_again_soon_after_a_blip(tmp_path: Path) -> None:
    """Every call gets errors of an ingress for 4 s; work that waits is claimed and completed within 5 s of the end."""
    with running_engine() as engine, running_host(tmp_path, APP, "-p", "2", url=engine.url) as host:
        host.ready(2)
        _blip(engine, host)
        engine.wait_for("complete", 4, within_s=5.0)
        assert set(engine.claims_per_activity().values()) == {1}


def _blip(engine: Engine, host: Host) -> None:
    engine.submit("wait", 2, seconds=2)
    engine.wait_for("claim", 2)
    statuses = [301, 308, 403, 404, 405, 407, 410, 431, 200]
    answer_instead(engine, statuses, "poll", "heartbeat", "complete", "fail", "token")
    time.sleep(4.0)
    engine.submit("hello", 2, name="x")
    end_of_faults(engine)
    assert host.log("engine_misconfigured")
