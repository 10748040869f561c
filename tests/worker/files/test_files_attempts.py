"""Files of an attempt: they end with it, however it ends, and work from every kind of handler."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from files_kit import WORKFLOW, engine_here, files_at
from runner_kit import Runner
from scripted_engine import Play

from flowherd import ActivityContext, CancelReason, FileError, LeaseLost, Registry, SyncActivityContext
from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.run_environment import RunEnvironment
from flowherd.files.attempt_files import FileAccess
from flowherd.files.scratch_folders import Scratch
from flowherd.sdk.run_state import RunState
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import make_activity, run_activity

REFERENCE = f"postgres://{WORKFLOW}/step/in.csv"


def _reversed(path, folder):
    out = Path(folder, "out.csv")
    out.write_bytes(path.read_bytes()[::-1])
    return out


def _exists(path):
    return os.path.exists(path)


async def _awaiting(ctx: ActivityContext, reference: str, folder: str):
    got = await ctx.download_file(reference)
    out = _reversed(got, folder)
    return {"got": str(got), "sent": await ctx.upload_file(out, "out.csv")}


def _blocking(ctx: SyncActivityContext, reference: str, folder: str):
    got = ctx.download_file(reference)
    out = _reversed(got, folder)
    return {"got": str(got), "sent": ctx.upload_file(str(out), "out.csv")}


class Host:
    """A runner whose handlers have files at an engine."""

    def __init__(self, files, **settings):
        self.files = files
        self.registry = Registry()
        self._config = WorkerConfig(worker_id="w", **settings)
        self._threads = ThreadPool(2)

    def start(self, handler, params=None, **options):
        name = self.registry.register(handler, **options).name
        runner = Runner(self.registry, self._config, self._threads, self.files.environment)
        return runner.start(make_activity(name, params, workflow_id=WORKFLOW, key="step"))

    async def nothing_left(self):
        """Waits until the folder of the attempt is gone: it is removed on the loop of files."""
        async with asyncio.timeout(10):
            await asyncio.wrap_future(self.files.access.loop.submit(_turn()))
            while any(self.files.base.glob("*/*")):
                await asyncio.wrap_future(self.files.access.loop.submit(_turn()))


async def _turn():
    await asyncio.sleep(0)


@pytest.fixture
async def files(server, tmp_path):
    async with files_at(server.url, tmp_path / "temp", stall_s=30.0) as found:
        yield found


@pytest.mark.parametrize(
    ("handler", "options"),
    [(_awaiting, {}), (_awaiting, {"offload": "thread"}), (_blocking, {})],
    ids=["async", "async in a thread", "plain"],
)
async def test_every_kind_of_handler_gets_and_sends_files_and_leaves_none(tmp_path, handler, options):
    """The same text, on the worker's loop, on a loop of a thread, and blocking in a thread."""
    async with engine_here() as url, files_at(url, tmp_path / "temp") as files:
        source = tmp_path / "in.csv"
        source.write_bytes(b"abc" * 100_000)
        reference = await files.context(9).upload_file(source, "in.csv")
        host = Host(files)
        run = host.start(handler, {"reference": reference, "folder": str(tmp_path)}, **options)
        outcome = await run.outcome()
        sent = f"postgres://{WORKFLOW}/step/out.csv"
        assert f'"sent":"{sent}"'.encode() in outcome.output.replace(b": ", b":")
        await host.nothing_left()
        got = await files.context(8).download_file(sent)
        assert got.read_bytes() == b"cba" * 100_000


async def test_a_failed_handler_leaves_no_file(server, files):
    server.script("in.csv", Play(200, b"x"))

    async def failing(ctx: ActivityContext):
        assert (await ctx.download_file(REFERENCE)).exists()
        raise ValueError("after the download")

    host = Host(files)
    run = host.start(failing)
    assert (await run.outcome()).code == "EXECUTION_ERROR"
    await host.nothing_left()


@pytest.mark.parametrize("options", [{}, {"offload": "thread"}], ids=["async", "async in a thread"])
async def test_a_cancelled_handler_ends_its_transfer_and_leaves_no_file(server, files, options):
    hold = asyncio.Event()
    server.script("in.csv", Play(200, b"x", hold=hold))

    async def waiting(ctx: ActivityContext):
        await ctx.download_file(REFERENCE)

    host = Host(files)
    run = host.start(waiting, **options)
    await server.asked("in.csv")
    run.cancel(CancelReason.SHUTDOWN)
    assert (await run.outcome()).code == "WORKER_SHUTDOWN"
    await run.ended()
    await host.nothing_left()
    hold.set()


@pytest.mark.parametrize("reason", list(CancelReason))
async def test_a_plain_handler_that_waits_for_a_file_is_woken_when_its_attempt_is_over(server, files, reason):
    """Else its thread, and its slot, would wait for as long as the engine lets the transfer hang."""
    hold = asyncio.Event()
    server.script("in.csv", Play(200, b"x", hold=hold))
    raised = []

    def waiting(ctx: SyncActivityContext):
        try:
            ctx.download_file(REFERENCE)
        except BaseException as error:
            raised.append(error)
            raise

    host = Host(files)
    run = host.start(waiting)
    await server.asked("in.csv")
    run.cancel(reason)
    await asyncio.wait_for(run.ended(), 10)
    assert isinstance(raised[0], asyncio.CancelledError)
    assert isinstance(raised[0], LeaseLost) == (reason is CancelReason.LEASE_LOST)
    await host.nothing_left()
    hold.set()


async def test_a_handler_whose_time_is_over_may_still_save_its_work_within_its_grace(server, files, tmp_path):
    server.script("rest.csv", Play(201, {"size": 4}))
    (tmp_path / "rest.csv").write_text("rest")

    async def saving(ctx: ActivityContext):
        try:
            await asyncio.Event().wait()
        finally:
            await ctx.upload_file(tmp_path / "rest.csv", "rest.csv")

    run = Host(files, activity_timeout_s=0.01).start(saving)
    assert (await run.outcome()).code == "TIMEOUT"
    await run.ended()
    assert [request.body for request in server.of("rest.csv")] == [b"rest"]


@pytest.mark.parametrize("kind", [ActivityContext, SyncActivityContext])
async def test_after_a_lost_lease_no_file_is_touched(server, files, kind):
    """Another worker runs the activity now; its file would be overwritten."""
    state = files.state()
    state.cancel_reason = CancelReason.LEASE_LOST
    ctx = kind(state)
    with pytest.raises(LeaseLost):
        await _call(ctx.download_file, REFERENCE)
    with pytest.raises(LeaseLost):
        await _call(ctx.upload_file, "anything")
    assert server.requests == []


async def _call(method, *arguments):
    found = method(*arguments)
    return await found if asyncio.iscoroutine(found) else found


async def test_what_a_handler_left_behind_gets_no_file_after_its_end(server, files):
    """A forgotten thread or task would fill a folder that is never removed."""
    contexts = []

    async def keeping(ctx: ActivityContext):
        contexts.append(ctx)

    await Host(files).start(keeping).ended()
    with pytest.raises(FileError, match="the attempt has ended"):
        await contexts[0].download_file(REFERENCE)
    assert server.requests == []


async def test_two_threads_of_one_handler_share_its_folder(server, files):
    server.always("in.csv", Play(200, b"x"))
    folders = []

    def downloading(ctx: SyncActivityContext):
        threads = [
            threading.Thread(target=lambda: folders.append(ctx.download_file(REFERENCE).parent.parent))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    host = Host(files)
    await host.start(downloading).ended()
    assert (len(folders), len(set(folders))) == (4, 1)
    await host.nothing_left()


async def test_a_worker_that_ends_removes_even_the_files_of_handlers_that_do_not(server, files):
    server.script("in.csv", Play(200, b"x"))
    got = await files.context().download_file(REFERENCE)
    assert got.exists()
    await files.access.aclose()
    assert not files.base.exists()
    with pytest.raises(FileError, match="no files any more"):
        await files.context().download_file(REFERENCE)


async def test_a_worker_that_never_touched_a_file_has_no_thread_and_no_folder(files):
    before = threading.active_count()
    state = files.state()
    files.access.of(state).close()
    await files.access.aclose()
    assert threading.active_count() == before
    assert not files.base.exists()


async def test_without_an_engine_the_error_says_what_a_test_has_to_give():
    with pytest.raises(FileError, match="run_activity files="):
        await ActivityContext(RunState(make_activity("a"), RunEnvironment())).download_file(REFERENCE)


@pytest.mark.parametrize("handler", [_awaiting, _blocking])
async def test_run_activity_gives_files_in_memory(tmp_path, handler):
    """Users test their handlers without an engine: what goes in by reference, what came out in the result."""
    params = {"reference": REFERENCE, "folder": str(tmp_path)}
    result = await run_activity(
        handler, params, files={REFERENCE.removeprefix("postgres://"): b"abc"}, key="k"
    )
    assert result.files == {REFERENCE: b"abc", result.output["sent"]: b"cba"}
    assert not _exists(result.output["got"])


async def test_run_activity_reports_a_file_that_is_not_there_as_the_engine_would():
    result = await run_activity(_awaiting, {"reference": REFERENCE, "folder": "."})
    assert (result.failure.code, result.failure.retryable) == ("FILE_NOT_FOUND", False)


async def test_run_activity_keeps_the_size_limit(tmp_path):
    config = WorkerConfig(worker_id="t", max_file_mb=1)
    params = {"reference": REFERENCE, "folder": str(tmp_path)}
    result = await run_activity(_awaiting, params, files={REFERENCE: bytes((1 << 20) + 1)}, config=config)
    assert result.failure.code == "FILE_TOO_LARGE"


async def test_a_store_that_cannot_be_opened_fails_the_transfer_and_not_the_worker(tmp_path):
    def broken():
        raise RuntimeError("no store")

    access = FileAccess(broken, asyncio.new_event_loop, max_file_mb=1, scratch=Scratch(tmp_path / "temp"))
    ctx = ActivityContext(RunState(make_activity("a"), RunEnvironment(files=access)))
    with pytest.raises(RuntimeError, match="no store"):
        await ctx.download_file(REFERENCE)
    await access.aclose()
    assert not (tmp_path / "temp").exists()


class Endless:
    """A store that never answers."""

    async def receive(self, reference: Any, sink: Any) -> None:
        del reference, sink
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        """There is nothing to close."""


async def test_a_transfer_that_begins_while_all_others_are_ended_is_ended_too(tmp_path):
    """Its thread may have the GIL taken away between beginning it and saying so."""
    access = FileAccess(Endless, asyncio.new_event_loop, max_file_mb=1, scratch=Scratch(tmp_path / "temp"))
    state = RunState(make_activity("work"), RunEnvironment(files=access))
    files, submit = access.of(state), access.loop.submit

    def interrupted(work: Any) -> Any:
        future = submit(work)
        files.cancel()
        return future

    access.loop.submit = interrupted  # type: ignore[method-assign]
    with pytest.raises(CancelledError):
        files.download(f"{WORKFLOW}/key/name").result(10)
    access.loop.submit = submit  # type: ignore[method-assign]
    await access.aclose()
