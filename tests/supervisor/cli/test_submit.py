"""`flowherd submit` against a scripted engine: requests, output and errors."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from explain_kit import host as knowing
from harness import CEILING_S, eventually
from scripted_http import Reply, ScriptedServer, scripted_server

from flowherd_supervisor.cli.ask_local_hosts import Served, not_taken
from flowherd_supervisor.cli.main import main
from flowherd_supervisor.cli.submit_progress import SubmitProgress
from flowherd_supervisor.testkit import workflow_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from flowherd_supervisor.cli.explain_next import Explained

    Submit = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("folder")
DEPLOY, START, LOOK = "/api/v1/workflow_definitions", "/api/v1/workflows", "/api/v1/workflows/w-1"
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def engine() -> Iterator[ScriptedServer]:
    """An engine that accepts everything and completes it with one output."""
    with scripted_server() as server:
        server.replies[DEPLOY] = Reply(201, {"name": "flowherd-add", "version": "7"})
        server.replies[START] = Reply(201, {"workflow_id": "w-1", "status": "created"})
        server.replies[LOOK] = ended(step("add", sum=3))
        yield server


@pytest.fixture
def submit(engine: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> Submit:
    """Calls `flowherd submit`; returns its exit code, stdout and stderr."""

    def call(*words: str, url: str = engine.url) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(["submit", *words, "--api-url", url])
        return int(left.value.code or 0), *capsys.readouterr()

    return call


def step(key: str, error: str | None = None, **outputs: Any) -> dict[str, Any]:
    """Builds a step of the status document (protocol.md §13)."""
    listed = [{"name": name, "type": "value", "value": value} for name, value in outputs.items()]
    return {"activity_key": key, "status": "completed", "outputs": None if error else listed, "error": error}


def ended(*steps: dict[str, Any], status: str = "completed") -> Reply:
    """Builds the status document of a workflow."""
    said = "One or more activities failed" if status == "failed" else None
    return Reply(200, {"id": "w-1", "status": status, "activities": list(steps), "error_message": said})


def sent(engine: ScriptedServer, path: str) -> list[Any]:
    """Returns the bodies sent to a path."""
    return [json.loads(request.body) for request in engine.seen if request.path == path]


def test_an_activity_is_deployed_as_one_step_and_its_output_printed(
    engine: ScriptedServer, submit: Submit
) -> None:
    """The deployment's own version is submitted, never the newest (protocol.md §11.1); the output names it."""
    code, out, err = submit("add", "-P", "a=1", "-P", "b=two words", "--worker", "math")
    assert (code, out, err) == (0, "flowherd-add w-1: completed\n  sum: 3\n", "")
    [definition] = sent(engine, DEPLOY)
    assert definition["name"] == "flowherd-add"
    assert definition["activities"] == [
        {
            "key": "add",
            "worker": "math",
            "activity_name": "add",
            "parameters": {"a": "{{INPUT.a}}", "b": "{{INPUT.b}}"},
        }
    ]
    [started] = sent(engine, START)
    assert started == {"definition_name": "flowherd-add", "version": "7", "input": {"a": 1, "b": "two words"}}


def test_several_names_are_several_workflows(engine: ScriptedServer, submit: Submit) -> None:
    """Each with the same inputs; all are queued before the first is waited for."""
    code, out, _ = submit("add", "pkg.mul/x", "--json")
    assert code == 0
    assert len(out.splitlines()) == 2
    keys = [definition["activities"][0]["key"] for definition in sent(engine, DEPLOY)]
    names = [definition["activities"][0]["activity_name"] for definition in sent(engine, DEPLOY)]
    assert (keys, names) == (["add", "pkg_mul_x"], ["add", "pkg.mul/x"])
    assert [request.path for request in engine.seen[:4]] == [DEPLOY, START, DEPLOY, START]


def test_json_is_one_line_for_each(submit: Submit) -> None:
    """Scripts read it line by line."""
    code, out, err = submit("add", "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert json.loads(out) == {
        "id": "w-1", "status": "completed", "output": {"sum": 3}, "error": None, "code": None, "attempts": None,
    }  # fmt: skip


def test_a_failure_is_exit_1_and_says_what_failed(engine: ScriptedServer, submit: Submit) -> None:
    """The engine's own message says only that something failed."""
    engine.replies[LOOK] = ended(step("add", error="a: Field required"), status="failed")
    code, out, _ = submit("add")
    assert (code, out) == (1, "flowherd-add w-1: failed\n  add: a: Field required\n")
    code, out, _ = submit("add", "--json")
    assert (code, json.loads(out)["error"], json.loads(out)["code"]) == (1, "a: Field required", None)


def test_what_the_engine_says_of_code_and_attempts_is_said(engine: ScriptedServer, submit: Submit) -> None:
    """protocol.md §7: only for a lapsed lease; a worker's code is in none of the engine's documents."""
    text = "Activity timed out after 3 retries (max_retries=3)"
    engine.replies[LOOK] = ended(step("add", error=text), status="failed")
    code, out, _ = submit("add")
    assert (code, out) == (1, f"flowherd-add w-1: failed\n  add: ACTIVITY_TIMEOUT: {text}\n")
    _, out, _ = submit("add", "--json")
    assert (json.loads(out)["code"], json.loads(out)["attempts"]) == ("ACTIVITY_TIMEOUT", 4)


def test_a_definition_goes_as_it_is_and_its_outputs_come_by_step(
    engine: ScriptedServer, submit: Submit, folder: Path
) -> None:
    """YAML or JSON: the engine parses it."""
    text = b"name: two\nactivities:\n- {key: a, worker: w, activity_name: x}\n"
    (folder / "two.yaml").write_bytes(text)
    engine.replies[DEPLOY] = Reply(201, {"name": "two", "version": 1})
    engine.replies[LOOK] = ended(
        step("a", x=1), step("b", error="no"), step("c", error="nor"), status="failed"
    )
    code, out, _ = submit("--definition", "two.yaml", "--input", '{"n": 1}')
    assert (code, out) == (1, 'two w-1: failed\n  b: no\n  c: nor\n  a: {"x":1}\n')
    assert engine.seen[0].body == text
    _, out, _ = submit("--definition", "two.yaml", "--json")
    assert json.loads(out)["output"] == {"a": {"x": 1}}


def test_no_wait_only_queues(engine: ScriptedServer, submit: Submit) -> None:
    """Exit 0 as soon as the engine has accepted it."""
    assert submit("add", "--no-wait") == (0, "flowherd-add w-1: created\n", "")
    code, out, _ = submit("add", "--no-wait", "--json")
    assert (code, json.loads(out)["status"], json.loads(out)["output"]) == (0, "created", None)
    assert LOOK not in {request.path for request in engine.seen}


def test_inputs_come_from_a_file_and_pairs_win(engine: ScriptedServer, submit: Submit, folder: Path) -> None:
    """`--input @file`."""
    (folder / "in.json").write_text('{"a": 1, "b": [1, {"c": null}]}')
    submit("add", "--input", "@in.json", "-P", "a=2")
    assert sent(engine, START)[0]["input"] == {"a": 2, "b": [1, {"c": None}]}


def test_it_waits_until_the_end_also_through_an_outage(engine: ScriptedServer, submit: Submit) -> None:
    """An engine that restarts is no failure of the workflow."""
    engine.replies[LOOK] = [ended(status="running"), Reply(503), Reply(502), ended(step("add", sum=3))]
    assert submit("add")[:2] == (0, "flowherd-add w-1: completed\n  sum: 3\n")


def test_an_outage_that_lasts_names_the_workflow_that_goes_on(
    engine: ScriptedServer, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost by giving up waiting."""
    monkeypatch.setattr(workflow_client, "PATIENCE_S", 0.0)
    engine.replies[LOOK] = [ended(status="running"), Reply(503, "down")]
    code, out, err = submit("add")
    assert (code, out) == (1, "")
    assert "status 503: down" in err
    assert "The workflow goes on: w-1" in err


def failed(seen: int, then: str, **words: str) -> list[dict[str, Any]]:
    """Builds the events of a failed attempt, as a host returns them."""
    common = {"activity_id": "a-1", "key": "add", "name": "add", "process": 0, "seen": seen, "at": 1.0}
    return [{**common, "event": "begun"}, {**common, **words, "event": "failed"}, {**common, "event": then}]


def test_a_wait_prints_each_failed_attempt_once_with_the_time_of_the_next(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = {"code": "EXECUTION_ERROR", "type": "ValueError", "message": "no rate"}
    events = [*failed(1, "requeued", **words), *failed(2, "given_up", **words)]
    looked_at(host(), known=[knowing(app="shop:registry", events=events)])
    attempt, of = "add: attempt", " on shop:registry, pid 7: EXECUTION_ERROR: ValueError: no rate"
    lines = [line.partition("w-1: ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines[1:] == [
        f"{attempt} 1{of}; the engine tries again in 2 s, unless the definition says otherwise",
        f"{attempt} 2{of}, and not again",
    ]


STARTED = workflow_client.Started("w-1", "created", "flowherd-add")
URL = "http://127.0.0.1:8080"


def host(polled_s_ago: float | None = 0.1, free_slots: int = 4, **more: Any) -> Served:
    """Builds a host on this machine, as it describes itself."""
    known = {"pid": 7, "app": "shop:registry", "engine": URL, "worker": "math", "activities": {}} | more
    return Served(polled_s_ago=polled_s_ago, free_slots=free_slots, **known)


def looked_at(
    *hosts: Served, after: Sequence[float] = (1, 6, 7, 12), known: Sequence[Explained] = ()
) -> SubmitProgress:
    """Waits for one pending step with these hosts and their knowledge of its workflow; returns stderr."""
    waiting = SubmitProgress(STARTED, URL, {"add": "math"}, lambda: hosts, lambda _: known)
    step = msgspec.convert({"activity_key": "add", "status": "pending"}, workflow_client.Step)
    for waited_s in after:
        waiting.look(workflow_client.Workflow("running", [step]), waited_s)
    return waiting


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ([host()], ""),
        ([host(12.0), host()], ""),
        ([host(12.0)], "no worker of type 'math' on this machine has polled for 12 s"),
        ([host(None)], "no worker of type 'math' on this machine has polled yet"),
        ([host(12.0, free_slots=0)], "all slots of shop:registry, pid 7 are in use"),
        (
            [],
            f"no host of worker type 'math' for {URL} runs on this machine; if none runs elsewhere: flowherd run APP",
        ),
        (
            [host(worker="py-std")],
            f"no host of worker type 'math' for {URL} runs on this machine (the hosts here poll py-std); if none runs",
        ),
        ([host(engine="http://localhost:8080")], ""),
        ([host(engine="http://127.0.0.1:9")], "no host of worker type 'math'"),
    ],
)
def test_a_wait_reports_missing_pollers_only_if_they_are_missing(
    hosts: list[Served], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, from the hosts on this machine, since the engine does not report polls."""
    looked_at(*hosts)
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == "flowherd: flowherd-add w-1: running after 6 s: add pending"
    assert len(rest) == bool(said)
    assert said in "".join(rest)


def test_a_definition_is_compared_with_the_hosts_of_its_engine(
    engine: ScriptedServer, submit: Submit, a_host: Callable[..., None], folder: Path
) -> None:
    """Warnings go to stderr, before the output; the definition is deployed all the same."""
    text = "name: two\nactivities:\n- {key: a, worker: math, activity_name: gret, dependz_on: [b]}\n"
    (folder / "two.yaml").write_text(text)
    a_host(activities={"greet": ["name"]})
    code, out, err = submit("--definition", "two.yaml", "-P", "nmae=1")
    assert (code, out.splitlines()[0]) == (0, "flowherd-add w-1: completed")
    first, second, third = err.splitlines()
    assert first == (
        "flowherd: warning: step a: unknown key 'dependz_on': did you mean 'depends_on'? Engines ignore unknown keys"
    )
    assert second.startswith(
        "flowherd: warning: step a: no host on this machine has an activity 'gret': did you"
    )
    assert third == "flowherd: warning: the definition does not use the input nmae"
    a_host(engine=NOBODY, activities={"greet": ["name"]})
    assert len(submit("--definition", "two.yaml")[2].splitlines()) == 1, (
        "hosts of another engine do not count"
    )


@pytest.fixture
def a_host(
    engine: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., None]]:
    """A host on this machine; a call says what it has, by default for the engine of the test."""
    runtime = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    (runtime / "flowherd").mkdir(mode=0o700)
    with scripted_server(path=runtime / "flowherd" / "7.sock") as server:

        def has(**more: Any) -> None:
            here = host(**{"engine": engine.url, **more})
            server.replies["/api/activities"] = Reply(200, msgspec.to_builtins(here))

        yield has


def test_nothing_is_printed_about_a_short_wait(capsys: pytest.CaptureFixture[str]) -> None:
    """Most workflows end sooner."""
    looked_at(after=(0.1, 4.9))
    assert capsys.readouterr().err == ""


def test_a_changed_status_and_the_last_error_of_a_step_are_printed_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only what the engine returns, which does not include attempts that are retried."""
    waiting = looked_at(host(), after=(6, 7))
    step = msgspec.convert({"activity_key": "add", "status": "failed", "error": "no"}, workflow_client.Step)
    for waited_s in (8, 9):
        waiting.look(workflow_client.Workflow("running", [step]), waited_s)
    assert [line.partition("w-1: ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "running after 6 s: add pending", "running after 8 s: add failed", "add: no",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("takes", "given", "said"),
    [
        (
            [{"add": ["a", "b", "model_pricing"]}],
            ["a", "bb"],
            "add takes no parameter 'bb': did you mean 'b'? it takes a, b (shop:",
        ),
        (
            [{"add": ["model_pricing"]}],
            ["a"],
            "add takes no parameter 'a': it takes none (shop:registry, pid 7)",
        ),
        ([{"add": ["a", "b"]}], ["a", "b"], ""),
        ([{"add": None}], ["x"], ""),
        ([{"mul": ["a"]}], ["x"], ""),
        ([{"add": ["a"]}, {"add": ["x"]}], ["x"], ""),
    ],
)
def test_a_parameter_that_no_host_takes_is_named(takes: list[Any], given: list[str], said: str) -> None:
    """One that takes it is enough: during a deployment two versions run."""
    found = not_taken("add", given, [host(activities=one) for one in takes])
    assert found.startswith(said)
    assert bool(found) is bool(said)


def test_a_misspelt_activity_is_named_at_once_with_those_that_there_are(
    submit: Submit, a_host: Callable[..., None]
) -> None:
    """It would fail after four attempts; another machine may have it, so it is no error."""
    a_host(activities={"greet": ["name"], "count": None})
    code, out, err = submit("gret", "--worker", "math")
    assert (code, out.splitlines()[0]) == (0, "flowherd-add w-1: completed")
    assert err == (
        "flowherd: warning: no host on this machine has an activity 'gret': did you mean 'greet'? "
        "Known: count, greet (shop:registry, pid 7). Unless a host elsewhere takes it, its attempts fail as "
        "UNKNOWN_ACTIVITY\n"
    )
    assert "has an activity 'x'. Known: count, greet" in submit("x", "--worker", "math")[2]
    assert submit("greet", "-P", "name=Ada", "--worker", "math")[2] == ""
    assert submit("gret", "--worker", "other")[2] == "", "no host here serves that worker type"


def test_ctrl_c_ends_the_wait_and_names_the_workflow_that_goes_on(engine: ScriptedServer) -> None:
    """Exit code 130, as in shells; a separate program, since shells let background programs ignore the signal."""
    engine.replies[LOOK] = ended(status="running")
    program_text = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from flowherd_supervisor.cli.main import main; main(sys.argv[1:])"
    )
    words = [sys.executable, "-c", program_text, "submit", "add", "--api-url", engine.url]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as program:
        eventually(lambda: LOOK in {request.path for request in engine.seen}, "a look at the workflow")
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=CEILING_S)
    assert (program.returncode, err) == (
        128 + signal.SIGINT, "flowherd: flowherd-add w-1: still runs: flowherd explain w-1\n",
    )  # fmt: skip


# Wrong arguments


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "say what to submit: flowherd submit NAME, or --definition FILE"),
        (["add", "-P", "a"], "-P a: expected key=value, such as -P count=3"),
        (["add", "-P", "=1"], "-P =1: expected key=value"),
        (["add", "-P", 'x={"a":'], """-P x={"a":: this is no JSON: """),
        (["add", "-P", 'x={"a":'], """; as text it is -P 'x="{\\"a\\":"'"""),
        (["add", "-P", "x=[draft] title"], "as text it is -P 'x=\"[draft] title\"'"),
        (["add", "--input", "[1]"], "--input: a JSON object"),
        (["add", "--input", "{"], "--input: a JSON object"),
        (["add", "--input", "@none.json"], "--input @none.json: No such file or directory"),
        (["add", "--input", "@bytes"], "--input @bytes: a JSON object"),
        (["--definition", "none.yaml"], "--definition none.yaml: No such file or directory"),
        (["--definition", "."], "--definition .: Is a directory"),
        (["add", "--definition", "bytes"], "submit add or --definition bytes, not both"),
        (["add", "--inptu", "{}"], "--input"),
    ],
)
def test_wrong_arguments_are_exit_2_and_name_the_place(
    engine: ScriptedServer, submit: Submit, folder: Path, words: list[str], said: str
) -> None:
    """Before anything is sent to the engine."""
    (folder / "bytes").write_bytes(b"\xff\xfe{")
    code, out, err = submit(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err
    assert not engine.seen


# Errors of the engine


def test_an_engine_that_does_not_answer_is_one_line_with_a_remedy(submit: Submit) -> None:
    """The first thing a new user meets."""
    code, out, err = submit("add", url=NOBODY)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"flowherd: {NOBODY}: ConnectError: ")
    assert "flowherd engine starts one" in err


@pytest.mark.parametrize(
    ("reply", "code", "said"),
    [
        (Reply(200, "<html>hello"), 1, "is --api-url right?"),
        (Reply(200, {"id": 1}), 1, "is --api-url right?"),
        (Reply(404), 1, "is --api-url right?"),
        (Reply(307, "", {"location": "https://elsewhere/"}), 1, "status 307: https://elsewhere/"),
        (Reply(401, {"error": {}}), 4, "check KRUXIAFLOW_CLIENT_ID and KRUXIAFLOW_CLIENT_SECRET"),
        (Reply(422, "activities[0].worker:\n  missing"), 1, "status 422: activities[0].worker: missing"),
        (Reply(500, "boom"), 1, "status 500: boom"),
    ],
)
def test_an_engine_that_refuses_is_one_line(
    engine: ScriptedServer, submit: Submit, reply: Reply, code: int, said: str
) -> None:
    """With the call, the status and the engine's text."""
    engine.replies[DEPLOY] = reply
    got, out, err = submit("add")
    assert (got, out, err.count("\n")) == (code, "", 1)
    assert f"flowherd: {engine.url}: POST {DEPLOY}: status {reply.status}" in err
    assert said in err


def test_credentials_are_one_token_for_all_calls(
    engine: ScriptedServer, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none at all without a client id."""
    submit("add")
    assert not any("authorization" in request.headers for request in engine.seen)
    engine.seen.clear()
    monkeypatch.setenv("KRUXIAFLOW_CLIENT_ID", "me")
    monkeypatch.setenv("KRUXIAFLOW_CLIENT_SECRET", "canary")
    engine.replies["/api/v1/oauth/token"] = Reply(200, {"access_token": "t", "expires_in": 60})
    assert submit("add")[0] == 0
    tokens = [request for request in engine.seen if request.path == "/api/v1/oauth/token"]
    others = [request for request in engine.seen if request.path != "/api/v1/oauth/token"]
    assert len(tokens) == 1
    assert {request.headers["authorization"] for request in others} == {"Bearer t"}
    engine.replies["/api/v1/oauth/token"] = Reply(401)
    code, _, err = submit("add")
    assert code == 4
    assert "KRUXIAFLOW_CLIENT_SECRET" in err
    assert "canary" not in err


def test_a_token_that_is_refused_is_fetched_again_once(
    engine: ScriptedServer, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workflow may take longer than a token lives; a second refusal is final."""
    monkeypatch.setenv("KRUXIAFLOW_CLIENT_ID", "me")
    monkeypatch.setenv("KRUXIAFLOW_CLIENT_SECRET", "canary")
    engine.replies["/api/v1/oauth/token"] = [Reply(200, {"access_token": token}) for token in "ab"]
    engine.replies[LOOK] = [ended(status="running"), Reply(401), ended(step("add", sum=3))]
    assert submit("add")[:2] == (0, "flowherd-add w-1: completed\n  sum: 3\n")
    looks = [request.headers["authorization"] for request in engine.seen if request.path == LOOK]
    assert looks == ["Bearer a", "Bearer a", "Bearer b"]
    engine.replies["/api/v1/oauth/token"] = Reply(200, {"access_token": "c"})
    engine.replies[LOOK] = [ended(status="running"), Reply(401)]
    assert submit("add")[0] == 4
