"""The result of an attempt is the same wherever its handler runs: on the loop, in a thread, in an isolate."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
from files_kit import engine_here
from isolate_kit import CEILING_S, running_forker, workplace
from places_app import ASYNC_PLACES, CASES, SYNC_PLACES
from runner_kit import CancelReason, Phase
from scripted_engine import Play, scripted_engine
from structlog.testing import capture_logs

from flowherd.activities_and_outcomes import Completed, Failed
from flowherd.client.kruxia import connect
from flowherd.client.text_streams import EngineStreams
from flowherd.execution.run_environment import RunEnvironment
from flowherd.files.attempt_files import FileAccess
from flowherd.files.scratch_folders import Scratch
from flowherd.files.transfers import EngineFiles
from flowherd.settings.worker_config import WorkerConfig
from flowherd.stock_sdk.stock_files import SdkFiles
from flowherd.testing import WORKFLOW_ID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from isolate_kit import Fork, Workplace

pytestmark = [pytest.mark.fork, pytest.mark.timeout(120)]

APP = "places_app:registry"
KINDS = {"async": ASYNC_PLACES, "def": SYNC_PLACES}
SECRET = "s3cret-of-the-client"
NAMED = ("shelf", "rows", "activity_id", "workflow_id", "activity_key", "activity_name")


@pytest.fixture(scope="module")
def forker() -> Iterator[Fork]:
    """One for all tests of this file: it costs half a second."""
    with running_forker(APP) as made:
        yield made


class Spans:
    """`Tracing` that stores its calls for each attempt."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    @contextlib.contextmanager
    def around(self, state: Any, offload: str) -> Iterator[None]:
        del offload
        state.trace = self
        yield

    def carrier(self) -> dict[str, str]:
        return {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}

    def told_to_stop(self, reason: CancelReason) -> None:
        self.told.append(("stopped", reason))

    def settled(self, outcome: Any) -> None:
        if raised := getattr(outcome, "raised", None):
            last_line = raised.report.strip().rpartition("\n")[2]
            self.told.append(("raised", raised.kind, raised.message, last_line))
        self.told.append(("settled", type(outcome).__name__))

    def ended(self) -> None:
        self.told.append(("ended",))


def spans_of(environment: RunEnvironment) -> Spans:
    assert isinstance(environment.tracing, Spans)
    return environment.tracing


@contextlib.asynccontextmanager
async def places(fork: Fork, url: str, folder: Path, **settings: Any) -> AsyncIterator[Workplace]:
    """A worker with an engine, and isolates that know the same one."""
    config = WorkerConfig(api_url=url, worker_id="t")
    engine = connect(config, None, connections=2)
    access = FileAccess(
        lambda: EngineFiles(url, None),
        asyncio.new_event_loop,
        max_file_mb=1,
        scratch=Scratch(folder / "files"),
    )
    streams = EngineStreams(engine)
    sdk_files = SdkFiles(url, None)
    environment = RunEnvironment(
        process_index=3,
        stock_files=sdk_files,
        secrets=(SECRET,),
        files=access,
        streams=streams,
        tracing=Spans(),
        secret_names=("pin_code",),
    )
    async with workplace(fork, environment, app=APP, url=url, concurrency=1, **settings) as place:
        place.environment = environment  # type: ignore[attr-defined]
        yield place
    await sdk_files.aclose()
    await streams.aclose()
    await access.aclose()
    await engine.aclose()


def seen(outcome: Any) -> tuple[Any, ...]:
    """Returns all reports to the engine."""
    if isinstance(outcome, Completed):
        return "completed", bytes(outcome.output), outcome.cost_usd, sorted(map(repr, outcome.usage))
    assert isinstance(outcome, Failed), outcome
    return (
        "failed", outcome.code, outcome.message, outcome.retryable, outcome.cost_usd, sorted(map(repr, outcome.usage))
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
async def test_outcomes_money_logs_and_spans_are_the_same(
    forker: Fork, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Exceptions of every kind, outputs of every kind: one isolate serves all cases, so that none has hurt it."""
    caplog.set_level("DEBUG")
    logging.getLogger("flowherd.activity").setLevel("DEBUG")
    differences = {}
    async with places(forker, "http://127.0.0.1:1", tmp_path) as place:
        for name in CASES:
            found = {}
            for where in KINDS[kind]:
                caplog.clear()
                spans_of(place.environment).told.clear()  # type: ignore[attr-defined]
                fields = {
                    "number": 7,
                    "key": "k",
                    "settings": {"a": [1]},
                    "signal_data": "go",
                    "timeout_s": 30.0,
                }
                with capture_logs() as lines:
                    outcome = await place.outcome(
                        f"{kind} do {where}", {"case": name, "password": "hunter22"}, **fields
                    )
                found[where] = seen(outcome), told(place), logged(caplog), about_activities(lines)
            first, *others = (
                re.sub(r"\d+ frames", "many frames", str(one)).replace(f"do {where}", "do it")
                for where, one in found.items()
            )
            if others != [first] * len(others):
                differences[name] = found
        assert len(place.pids) == 1 + (len(CASES) - 1) // 100
    assert not differences, json.dumps(
        {k: {w: repr(x)[:900] for w, x in v.items()} for k, v in differences.items()}, indent=1
    )


def told(place: Any) -> list[tuple[Any, ...]]:
    return list(spans_of(place.environment).told)


def about_activities(lines: Any) -> list[dict[str, Any]]:
    """The lines about the activities' ends, without what differs from run to run."""
    about = [line for line in lines if line["event"].startswith("activity_")]
    return [
        {name: value for name, value in line.items() if name not in {"took_s", "waited_s"}} for line in about
    ]


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[Any, ...]]:
    """What handlers have logged, with the ends of tracebacks.

    Where a handler has its process to itself, foreign loggers have the activity's ids, too.
    """
    found = []
    for record in caplog.records:
        if record.name in {"flowherd.activity", "their.own"}:
            fields = vars(record)
            exception = fields.get("exception") or (record.exc_info and record.exc_text) or ""
            named = [fields.get(name) for name in (NAMED if record.name != "their.own" else ())]
            words = record.name, record.levelname, record.getMessage(), exception.strip().rpartition("\n")[2]
            found.append((*words, *named))
    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_files_and_checkpoints_are_the_same(forker: Fork, tmp_path: Path, kind: str) -> None:
    """Each place finds what the one before has kept, since the activity is the same."""
    async with engine_here() as url, places(forker, url, tmp_path) as place:
        path = f"/api/v1/workflows/{WORKFLOW_ID}/activities/k/files/n"
        async with httpx.AsyncClient(base_url=url) as http:
            (await http.post(path, content=b"words")).raise_for_status()
        for number, where in enumerate(KINDS[kind]):
            fields = {"number": 7, "key": "k"}
            outcome = await place.outcome(
                f"{kind} files {where}", {"reference": f"{WORKFLOW_ID}/k/n"}, **fields
            )
            assert isinstance(outcome, Completed), (where, outcome)
            assert msgspec.json.decode(outcome.output) == {
                "text": "words",
                "sent": f"postgres://{WORKFLOW_ID}/k/upper.txt",
                "before": {"step": 1} if number else None,
                "after": {"step": 1},
            }
        found = {
            where: seen(await place.outcome(f"{kind} missing {where}", {"reference": f"{WORKFLOW_ID}/k/no"}))
            for where in KINDS[kind]
        }
    assert len(set(map(repr, found.values()))) == 1, found
    assert not list(tmp_path.rglob("n"))  # noqa: ASYNC240 - nothing else is to be done


async def test_files_of_a_stock_handler_are_the_same(forker: Fork, tmp_path: Path) -> None:
    """Moved by two lines of settings, and its code knows nothing of it."""
    moved = {f"stock files {where}": {"offload": where} for where in ASYNC_PLACES}
    async with engine_here() as url, places(forker, url, tmp_path, activities=moved) as place:
        async with httpx.AsyncClient(base_url=url) as http:
            path = f"/api/v1/workflows/{WORKFLOW_ID}/activities/k/files/n"
            (await http.post(path, content=b"words")).raise_for_status()
            reference = f"{WORKFLOW_ID}/k/n"
            found = {}
            for where in ASYNC_PLACES:
                outcome = await place.outcome(f"stock files {where}", {"reference": reference}, key="k")
                found[where] = seen(outcome)
                assert (await http.get(path.replace("/n", "/stock.txt"))).content == b"WORDS"
                (await http.post(path.replace("/n", "/stock.txt"), content=b"overwritten")).raise_for_status()
        assert len(place.pids) == 1
    assert len(set(map(repr, found.values()))) == 1, found
    assert found["loop"][0] == "completed", found


@pytest.mark.parametrize("then", ["", "went wrong"])
@pytest.mark.parametrize("kind", KINDS)
async def test_streams_are_the_same(forker: Fork, tmp_path: Path, kind: str, then: str) -> None:
    found = {}
    for where in KINDS[kind]:
        async with scripted_engine() as engine, places(forker, engine.url, tmp_path) as place:
            engine.always("token", Play(200, {"subscribers": 1}))
            outcome = await place.outcome(f"{kind} stream {where}", {"then": then, "password": "hunter22"})
            await engine.asked("error" if then else "complete")
            text = "".join(request.json["text"] for request in engine.of("token"))
            ends = [request.json for request in engine.requests if request.route != "token"]
            found[where] = seen(outcome), text, ends
    assert len(set(map(repr, found.values()))) == 1, found
    assert next(iter(found.values()))[1] == "one two ?"


@pytest.mark.parametrize("reason", ["limit", *CancelReason])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_stop_is_the_same_and_reports_the_costs(
    forker: Fork, tmp_path: Path, kind: str, reason: str | CancelReason
) -> None:
    found = {}
    async with places(forker, "http://127.0.0.1:1", tmp_path) as place:
        for where in KINDS[kind]:
            mark = tmp_path / f"{where}-mark"
            limit = {"timeout_s": 1.0} if reason == "limit" else {}
            spans_of(place.environment).told.clear()  # type: ignore[attr-defined]
            run = place.start(f"{kind} stopped {where}", {"mark": str(mark)}, **limit)
            await place.until(lambda run=run: run.phase is not Phase.WAITING and run.spent[0])
            with capture_logs() as lines:
                if isinstance(reason, CancelReason):
                    run.cancel(reason)
                await asyncio.wait_for(run.ended(), CEILING_S)
            outcome = run.known_outcome
            lost = [line["cost_usd"] for line in lines if line["event"] == "spent_by_lost_attempt"]
            words = seen(outcome) if isinstance(outcome, Failed) else type(outcome).__name__
            found[where] = words, lost, mark.read_text(), told(place)
    assert len(set(map(repr, found.values()))) == 1, found
    words = next(iter(found.values()))
    assert "0.25" in repr(words)
