"""`flowherd explain` against a scripted engine: what it says without a host, and what comes next in each case."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from rich.console import Console
from scripted_http import Reply, ScriptedServer, scripted_server

from flowherd_supervisor.cli.explain import render
from flowherd_supervisor.cli.explain_next import Explained, Present, next_of
from flowherd_supervisor.cli.main import main
from flowherd_supervisor.testkit.workflow_client import Step, Workflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Explain = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("folder")
FLOW = "/api/v1/workflows/w-1"
CREATED, ENDED = "2026-11-28T10:00:00.500Z", "2026-11-28T10:00:02.250Z"
NOT_FOUND = {"error": {"code": "NOT_FOUND", "message": "Workflow 'w-1' not found"}}
NOW = 1_000.0


@pytest.fixture
def engine() -> Iterator[ScriptedServer]:
    """Knows one workflow, whose only step has failed."""
    step = {"activity_key": "add", "status": "failed", "outputs": None, "error": "no such size"}
    with scripted_server() as server:
        server.replies[FLOW] = Reply(
            200,
            {
                "id": "w-1", "status": "failed", "definition_name": "sums", "created_at": CREATED,
                "updated_at": ENDED, "error_message": "One or more activities failed",
                "activities": [step | {"completed_at": ENDED}, {"activity_key": "next", "status": "not_scheduled"}],
            },
        )  # fmt: skip
        yield server


@pytest.fixture
def explain(
    engine: ScriptedServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Explain:
    """Exit code, stdout and stderr of `flowherd explain`, where no host runs unless the test starts one."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("r")))

    def call(*words: str, url: str = engine.url) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["explain", *words, *(["--api-url", url] if url else [])])
        return int(left.value.code or 0), *capsys.readouterr()

    return call


def test_without_a_host_the_engine_s_word_is_told(explain: Explain) -> None:
    code, out, err = explain("w-1")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "sums w-1: failed"
    assert "on this machine: no host remembers it" in lines[1]
    assert "created" in lines[2]
    assert "failed for good: no such size" in lines[3]
    assert lines[-1] == (
        "Next: nothing: the workflow has failed for good. When the cause is gone, submit it again."
    )


def test_json_is_one_document(explain: Explain) -> None:
    code, out, _ = explain("w-1", "--json")
    document = json.loads(out)
    assert (code, document["workflow_id"], document["status"], document["definition"]) == (
        0, "w-1", "failed", "sums",
    )  # fmt: skip
    assert [(event["source"], event["event"], event["key"]) for event in document["events"]] == [
        ("engine", "created", ""), ("engine", "given_up", "add"), ("engine", "failed", ""),
    ]  # fmt: skip
    assert document["activities"][1] == {"key": "next", "status": "not_scheduled", "error": None}
    assert document.keys() >= {"engine", "hosts", "present", "next"}


def test_one_activity_can_be_asked_for_by_its_key(explain: Explain) -> None:
    code, out, _ = explain("w-1", "--activity", "add", "--json")
    document = json.loads(out)
    assert code == 0
    assert [event["event"] for event in document["events"]] == ["given_up"]
    assert [one["key"] for one in document["activities"]] == ["add"]


def test_an_activity_that_the_workflow_has_not_is_refused_with_those_it_has(explain: Explain) -> None:
    code, out, err = explain("w-1", "--activity", "ad")
    assert (code, out) == (2, "")
    assert "--activity ad: this workflow has no such activity; it has add, next" in err


@pytest.mark.parametrize(
    "reply", [Reply(404, NOT_FOUND), Reply(400, "Invalid URL: UUID parsing failed: `workflow_id` is `w-1`")]
)
def test_an_id_that_nobody_knows_is_a_slip_with_its_remedy(
    engine: ScriptedServer, explain: Explain, reply: Reply
) -> None:
    engine.replies[FLOW] = reply
    code, out, err = explain("w-1")
    assert (code, out) == (2, "")
    assert f"w-1: neither the engine {engine.url} nor a host on this machine (none is running) knows" in err
    assert "flowherd submit prints the id" in err


def test_an_id_is_no_path(engine: ScriptedServer, explain: Explain) -> None:
    engine.replies["/api/v1/workflows/..%2F..%2Fhealth"] = Reply(404, NOT_FOUND)
    assert explain("../../health")[0] == 2
    assert [request.path for request in engine.seen] == ["/api/v1/workflows/..%2F..%2Fhealth"]


@pytest.mark.parametrize(("status", "code"), [(401, 4), (503, 1), (404, 1)])
def test_an_engine_that_cannot_be_asked_is_said_with_the_code_of_submit(
    engine: ScriptedServer, explain: Explain, status: int, code: int
) -> None:
    """404 without the engine's words: something else answers there."""
    engine.replies[FLOW] = Reply(status, "")
    assert explain("w-1")[0] == code


@pytest.fixture
def a_host(explain: Explain, engine: ScriptedServer) -> Iterator[ScriptedServer]:
    """A host of that engine, which has seen the workflow."""
    assert explain
    folder = Path(os.environ["XDG_RUNTIME_DIR"]) / "flowherd"
    folder.mkdir(mode=0o700)
    failed = {
        "at": 1.5,
        "event": "failed",
        "activity_id": "a-1",
        "key": "add",
        "name": "sum",
        "process": 0,
        "seen": 1,
    }
    known = host(
        engine=engine.url, events=[failed | {"type": "ValueError", "message": "no such size", "code": "X"}]
    )
    reply = Reply(200, msgspec.to_builtins(known))
    with scripted_server(path=folder / "7.sock") as server:
        server.replies |= {"/api/explain?id=w-1": reply, "/api/explain?id=a-1": reply}
        yield server


def test_the_engine_of_the_host_that_knows_the_workflow_is_asked_unnamed(
    explain: Explain, a_host: ScriptedServer
) -> None:
    for wanted in ("w-1", "a-1"):
        code, out, _ = explain(wanted, url="")
        assert code == 0
        assert out.splitlines()[0] == "sums w-1: failed"
        assert "process 0 add" in out
        assert "failed: ValueError: no such size (X)" in out
    assert [request.path for request in a_host.seen] == ["/api/explain?id=w-1", "/api/explain?id=a-1"]


def test_the_configured_secret_is_shown_to_the_configured_engine_alone(
    engine: ScriptedServer, explain: Explain, a_host: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine of a host may be another one than the configured; what the host knows is told all the same."""
    monkeypatch.setenv("KRUXIAFLOW_CLIENT_ID", "me")
    monkeypatch.setenv("KRUXIAFLOW_CLIENT_SECRET", "hush")
    monkeypatch.setenv("KRUXIAFLOW_API_URL", "http://127.0.0.1:9")
    engine.replies[FLOW] = Reply(401, "")
    code, out, _ = explain("w-1", url="")
    assert code == 0
    assert "the engine says nothing of it: GET /api/v1/workflows/w-1: status 401" in out
    assert "ValueError: no such size" in out
    assert a_host.seen
    assert [request.path for request in engine.seen] == [FLOW]
    assert "authorization" not in engine.seen[0].headers


def test_nothing_of_a_message_is_taken_for_markup_or_control() -> None:
    event = {
        "source": "host", "pid": 1, "at": time.time(), "event": "failed", "key": "[red]", "process": 0, "seen": 1,
        "name": "sum", "activity_id": "a-1", "type": "ValueError", "message": "[bold]\x1b[31m",
        "code": "EXECUTION_ERROR",
    }  # fmt: skip
    document: dict[str, Any] = {
        "workflow_id": "w", "status": None, "definition": None, "engine": {"url": "u", "error": "gone"},
        "hosts": [{"app": "app:r", "pid": 1}], "events": [event], "next": "x", "left_out": 0,
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=80, markup=False)
    console.print(*render(document), sep="\n")
    shown = console.file.getvalue()
    assert "failed: ValueError: [bold]" in shown
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 80


# What comes next


def host(**more: Any) -> Explained:
    known: dict[str, Any] = {
        "pid": 7, "app": "app:r", "engine": "http://e", "worker": "py-std", "polled_s_ago": 0.4, "free_slots": 3,
        "activities": {}, "workflow_id": "w-1", "events": [], "present": [],
    }  # fmt: skip
    return Explained(**known | more)


def present(state: str, **more: Any) -> Present:
    known: dict[str, Any] = {
        "activity_id": "a", "key": "add", "name": "sum", "process": 2, "state": state, "for_s": 12.0,
        "limit_s": None, "waits_for": None, "lease_s": 60.0,
    }  # fmt: skip
    return Present(**known | more)


def event(name: str, at: float, seen: int = 1) -> dict[str, Any]:
    return {"key": "add", "event": name, "at": at, "seen": seen}


def running(*steps: Step) -> Workflow:
    return Workflow("running", list(steps) or [Step("add", "pending")])


@pytest.mark.parametrize(
    ("status", "words"),
    [("completed", "nothing: the workflow has completed."), ("failed", "submit it again.")],
)
def test_an_ended_workflow_has_no_next(status: str, words: str) -> None:
    assert next_of(Workflow(status), [], [], NOW).endswith(words)


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (
            present("running", limit_s=300.0),
            "on process 2 of app:r, pid 7: it ends by itself, or is stopped at its limit in 288 s.",
        ),
        (present("stopping"), "add was told to stop on process 2"),
        (present("reporting"), "its outcome is on its way to the engine."),
        (present("settling"), "the keeper tells the engine, which may run it again."),
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
def test_what_nobody_here_has_seen_waits_for_a_poll_and_says_who_polls(
    more: dict[str, Any], words: str
) -> None:
    assert words in next_of(running(), [], [host(**more)], NOW)


def test_a_process_that_stands_still_is_why_nothing_ends_and_nobody_polls() -> None:
    one = {"process": 2, "for_s": 12.4, "is_stopped": False, "name": "resize", "at": "/app/a.py:7"}
    cause = "process 2: its loop has stood still for 12s: resize keeps it, at /app/a.py:7"
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
