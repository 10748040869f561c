"""The log of a live host has the outcome of each activity, wherever it ran, and ids in each line."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from harness import clean_environment, eventually, running_host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness import Engine, Host

ONCE = {"retry": {"max_attempts": 1}}
APP = """
import logging, os, signal, sys

from flowherd import ActivityError, Registry, activity


def say(ctx):
    ctx.logger.info("said")
    logging.getLogger("theirs").info("said")
    print("said")


@activity(name="loop")
async def on_loop(ctx):
    say(ctx)


@activity(name="thread")
def in_thread(ctx):
    say(ctx)


@activity(name="process", offload="process")
def in_isolate(ctx):
    say(ctx)


@activity(name="breaks")
async def breaks():
    raise ValueError("no such order")


@activity(name="breaks_apart", offload="process")
def breaks_apart():
    raise ValueError("no such order")


@activity(name="refuses")
def refuses():
    raise ActivityError("card declined", code="CARD_DECLINED", retryable=False)


@activity(name="leaves")
def leaves():
    sys.exit(3)


@activity(name="slow", timeout_s=0.2)
async def slow():
    import asyncio

    await asyncio.sleep(60)


@activity(name="crashes")
def crashes():
    os.kill(os.getpid(), signal.SIGKILL)


@activity(name="crashes_apart", offload="process")
def crashes_apart():
    os.kill(os.getpid(), signal.SIGSEGV)


registry = Registry.of(
    [on_loop, in_thread, in_isolate, breaks, breaks_apart, refuses, leaves, slow, crashes, crashes_apart]
)
"""


@pytest.fixture
def host(engine: Engine, tmp_path: Path) -> Iterator[Host]:
    """A host with one process."""
    (tmp_path / "logged.py").write_text(APP)
    words = ("logged:registry", "-p", "1", "--log-activities")
    with running_host(tmp_path, *words, url=engine.url, app_dir=tmp_path) as started:
        started.ready(1)
        yield started


def about(host: Host, workflow: str, event: str) -> list[dict[str, Any]]:
    return [line for line in host.log(event) if line.get("workflow_id") == workflow]


def ids_of(line: dict[str, Any], name: str, workflow: str) -> None:
    assert (line["name"], line["workflow_id"], line["process"]) == (name, workflow, 0)
    assert line["seen"] == 1
    assert line["activity_id"]
    assert line["activity_key"]


def test_each_line_of_a_handler_and_its_end_name_the_workflow(host: Host, engine: Engine) -> None:
    """`submit` prints the workflow's id, by which an operator searches."""
    for where in ("loop", "thread", "process"):
        [workflow] = engine.submit(where)
        [done] = eventually(partial(about, host, workflow, "activity_completed"), "the line about its end")
        ids_of(done, where, workflow)
        assert (done["level"], done["took_s"] >= 0, done["waited_s"] >= 0) == ("info", True, True)
        eventually(lambda w=workflow: len(about(host, w, "said")) == 2, "its loggers' lines")
        [printed] = eventually(partial(about, host, workflow, "activity_stdout"), "what it has printed")
        assert printed["line"] == "said"
        for line in (*about(host, workflow, "said"), printed):
            ids_of(line, where, workflow)


FAILURES = {
    "breaks": ("ValueError", "EXECUTION_ERROR", "no such order"),
    "breaks_apart": ("ValueError", "EXECUTION_ERROR", "no such order"),
    "refuses": ("ActivityError", "CARD_DECLINED", "card declined"),
    "leaves": ("SystemExit", "EXECUTION_ERROR", "SystemExit: 3"),
    "slow": (None, "TIMEOUT", "the handler took longer than its limit of 0.2 s"),
    "crashes": (None, "WORKER_CRASHED", "was killed by SIGKILL"),
    "crashes_apart": (None, "WORKER_CRASHED", "its isolate was killed by SIGSEGV"),
    "braeks": (None, "UNKNOWN_ACTIVITY", "the activity is named 'braeks', did you mean 'breaks'"),
}


def test_whatever_fails_an_activity_is_one_line_of_one_kind(host: Host, engine: Engine) -> None:
    """Raised, refused, timed out, unknown or crashed: all failures have the same event name."""
    for name, (kind, code, words) in FAILURES.items():
        [workflow] = engine.submit(name, settings={"retry": {"max_attempts": 2, "base_seconds": 3600}})
        line, *others = eventually(
            partial(about, host, workflow, "activity_failed"), f"the line about {name}"
        )
        assert not others
        ids_of(line, name, workflow)
        assert (line.get("type"), line["code"]) == (kind, code)
        assert words in line["reason"]
        is_final = name == "refuses"
        assert (line["level"], line["retryable"]) == ("error" if is_final else "warning", not is_final)
        assert ("exception" in line) == (kind is not None), line
        if name in {"breaks", "breaks_apart", "refuses", "leaves", "slow"}:
            assert line["at"].endswith(f"in {name}")
            assert "logged.py:" in line["at"]


def test_the_last_attempt_is_an_error_where_only_the_engine_knows_that_it_is(
    host: Host, engine: Engine
) -> None:
    """Without a retry block the server's own setting says how many attempts there are."""
    [workflow] = engine.submit("crashes_apart", settings=ONCE)
    [line] = eventually(lambda: about(host, workflow, "activity_failed"), "the line about its failure")
    assert (line["level"], line["retryable"], line["attempts_left"]) == ("error", False, 0)


@pytest.mark.parametrize(
    ("words", "is_said"), [((), False), (("--log-activities",), True), (("--no-log-activities",), False)]
)
def test_completed_activities_are_logged_at_info_only_on_request(
    engine: Engine,
    tmp_path: Path,
    words: tuple[str, ...],
    is_said: bool,  # noqa: FBT001
) -> None:
    """A host of many small activities would fill its log."""
    (tmp_path / "logged.py").write_text(APP)
    with running_host(
        tmp_path, "logged:registry", "-p", "1", *words, url=engine.url, app_dir=tmp_path
    ) as host:
        host.ready(1)
        engine.submit("loop")
        engine.wait_for("complete", 1)
        host.wait_for_log("activity_stdout")
        host.stop()
        assert len(host.log("activity_completed")) == is_said


def test_one_process_without_a_supervisor_says_the_same(engine: Engine, tmp_path: Path) -> None:
    """`python -m flowherd`: the same settings, the same lines."""
    (tmp_path / "logged.py").write_text(APP.replace(', offload="process"', ""))
    words = ["logged:registry", "--app-dir", str(tmp_path), "--api-url", engine.url, "--log-activities"]
    log = tmp_path / "solo.log"
    with log.open("w") as stderr:
        program = subprocess.Popen(
            [sys.executable, "-m", "flowherd", *words, "--log-format", "json"],
            stderr=stderr,
            env=clean_environment(),
            cwd=tmp_path,
        )
        try:
            [workflow] = engine.submit("thread")
            engine.wait_for("complete", 1)
            eventually(lambda: "activity_completed" in log.read_text(), "the line about its end")
        finally:
            program.terminate()
            program.wait(20)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    about_it = [line for line in lines if line.get("workflow_id") == workflow]
    assert [line["event"] for line in about_it] == ["said", "said", "activity_stdout", "activity_completed"]
    for line in about_it:
        ids_of(line, "thread", workflow)
