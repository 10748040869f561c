"""`flowherd explain` on a real host: a crash, its second attempt and its failure, also after another keeper came."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from harness import eventually

from flowherd_supervisor.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness import Engine, Host

    Explain = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def explain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Explain:
    """Runs `flowherd explain` beside a host; returns exit code, stdout and stderr."""

    def call(host: Host, *words: str) -> tuple[int, str, str]:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(host.folder / "r"))
        with pytest.raises(SystemExit) as left:
            main(["explain", *words])
        return int(left.value.code or 0), *capsys.readouterr()

    return call


def events(explain: Explain, host: Host, *words: str) -> list[dict[str, Any]]:
    code, out, err = explain(host, *words, "--json")
    assert (code, err) == (0, "")
    found: list[dict[str, Any]] = json.loads(out)["events"]
    return found


def words_of(found: list[dict[str, Any]], source: str = "host") -> list[str]:
    return [event["event"] for event in found if event["source"] == source]


def test_a_crash_is_explained_from_claim_to_end_also_by_the_next_keeper(
    engine: Engine, run_host: Callable[..., Host], explain: Explain
) -> None:
    """The host's engine is asked without being named; the second death is the last attempt."""
    host = run_host("sample_app:registry", url=engine.url)
    [flow] = engine.submit("kill_self", settings={"retry": {"max_attempts": 2, "base_seconds": 1}})
    [done] = engine.submit("hello", name="Ada")
    engine.wait_for("fail", 2)
    engine.wait_for("complete", 1)
    eventually(lambda: len(words_of(events(explain, host, flow))) >= 8, "both attempts are told")
    found = events(explain, host, flow)
    assert [event["at"] for event in found] == sorted(event["at"] for event in found)
    expected = ["claimed", "begun", "crashed", "requeued", "retried", "begun", "crashed", "given_up"]
    assert words_of(found) == expected
    assert words_of(found, "engine") == ["created", "given_up", "failed"]
    crashed = next(event for event in found if event["event"] == "crashed")
    assert (crashed["code"], crashed["name"]) == ("WORKER_CRASHED", "kill_self")
    assert "killed by SIGKILL" in crashed["message"]
    assert "was on the loop" in crashed["message"], "the reason why it is a suspect"

    os.kill(host.keeper(), signal.SIGKILL)
    host.wait_for_log("keeper_died", 1)
    eventually(lambda: words_of(events(explain, host, flow)) == expected, "the next keeper knows it all")
    assert words_of(events(explain, host, done)) == ["claimed", "begun", "returned", "completed"]

    code, out, _ = explain(host, crashed["activity_id"])
    assert code == 0
    assert out.splitlines()[0].endswith(f"{flow}: failed"), "an activity's id leads to its workflow"
    assert "crashed: WORKER_CRASHED: worker process" in out
    assert out.splitlines()[-1].startswith("Nothing more happens: the workflow has failed for good.")


def test_a_running_attempt_is_shown_with_its_duration_and_the_next_step(
    engine: Engine, run_host: Callable[..., Host], explain: Explain
) -> None:
    host = run_host("sample_app:registry", "-c", "1", url=engine.url, processes=1)
    flows = engine.submit("wait", 2, seconds=30.0)
    engine.wait_for("claim", 1)

    def said(flow: str) -> str:
        return explain(host, flow)[1].splitlines()[-1]

    eventually(lambda: any("has run for" in said(flow) for flow in flows), "one runs")
    running = next(flow for flow in flows if "has run for" in said(flow))
    waiting = next(flow for flow in flows if flow != running)
    assert f"on process 0 of sample_app:registry, pid {host.pid}: it ends by itself" in said(running)
    assert "(worker type py-std) are in use" in said(waiting)
    assert words_of(events(explain, host, running))[:2] == ["claimed", "begun"]
    code, out, err = explain(host, "0193a1b2-0000-7000-8000-000000000001")
    assert (code, out) == (2, "")
    assert f"nor a host on this machine (sample_app:registry, pid {host.pid}) knows" in err
