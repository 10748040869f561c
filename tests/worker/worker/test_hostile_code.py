"""The hostile profile: generated outputs, exceptions and names against the embedded engine; `--soak` for all.

Scorecard M14. With `--soak` it is 3,000 outputs, 2,000 exceptions and 2,000 names; without, a tenth. A whole
worker runs them and sends real HTTP bodies to the engine's application in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from typing import TYPE_CHECKING, Any

import httpx
import kruxiaflow.worker as stock
import pytest
from hostile_code import Code
from worker_kit import open_segment

from flowherd import ActivityContext, ActivityError, ActivityResult, Registry
from flowherd.activities_and_outcomes import Usage
from flowherd.client.kruxia import KruxiaEngine
from flowherd.execution.run_environment import RunEnvironment
from flowherd.ledger import Ledger, RecordWriter, records_needed
from flowherd.settings.worker_config import WorkerConfig
from flowherd.stock_sdk.adapt_apps import definition_of
from flowherd.stock_sdk.stock_files import SdkFiles
from flowherd.transport.transport import HttpxTransport
from flowherd.worker.worker import Worker
from flowherd_engine.app import build_app
from flowherd_engine.engine import Engine
from flowherd_engine.settings import EngineSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from flowherd.sdk.activity_definition import ActivityDefinition

SEED = 20261124
OUTPUTS, EXCEPTIONS, NAMES = 3_000, 2_000, 2_000
ONCE = {"retry": {"max_attempts": 1}}
URL = "http://127.0.0.1"
JSON = {"content-type": "application/json"}
WITHIN_S = 60.0


class Watched(httpx.AsyncBaseTransport):
    """The engine's application behind httpx; remembers what it refused."""

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app)
        self.sent = 0
        self.refused: list[tuple[str, int, bytes]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Passes it on."""
        response = await self._inner.handle_async_request(request)
        self.sent += 1
        if response.status_code >= 400:
            self.refused.append((str(request.url), response.status_code, request.content[:300]))
        return response


class CodeRig:
    """A worker beside an embedded engine; `run` submits one workflow for each number and awaits them all."""

    def __init__(self, engine: Engine) -> None:
        self.wire = Watched(build_app(engine))
        self.http = httpx.AsyncClient(transport=self.wire, base_url=URL, headers=JSON)
        self.registry = Registry()
        self._files = SdkFiles(URL, None)

    async def run(self, name: str, count: int) -> dict[str, int]:
        """How many workflows ended in each way."""
        config = WorkerConfig(worker_id="rig", concurrency=32, poll_max=100, poll_interval_s=0.01)
        segment = open_segment(Ledger(processes=1, records=records_needed(32, 100)))
        engine = KruxiaEngine(HttpxTransport(self.http), api_url=URL)
        environment = RunEnvironment(stock_files=self._stock_files())
        worker = Worker(config, self.registry, engine, RecordWriter(segment), environment)
        await self._submit(name, count)
        accidents: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: accidents.append(context))
        work = loop.create_task(worker.run())
        ends = await self._ended(work, name, count)
        worker.drain(10.0)
        assert not (await work).undelivered
        assert not accidents
        return ends

    async def _submit(self, name: str, count: int) -> None:
        step = {"key": "step", "worker": "py-std", "activity_name": name, "settings": ONCE}
        step["parameters"] = {"n": "{{INPUT.n}}"}
        await self._post("workflow_definitions", {"name": name, "activities": [step]})
        for number in range(count):
            await self._post("workflows", {"definition_name": name, "input": {"n": number}})

    async def _post(self, path: str, body: dict[str, Any]) -> None:
        (await self.http.post(f"/api/v1/{path}", json=body)).raise_for_status()

    async def _ended(self, work: asyncio.Task[Any], name: str, count: int) -> dict[str, int]:
        give_up_at = asyncio.get_running_loop().time() + WITHIN_S
        while True:
            ends = {state: await self._count(name, state) for state in ("completed", "failed")}
            if sum(ends.values()) == count:
                return ends
            assert not work.done(), "the worker has ended by itself"
            assert asyncio.get_running_loop().time() < give_up_at, f"{ends} of {count} within {WITHIN_S} s"
            await asyncio.sleep(0.05)

    async def _count(self, name: str, state: str) -> int:
        query = {"definition_name": name, "status": state, "limit": 1}
        return (await self.http.get("/api/v1/workflows", params=query)).json()["total"]

    def _stock_files(self) -> SdkFiles:
        """The stock SDK's client over the same wire."""
        made = self._files.client()
        made._http = httpx.AsyncClient(transport=self.wire, event_hooks=made._http.event_hooks)
        return self._files


@pytest.fixture
async def rig() -> AsyncIterator[CodeRig]:
    engine = await Engine.open(EngineSettings(db=":memory:"))
    rig = CodeRig(engine)
    yield rig
    await rig.http.aclose()
    await engine.close()


@pytest.fixture
def size(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """The full number with --soak, a tenth of it without."""
    return lambda full: full if request.config.getoption("--soak") else full // 10


@pytest.fixture
def say(rig: CodeRig, record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Prints what was counted, and what none in so many proves."""

    def report(what: str, count: int, ends: dict[str, int]) -> None:
        record_property(what, count)
        print(
            f"seed {SEED}: {ends}; {rig.wire.sent} calls, 0 of {count} {what}, below {3 / count:.2%} (95 %)"
        )

    return report


@pytest.mark.timeout(300)
async def test_no_output_is_sent_that_the_engine_refuses(
    rig: CodeRig, say: Callable[..., None], size: Callable[[int], int]
) -> None:
    """Scorecard M14, faults A1, A2."""
    chance, count = Code(SEED), size(OUTPUTS)
    outputs = [chance.output() for _ in range(count)]

    @rig.registry.activity
    async def returns(n: int) -> Any:
        return outputs[n]

    ends = await rig.run("returns", count)
    assert rig.wire.refused == []
    assert min(ends.values()) > count / 10, ends
    say("outputs were refused", count, ends)


@pytest.mark.timeout(300)
async def test_no_exception_ends_the_worker_or_has_a_report_that_the_engine_refuses(
    rig: CodeRig, say: Callable[..., None], size: Callable[[int], int]
) -> None:
    """Scorecard M14, faults A3, A4."""
    chance, count = Code(SEED + 1), size(EXCEPTIONS)
    exceptions = [chance.exception() for _ in range(count)]

    @rig.registry.activity
    async def raises(n: int) -> None:
        raise exceptions[n]

    ends = await rig.run("raises", count)
    assert rig.wire.refused == []
    assert ends["failed"] == count
    say("exceptions were refused", count, ends)


@pytest.mark.timeout(300)
async def test_no_name_is_sent_that_the_engine_refuses(
    rig: CodeRig, say: Callable[..., None], size: Callable[[int], int]
) -> None:
    """Scorecard M14: codes of failures, providers, models and names of outputs."""
    chance, count = Code(SEED + 2), size(NAMES) // 2
    names = [chance.text() for _ in range(count)]
    usages = [chance.usage() for _ in range(count)]

    @rig.registry.activity
    async def names_things(ctx: ActivityContext, n: int) -> Any:
        with contextlib.suppress(ValueError, TypeError):  # said at once, to whoever recorded it
            ctx.record_usage(**usages[n])
        if n % 3 == 0:
            raise ActivityError("a code", code=names[n])
        if n % 3 == 1:
            return ActivityResult.error("a code", names[n])
        return ActivityResult.value(names[n], n).with_usage(Usage(**usages[n]))

    ends = await rig.run("names_things", count)
    assert rig.wire.refused == []
    say("names were refused", count, ends)


@pytest.mark.timeout(300)
async def test_no_file_name_leads_out_of_the_private_directory_or_to_another_route(
    rig: CodeRig,
    say: Callable[..., None],
    size: Callable[[int], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Scorecard M14, fault F1: also where the handler has made the directories the name goes through."""
    chance, count = Code(SEED + 3), size(NAMES) // 2
    names = [chance.file_name() for _ in range(count)]
    (tmp_path / "deep" / "er" / "tmp").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "deep" / "er" / "tmp"))
    source = tmp_path / "source"
    source.write_bytes(b"content")
    before = _tree(tmp_path)
    rig.registry.add(_keeper_of_files(names, str(source)))
    ends = await rig.run("keeps_files", count)
    assert _tree(tmp_path) == before
    assert source.read_bytes() == b"content"
    absent = [row for row in rig.wire.refused if not row[2] and row[1] == 404]  # the reply to a good question
    assert rig.wire.refused == absent
    assert all("/files/" in url for url, _, _ in absent)
    assert ends["completed"] > count / 20
    say("file names left their folder", count, ends)


def _tree(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def _keeper_of_files(names: list[str], source: str) -> ActivityDefinition:
    """A stock activity that uploads under a hostile name and downloads what a hostile reference names."""

    async def keeps_files(params: dict[str, Any], ctx: stock.ActivityContext) -> stock.ActivityResult:
        name = names[params["n"]]
        kept = await ctx.download_file(await ctx.upload_file(source, "kept"))
        for folder in ("a", "sub", "_"):
            (ctx._file_executor.temp_dir / folder).mkdir()
        with contextlib.suppress(Exception):  # what is refused here is not sent
            await ctx.download_file(f"postgres://{ctx.workflow_id}/step/{name}")
        await ctx.upload_file(kept, name)
        return stock.ActivityResult.value("name", 1)

    return definition_of(stock.activity()(keeps_files))
