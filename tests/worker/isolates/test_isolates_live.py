"""Real isolates, forked by a program beside the tests: whatever happens in one, only its activity fails (A17, A18)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from files_kit import engine_here
from hypothesis import given, settings
from hypothesis import strategies as st
from isolate_kit import CEILING_S, running_forker, workplace
from runner_kit import CancelReason, Phase
from scripted_engine import Play, envelope, scripted_engine

from flowherd.activities_and_outcomes import Completed, Died
from flowherd.execution.activity_costs import ActivityProfile
from flowherd.execution.loop_meter import LoopMeter
from flowherd.execution.run_environment import RunEnvironment
from flowherd.files.attempt_files import FileAccess
from flowherd.files.memory_files import MemoryFiles
from flowherd.files.scratch_folders import Scratch
from flowherd.isolates.printed_output import LINE_S, MOST_LINES
from flowherd.ledger.activity_cost_table import Metric, Where
from flowherd.procfs import resident_bytes
from flowherd.testing import WORKFLOW_ID, make_activity

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.fork, pytest.mark.timeout(60)]

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def forker():
    """One for all tests of this file: it costs half a second."""
    with running_forker() as made:
        yield made


def output_of(outcome: Any) -> Any:
    assert isinstance(outcome, Completed), outcome
    return json.loads(outcome.output)


async def begun(place, caplog, count: int = 1) -> None:
    await place.until(lambda: sum(r.getMessage() == "begun" for r in caplog.records) >= count)


async def test_the_same_body_gives_the_same_output_on_the_loop_in_a_thread_and_in_an_isolate(forker):
    """Also what none of them can give: the failure is the same then. One warm isolate serves all examples."""
    loop = asyncio.get_running_loop()
    names = ["echo_async", "echo_thread", "echo_isolated", "echo_isolated_async"]
    async with workplace(forker, concurrency=1) as place:

        async def outcomes(value: Any) -> list[Any]:
            return [await place.outcome(name, {"value": value}) for name in names]

        @settings(max_examples=60)
        @given(JSON)
        def same(value: Any) -> None:
            first, *others = asyncio.run_coroutine_threadsafe(outcomes(value), loop).result(CEILING_S)
            assert others == [first] * 3
            if isinstance(first, Completed) and not isinstance(value, dict | None):
                assert output_of(first) == {"result": value}

        await loop.run_in_executor(None, same)
        assert len(place.pids) <= 2  # after 100 activities one is replaced


async def test_a_handler_sees_its_attempt_its_process_and_no_secret(forker):
    """S9: secrets of the client have no business where user code forks and prints."""
    secrets = {"KRUXIAFLOW_CLIENT_SECRET": "s3cret", "KRUXIAFLOW_CLIENT_SECRET_FILE": "/x"}
    async with workplace(forker, env=secrets) as place:
        seen = output_of(
            await place.outcome("whoami", key="k", settings={"a": [1]}, signal_data="go", timeout_s=9.0)
        )
        assert seen["pid"] == place.pids[1] != os.getpid()
        assert seen["state"] == {"made_by": seen["pid"]}
        assert seen["environment"] == {"FLOWHERD_PROCESS_INDEX": "3", "FLOWHERD_PROCESSES": "4"}
        assert (seen["process"], seen["key"], seen["settings"]) == (3, "k", {"a": [1]})
        assert (seen["signal"], seen["limit_s"], seen["secrets"]) == ("go", 9.0, [])


async def test_what_an_attempt_takes_of_its_isolate_is_measured(forker):
    """`advise` is about isolates too; the worker's loop, which waits for them, has a handler meanwhile."""
    measure = ActivityProfile(Where.PROCESS)
    meter = LoopMeter(measures={"compute_for": measure})
    async with workplace(forker, RunEnvironment(meter=meter)) as place:
        run = place.start("compute_for", {"cpu_s": 0.1})
        assert not meter.stepping.is_set(), "it waits for its isolate"
        while not run.attempt.is_busy:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.01)
        assert meter.stepping.is_set()
        await asyncio.wait_for(run.ended(), CEILING_S)
    assert not meter.stepping.is_set()
    assert measure[Metric.ATTEMPTS] == measure[Metric.SAMPLES] == measure[Metric.ALONE] == 1
    assert 0.1 <= measure[Metric.CPU_S] < 0.2
    assert measure[Metric.WALL_S] >= 0.2
    assert measure[Metric.WAIT_S] >= 0.1


async def test_an_idle_isolate_keeps_nothing_of_its_last_activity(forker):
    """The next one may have `max_memory_mb`."""
    async with workplace(forker, concurrency=1) as place:
        assert output_of(await place.outcome("echo_isolated", {"value": 1})) == {"result": 1}
        before = resident_bytes(place.pids[1])
        await place.outcome("echo_isolated", {"value": "x" * 40_000_000})
        await place.until(lambda: "1 idle" in repr(place.isolates))
        await place.until(lambda: resident_bytes(place.pids[1]) < before + 20_000_000)


async def test_money_logs_and_lines_come_out_here(forker, caplog):
    caplog.set_level("INFO")
    async with workplace(forker) as place:
        outcome = await place.outcome("spend")
        assert outcome.cost_usd == "1.25"
        assert [(usage.model, usage.input_tokens, usage.output_tokens) for usage in outcome.usage] == [
            ("m", 3, 0),
            ("n", 0, 2),
        ]
        outcome = await place.outcome("spend", {"then": "raise"})
        assert (outcome.code, outcome.message, outcome.retryable) == ("BROKE", "no more", False)
        assert outcome.cost_usd == "0.25"
        run = place.start("speak", key="aisle")
        await asyncio.wait_for(run.ended(), CEILING_S)
        await place.until(lambda: "1 idle" in repr(place.isolates))
        place.log.catch_up()
    about = [record for record in caplog.records if getattr(record, "activity_key", "") == "aisle"]
    assert {record.activity_id for record in about} == {run.activity.activity_id}
    assert [record.line for record in about if record.getMessage() == "activity_stdout"] == [
        "to stdout",
        "half a line",
    ]
    assert [record.line for record in about if record.getMessage() == "activity_stderr"] == ["to stderr"]
    (logged,) = [record for record in about if record.name == "flowherd.activity"]
    assert (logged.getMessage(), logged.levelname) == ("logged 7", "WARNING")
    assert (logged.shelf, logged.odd) == ("B", "<class 'set'>")


DEATHS = (
    ("end", {"how": "segv"}, "its isolate was killed by SIGSEGV"),
    ("end", {"how": "kill"}, "its isolate was killed by SIGKILL"),
    ("end", {"how": "exit"}, "its isolate exited with code 3"),
    ("end", {"how": "hang up"}, "its isolate was stopped by flowherd: it had closed its channel"),
    (
        "garbage",
        {"data": list(b"[2000000000,0]")},
        "its isolate was stopped by flowherd: it announced 2000000000 bytes",
    ),
    (
        "garbage",
        {"data": list(b"{}")},
        "its isolate was stopped by flowherd: Object missing required field",
    ),
    ("spend", {"then": "die"}, "its isolate was killed by SIGKILL"),
)


async def test_a17_an_isolate_that_ends_fails_its_activity_alone_with_the_cause(forker, caplog):
    """One neighbour lives through all of it."""
    async with workplace(forker) as place:
        neighbour = place.start("drained")
        await begun(place, caplog)
        for name, parameters, words in DEATHS:
            run = place.start(name, parameters)
            await asyncio.wait_for(run.ended(), CEILING_S)
            death = await run.outcome()
            assert isinstance(death, Died), (name, parameters)
            assert words in death.how
            assert run.spent[0] == ("0.25" if name == "spend" else None)
            assert neighbour.phase is Phase.RUNNING
        place.isolates.send_draining()
        await asyncio.wait_for(neighbour.ended(), CEILING_S)
        assert output_of(await neighbour.outcome()) == {"before": False, "told": True}
        assert output_of(await place.outcome("echo_isolated", {"value": 1})) == {"result": 1}


async def test_a_limit_reaches_the_handler_as_a_cancellation(forker, tmp_path, caplog):
    """It may clean up; its isolate is replaced afterwards."""
    cases = (("wait_async", "True timeout"), ("wait_sync", "CancelledError timeout"))
    async with workplace(forker, concurrency=1) as place:
        for number, (name, seen) in enumerate(cases, 1):
            mark = tmp_path / name
            run = place.start(name, {"mark": str(mark)})
            await begun(place, caplog, number)
            run.cancel(CancelReason.TIMEOUT)
            await asyncio.wait_for(run.ended(), CEILING_S)
            assert (await run.outcome()).code == "TIMEOUT"
            assert mark.read_text() == seen
        await place.outcome("whoami")
        assert len(place.pids) == 3


async def test_a_lost_lease_is_lost_at_once_and_the_handler_knows(forker, tmp_path, caplog):
    mark = tmp_path / "mark"
    async with workplace(forker) as place:
        run = place.start("wait_sync", {"mark": str(mark)})
        await begun(place, caplog)
        run.cancel(CancelReason.LEASE_LOST)
        assert type(run.known_outcome).__name__ == "Lost"
        await asyncio.wait_for(run.ended(), CEILING_S)
        assert mark.read_text() == "LeaseLost lease_lost"


async def test_a17_a_handler_that_ignores_its_stop_is_killed_after_its_grace_and_frees_its_slot(
    forker, caplog
):
    """One swallows its cancellation, the other is stopped by SIGSTOP."""
    async with workplace(forker, cancel_grace_s=0.2, concurrency=1) as place:
        run = place.start("wait_sync", {"stubborn": 1})
        await begun(place, caplog)
        await killed(place, run)
        run = place.start("end", {"how": "stop"})
        await place.until(lambda: len(place.pids) == 2 and process_state(place.pids[2]) == "T")
        await killed(place, run)
        assert output_of(await place.outcome("echo_isolated", {"value": 2})) == {"result": 2}


async def killed(place, run) -> None:
    """Cancels it, and waits until it is gone."""
    run.cancel(CancelReason.TIMEOUT)
    assert (await asyncio.wait_for(run.outcome(), CEILING_S)).code == "TIMEOUT"
    await asyncio.wait_for(run.ended(), CEILING_S)
    assert os.WTERMSIG(place.statuses[len(place.pids)]) == signal.SIGKILL


def process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def test_a_computing_def_is_interrupted_where_it_stands(forker, caplog):
    """A thread would go on; here the slot is free at once."""
    async with workplace(forker) as place:
        run = place.start("compute")
        await begun(place, caplog)
        run.cancel(CancelReason.TIMEOUT)
        await place.until(lambda: place.statuses)
        assert list(place.statuses.values()) == [0]  # it ended by itself, after it was interrupted
        assert (await run.outcome()).code == "TIMEOUT"


async def test_a21_a22_an_isolate_whose_loop_is_stopped_or_whose_tasks_are_cancelled_goes_on(forker):
    """Also its app's lifespan, and the isolate is used again."""
    async with workplace(forker, concurrency=1) as place:
        for how in ("stop", "cancel"):
            assert output_of(await place.outcome("interfere", {"how": how})) == {"result": "still here"}
        assert output_of(await place.outcome("stop_a_loop_that_does_not_run")) == {"result": "still here"}
        await place.outcome("whoami")
        assert list(place.pids) == [1]


async def test_n4_a_stop_reaches_a_handler_whose_thread_has_not_yet_run_after_a_freeze(forker, tmp_path):
    """N4: the kernel then gives a signal for the process to another thread, and the handler's sleeps on."""
    mark = tmp_path / "mark"
    async with workplace(forker) as place:
        run = place.start("sleep_beside_a_program", {"mark": str(mark)})
        await place.until(lambda: mark.exists() and mark.read_text())
        isolate, program = place.pids[1], int(mark.read_text())
        with computing_on_the_cpu_of(isolate):
            os.kill(isolate, signal.SIGSTOP)
            run.cancel(CancelReason.TIMEOUT)
            while process_state(program) != "Z":  # until `Stop` has been received
                os.kill(isolate, signal.SIGCONT)
                os.kill(isolate, signal.SIGSTOP)
        os.kill(isolate, signal.SIGCONT)
        await asyncio.wait_for(run.ended(), CEILING_S)
        await place.until(lambda: place.statuses)
        assert list(place.statuses.values()) == [0], "it was not killed"


@pytest.mark.parametrize("name", ["wait_sync", "wait_async"])
async def test_n4_a_stop_that_is_read_together_with_its_activity_ends_it(forker, name):
    """N4: both arrive while the isolate is frozen; the handler has not begun when it is stopped."""
    async with workplace(forker, concurrency=1) as place:
        await place.outcome("whoami")
        await place.until(lambda: "1 idle" in repr(place.isolates))
        os.kill(place.pids[1], signal.SIGSTOP)
        await place.until(lambda: process_state(place.pids[1]) == "T")
        run = place.start(name)
        await place.until(lambda: run.phase is Phase.RUNNING)
        run.cancel(CancelReason.TIMEOUT)
        os.kill(place.pids[1], signal.SIGCONT)
        await asyncio.wait_for(run.ended(), CEILING_S)
        await place.until(lambda: place.statuses)
        assert list(place.statuses.values()) == [0], "it was not killed"


@contextlib.contextmanager
def computing_on_the_cpu_of(pid: int) -> Iterator[None]:
    """A program that leaves next to nothing of its CPU to the main thread of another one."""
    cpus = os.sched_getaffinity(0)
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=-1
    ) as program:
        os.sched_setaffinity(program.pid, {max(cpus)})
        assert program.stdout is not None
        program.stdout.readline()
        os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        os.sched_setaffinity(pid, {max(cpus)})
        yield
        program.kill()


async def test_a17_a_flood_of_lines_neither_blocks_the_loop_nor_grows(forker, caplog):
    """It waits for its share; others are hardly affected."""
    caplog.set_level("INFO")
    async with workplace(forker) as place:
        loop = asyncio.get_running_loop()
        since, turns = loop.time(), 0
        run = place.start("flood", {"lines": 10**9}, timeout_s=1.0)
        while not run.has_ended:
            await asyncio.sleep(0.01)
            turns += 1
        lines = sum(record.getMessage() == "activity_stdout" for record in caplog.records)
        shares = (loop.time() - since) / (MOST_LINES * LINE_S)
        assert MOST_LINES <= lines <= MOST_LINES * (shares + 3)
        assert turns >= 10  # of a hundred: the loop was shared


async def test_a18_outputs_up_to_the_limit_come_whole_and_larger_ones_are_refused(forker):
    async with workplace(forker, concurrency=1) as place:
        for size in (100, 70_000, 5_000_000):
            outcome = await place.outcome("large", {"size": size})
            assert len(outcome.output) == size + len('{"text":""}')
        failure = await place.outcome("large", {"size": 60_000_000})
        assert (failure.code, failure.retryable) == ("INVALID_OUTPUT", False)
        assert len(place.pids) == 1


async def test_a_large_parameter_arrives_whole(forker):
    async with workplace(forker) as place:
        assert output_of(await place.outcome("length", {"text": "é" * 5_000_000})) == {"result": 5_000_000}


async def test_parameters_that_cannot_be_read_fail_alone(forker):
    async with workplace(forker) as place:
        failure = await place.outcome("echo_isolated", msgspec.Raw(b'{"value": "\\ud800"}'))
        assert (failure.code, failure.retryable) == ("INVALID_ACTIVITY", False)
        assert output_of(await place.outcome("nested_loop")) == {"result": 5}


async def test_more_memory_than_allowed_is_the_end_of_it(forker, caplog):
    """In a fresh isolate that is the activity's own; in a used one it may be what others have left."""
    async with workplace(forker, concurrency=1) as place:
        failure = await place.outcome("hoard", {"mb": 600})
        assert (failure.code, failure.retryable) == ("OUT_OF_MEMORY", False)
        assert "more than max_memory_mb = 300" in failure.message
        [died] = [record for record in caplog.records if record.message == "isolate_died"]
        assert "MB in RAM, more than max_memory_mb = 300" in died.reason, "as its activity's failure says it"
        await place.outcome("whoami")
        failure = await place.outcome("hoard", {"mb": 600})
        assert (failure.code, failure.retryable) == ("OUT_OF_MEMORY", True)


async def test_an_isolate_transfers_files_itself_into_a_folder_that_the_worker_removes(forker, tmp_path):
    access = FileAccess(
        MemoryFiles, asyncio.new_event_loop, max_file_mb=1, scratch=Scratch(tmp_path / "files")
    )
    async with engine_here() as url, workplace(forker, RunEnvironment(files=access), url=url) as place:
        reference = await put_file(url, b"words")
        seen = output_of(await place.outcome("files", {"reference": reference}, key="me"))
        assert seen["text"] == "words"
        seen = output_of(await place.outcome("files_sync", {"reference": seen["reference"]}))
        assert seen["text"] == "WORDS"
        assert Path(seen["folder"]).is_relative_to(tmp_path)
        await place.until(lambda: not Path(seen["folder"]).exists())
        failure = await place.outcome("files", {"reference": f"{WORKFLOW_ID}/k/other"})
        assert (failure.code, failure.retryable) == ("FILE_NOT_FOUND", False)
        for before in (None, {"step": 1}):
            seen = output_of(await place.outcome("remember", number=77))
            assert seen == {"before": before, "after": {"step": 2 if before else 1}}
        run = place.start("files_and_die", {"reference": reference})
        await asyncio.wait_for(run.ended(), CEILING_S)
        assert isinstance(await run.outcome(), Died)
        await place.until(lambda: not any("n" in files for _, _, files in os.walk(tmp_path)))
    await access.aclose()
    assert list(tmp_path.iterdir()) == []


async def put_file(url: str, content: bytes) -> str:
    reference = f"postgres://{WORKFLOW_ID}/k/n"
    async with httpx.AsyncClient(base_url=url) as http:
        path = f"/api/v1/workflows/{WORKFLOW_ID}/activities/k/files/n"
        (await http.post(path, content=content)).raise_for_status()
    return reference


async def test_a_stopped_handler_waits_for_no_transfer_whichever_of_its_threads_has_begun_it(
    forker, tmp_path
):
    """`Stop` ends transfers, too: the engine has nothing to send, and would have kept the handler."""
    access = FileAccess(
        MemoryFiles, asyncio.new_event_loop, max_file_mb=1, scratch=Scratch(tmp_path / "files")
    )
    async with (
        scripted_engine() as engine,
        workplace(forker, RunEnvironment(files=access), url=engine.url) as place,
    ):
        engine.always("n", Play(hold=asyncio.Event()))
        mark = tmp_path / "mark"
        run = place.start("files_in_thread", {"reference": f"{WORKFLOW_ID}/k/n", "mark": str(mark)})
        await engine.asked("n")
        run.cancel(CancelReason.TIMEOUT)
        await asyncio.wait_for(run.ended(), CEILING_S)
        assert mark.read_text() == "CancelledError timeout"
        assert list(place.statuses.values()) in ([], [0]), "it was not killed"
    await access.aclose()


async def test_streams_of_text_go_to_the_engine_and_are_masked(forker):
    """Two in one attempt; what has been put before the end comes before it."""
    async with scripted_engine() as engine:
        engine.always("token", Play(200, {"subscribers": 1}))
        environment = RunEnvironment(secrets=("s3cret",))
        async with workplace(
            forker, environment, url=engine.url, client_secret="s3cret", client_id="me"
        ) as place:
            place.ledger.publish_token("bearer-of-the-host")
            failure = await place.outcome("stream", {"fail": 1})
            await engine.asked("complete")
            await engine.asked("error")
    assert failure.message == "***"
    path = f"/api/v1/activities/{make_activity('x').activity_id}/ws/"
    assert {request.path.removesuffix(request.route) for request in engine.requests} == {path}
    assert {request.headers["authorization"] for request in engine.requests} == {"Bearer bearer-of-the-host"}
    text = "".join(request.json["text"] for request in engine.of("token"))
    assert sorted(text) == sorted("one " + "x" * 9000 + "two")
    assert [request.json for request in engine.of("error")] == [{"error": "***"}]


async def test_a_refused_token_is_asked_for_by_the_worker_and_the_call_is_repeated(forker, tmp_path):
    """The token cell is the worker's: an isolate says which version was refused."""
    versions: list[int] = []
    access = FileAccess(
        MemoryFiles, asyncio.new_event_loop, max_file_mb=1, scratch=Scratch(tmp_path / "files")
    )
    async with scripted_engine() as engine:
        engine.script("n", envelope(401, "UNAUTHORIZED", "Unauthorized: Invalid token"), Play(200, b"words"))
        settings = {"url": engine.url, "client_id": "me", "client_secret": "s3cret"}
        async with workplace(
            forker, RunEnvironment(files=access), token_refused=versions.append, **settings
        ) as place:
            old = place.ledger.publish_token("old")
            run = place.start("files_sync", {"reference": f"{WORKFLOW_ID}/k/n"})
            await place.until(lambda: versions)
            place.ledger.publish_token("new")
            assert output_of(await asyncio.wait_for(run.outcome(), CEILING_S))["text"] == "words"
            await asyncio.wait_for(run.ended(), CEILING_S)
    assert versions == [old]
    assert [request.headers["authorization"] for request in engine.of("n")] == ["Bearer old", "Bearer new"]
    await access.aclose()


async def test_a_handler_may_print_in_an_encoding_of_its_own(forker, caplog):
    """Also where the host's output goes to a file, in which a stream has a place; a pipe has none."""
    caplog.set_level("INFO")
    async with workplace(forker) as place:
        assert output_of(await place.outcome("print_in", {"encoding": "latin-1"})) == {}
        lines = lambda: [r.line for r in caplog.records if hasattr(r, "line")]  # noqa: E731
        await place.until(lines)
        assert lines() == ["\N{REPLACEMENT CHARACTER}"], "the log is in UTF-8"


async def test_the_end_of_a_program_and_a_thaw_interrupt_no_handler(forker):
    """The supervisor hears of both by signals, and its children must not: a call of a library would be cut short."""
    async with workplace(forker) as place:
        assert output_of(await place.outcome("default_signals")) == {"result": [True, True]}


async def test_a_client_is_made_at_first_use(forker):
    """An isolate that only computes needs none."""
    async with workplace(forker) as place:
        threads = output_of(await place.outcome("threads"))
        assert threads == {"result": ["MainThread", "worker"]}


async def test_the_end_of_the_worker_ends_isolates_and_lets_idle_ones_clean_up(forker, tmp_path):
    """A busy one ends where it stands."""
    mark = tmp_path / "mark"
    async with workplace(forker, env={"LIFESPAN_MARK": str(mark)}) as place:
        run = place.start("compute")
        await place.outcome("whoami")
        await place.until(lambda: len(place.pids) == 2 and run.phase is Phase.RUNNING)
        place.isolates.close()
        await place.until(lambda: len(place.statuses) == 2)
        assert mark.read_text() == "left"
