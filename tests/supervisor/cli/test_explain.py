"""`flowherd explain` against a scripted engine: reports of hosts and of the engine, and mistakes."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from explain_kit import host
from rich.console import Console
from scripted_http import Reply, ScriptedServer, scripted_server

from flowherd_supervisor.cli.explain import render
from flowherd_supervisor.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Explain = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("folder")
FLOW = "/api/v1/workflows/w-1"
CREATED, ENDED = "2026-11-28T10:00:00.500Z", "2026-11-28T10:00:02.250Z"
NOT_FOUND = {"error": {"code": "NOT_FOUND", "message": "Workflow 'w-1' not found"}}
UUID = "01a22451-bcf1-7582-a741-b60bf28b59f5"


@pytest.fixture
def engine() -> Iterator[ScriptedServer]:
    """An engine with one workflow, whose only step has failed."""
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
    """Runs `flowherd explain` without other hosts; returns exit code, stdout and stderr."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("r")))

    def call(*words: str, url: str = engine.url) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["explain", *words, *(["--api-url", url] if url else [])])
        return int(left.value.code or 0), *capsys.readouterr()

    return call


def test_without_a_host_the_engines_reply_is_shown(explain: Explain) -> None:
    code, out, err = explain("w-1")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "sums w-1: failed"
    assert "on this machine: no host remembers it" in lines[1]
    assert "created" in lines[2]
    assert "failed for good: no such size" in lines[3]
    assert lines[-1] == (
        "Nothing more happens: the workflow has failed for good. When the cause is gone, submit it again."
    )


def test_an_attempt_in_an_isolate_is_shown_as_one(explain: Explain, a_host: ScriptedServer) -> None:
    """The second attempt after a crash runs alone, and a reader wonders why its process is idle."""
    common = {"activity_id": "a-1", "key": "add", "name": "sum", "process": 0}
    events = [
        {"at": 1.5, "event": "begun", "seen": 1, "isolate": False, **common},
        {"at": 2.5, "event": "begun", "seen": 2, "isolate": True, **common},
    ]
    a_host.replies["/api/explain?id=w-1"] = Reply(200, msgspec.to_builtins(host(events=events)))
    lines = explain("w-1")[1].splitlines()
    assert [line.partition("add ")[2].strip() for line in lines[2:4]] == [
        "handler started", "handler started in an isolate",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "words"), [(2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (21, "21st")]
)
def test_a_repeated_claim_is_counted(explain: Explain, a_host: ScriptedServer, seen: int, words: str) -> None:
    event = {
        "at": 1.5, "event": "retried", "seen": seen, "activity_id": "a-1", "key": "add", "name": "sum", "process": 0,
    }  # fmt: skip
    a_host.replies["/api/explain?id=w-1"] = Reply(200, msgspec.to_builtins(host(events=[event])))
    assert f"claimed again ({words} time on this host): sum a-1" in explain("w-1")[1]


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
def test_an_unknown_id_is_a_usage_error_with_a_remedy(
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
def test_an_engine_that_cannot_be_reached_is_reported_with_the_exit_code_of_submit(
    engine: ScriptedServer, explain: Explain, status: int, code: int
) -> None:
    """A 404 without the engine's text comes from another server."""
    engine.replies[FLOW] = Reply(status, "")
    assert explain("w-1")[0] == code


@pytest.fixture
def a_host(explain: Explain, engine: ScriptedServer) -> Iterator[ScriptedServer]:
    """A host of that engine, which knows the workflow."""
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
        engine=engine.url,
        events=[
            failed | {"type": "E", "message": "no such size", "code": "X", "line": "/srv/shop.py:7 in f"}
        ],
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
        assert "failed: X: no such size, at shop.py:7 in f" in out
    assert [request.path for request in a_host.seen] == ["/api/explain?id=w-1", "/api/explain?id=a-1"]


def test_the_queue_of_a_pending_step_is_read_from_its_definition(
    engine: ScriptedServer, explain: Explain, a_host: ScriptedServer
) -> None:
    """The workflow's own document does not have it."""
    step = {"activity_key": "next", "status": "pending", "outputs": None, "error": None}
    flow = {"id": "w-1", "status": "running", "definition_name": "my sums", "activities": [step]}
    engine.replies[FLOW] = Reply(200, flow | {"created_at": CREATED, "updated_at": ENDED})
    definition = {"name": "my sums", "version": "1", "created_at": CREATED, "activities": [{"key": "next"}]}
    engine.replies["/api/v1/workflow_definitions/my%20sums"] = Reply(200, definition)
    assert a_host
    assert "next waits in queue 'std'" in explain("w-1")[1]
    definition["created_at"] = ENDED
    engine.replies["/api/v1/workflow_definitions/my%20sums"] = Reply(200, definition)
    assert "next is claimed by the next poll" in explain("w-1")[1], "a newer version is not the workflow's"
    engine.replies["/api/v1/workflow_definitions/my%20sums"] = Reply(404, NOT_FOUND)
    assert "next is claimed by the next poll" in explain("w-1")[1]


def test_the_configured_secret_is_shown_to_the_configured_engine_alone(
    engine: ScriptedServer, explain: Explain, a_host: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host's engine may differ from the configured one; what the host knows is shown anyway."""
    monkeypatch.setenv("KRUXIAFLOW_CLIENT_ID", "me")
    monkeypatch.setenv("KRUXIAFLOW_CLIENT_SECRET", "hush")
    monkeypatch.setenv("KRUXIAFLOW_API_URL", "http://127.0.0.1:9")
    engine.replies[FLOW] = Reply(401, "")
    code, out, _ = explain("w-1", url="")
    assert code == 0
    assert "the engine did not tell: GET /api/v1/workflows/w-1: status 401" in out
    assert "failed: X: no such size" in out
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
    assert "failed: EXECUTION_ERROR: ValueError: [bold]" in shown
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_errors_show_what_is_not_printable(explain: Explain, a_host: ScriptedServer) -> None:
    """Ids are pasted from anywhere, and keys come from the engine and from hosts."""
    key = "add\x1b[31m"
    known = host(
        events=[{"at": 1.5, "event": "lost", "activity_id": "a", "key": key, "name": "n", "seen": 1}]
    )
    path = "/api/explain?id=w-1&first=%1B%5D0%3Bx%07"
    a_host.replies[path] = Reply(200, msgspec.to_builtins(known))
    code, _, err = explain("w-1", "--activity", "\x1b]0;x\x07")
    assert (code, "\x1b" in err, "\x07" in err) == (2, False, False)
    assert "add\\x1b[31m" in err


@pytest.mark.parametrize(
    "written", ["01A22451-BCF1-7582-A741-B60BF28B59F5", "01a22451bcf17582a741b60bf28b59f5", f" {UUID}\n"]
)
def test_an_id_is_known_however_it_is_written(explain: Explain, a_host: ScriptedServer, written: str) -> None:
    """The engine reads each form as the same id; hosts compare strings."""
    explain(written)
    assert [request.path for request in a_host.seen] == [f"/api/explain?id={UUID}"]


def test_the_host_gets_the_activity_that_must_not_be_left_out(
    explain: Explain, a_host: ScriptedServer
) -> None:
    explain("w-1", "--activity", "add &id=x")
    assert [request.path for request in a_host.seen] == ["/api/explain?id=w-1&first=add%20%26id%3Dx"]


def test_an_empty_id_is_a_usage_error(explain: Explain) -> None:
    code, out, err = explain("")
    assert (code, out) == (2, "")
    assert "WORKFLOW_ID is empty" in err


def test_an_attempt_with_a_truncated_key_is_not_shown_as_the_workflow() -> None:
    """A record truncates a long name or key."""
    event = {
        "source": "host", "pid": 1, "at": 1.5, "event": "claimed", "key": "", "process": 0, "seen": 1,
        "name": "resize", "activity_id": "a-1",
    }  # fmt: skip
    whole = event | {"source": "engine", "event": "created", "name": None}
    document: dict[str, Any] = {
        "workflow_id": "w", "status": None, "definition": None, "engine": {"url": "u", "error": None},
        "hosts": [], "events": [event, whole], "next": "x", "left_out": 0,
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=120)
    console.print(*render(document), sep="\n")
    lines = console.file.getvalue().splitlines()
    assert "process 0 resize   claimed" in lines[2]
    assert "engine    workflow created" in lines[3]
