"""Handlers of the stock SDK behave under flowherd as under its own poller, and better where that one errs."""

import asyncio
import json
import uuid
from decimal import Decimal

import pytest
from runner_kit import Runner

from flowherd import CancelReason, LeaseLost, Registry
from flowherd.activities_and_outcomes import Completed
from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.run_environment import RunEnvironment
from flowherd.settings.worker_config import WorkerConfig
from flowherd.stock_sdk import adapt_apps
from flowherd.stock_sdk.stock_files import SdkFiles
from flowherd.testing import make_activity, run_activity

sdk = pytest.importorskip("kruxiaflow.worker", reason="needs the stock SDK: pip install kruxiaflow==0.4.0")
PARAMETERS = {"text": "hello", "n": 2}


class NumpyFloat(float):
    """As numpy.float64 is: a float that json writes as one."""


NumpyFloat.__module__ = "numpy"


@sdk.activity()
async def echo(params, ctx):
    return sdk.ActivityResult.value("output", params["text"] * params["n"])


@sdk.activity(name="priced")
async def with_cost(params, ctx):
    return sdk.ActivityResult.value("a", 1).with_cost(Decimal("0.0123")).with_metadata({"dropped": True})


@sdk.activity()
async def several(params, ctx):
    kind = sdk.OutputType
    outputs = [("v", kind.VALUE, {"x": [1]}), ("f", kind.FILE, "postgres://x")]
    return sdk.ActivityResult.values(
        [sdk.ActivityOutput(name=n, output_type=t, value=v) for n, t, v in outputs]
    )


@sdk.activity()
async def fails(params, ctx):
    return sdk.ActivityResult.error("no stock", code="OUT_OF_STOCK", retryable=False)


@sdk.activity()
async def raises(params, ctx):
    raise KeyError("missing")


@sdk.activity()
async def returns_none(params, ctx):
    return None


@sdk.activity()
async def times_out(params, ctx):
    raise TimeoutError


@sdk.activity()
async def number_keys(params, ctx):
    return sdk.ActivityResult.value("m", {1: "one", None: "nothing", "f": NumpyFloat(1.5)})


class Ids(sdk.Activity):
    @property
    def name(self):
        return "ids"

    async def execute(self, params, ctx):
        await ctx.heartbeat()
        kinds = [type(ctx.workflow_id).__name__, type(ctx.activity_id).__name__, ctx.logger.name]
        return sdk.ActivityResult.value(
            "ctx",
            {
                "kinds": kinds,
                "key": ctx.activity_key,
                "signal": ctx.signal,
                "dump": ctx.model_dump(mode="json"),
            },
        )


ALL = [echo, with_cost, several, fails, raises, returns_none, times_out, number_keys, Ids()]


def stock_registry(*activities, kind=sdk.ActivityRegistry):
    registry = kind()
    for activity in activities:
        registry.register(activity, "py-std")
    return registry


class RecordingClient:
    """Stands where the stock API client is; remembers what the stock poller would report."""

    def __init__(self):
        self.reported = None

    async def heartbeat(self, activity_id, worker_id):
        """The stock context sends one on each call."""

    async def complete_activity(self, activity_id, worker_id, output, cost_usd=None):
        self.reported = (
            "complete",
            json.loads(json.dumps(output)),
            None if cost_usd is None else str(cost_usd),
        )

    async def fail_activity(self, activity_id, worker_id, error_code, error_message, retryable):
        self.reported = ("fail", error_code, error_message, retryable)


async def stock_report(registry, name):
    """What the stock worker reports for one activity."""
    client = RecordingClient()
    config = sdk.WorkerConfig(api_url="http://127.0.0.1:1", client_id="x", client_secret="x")
    pending = sdk.PendingActivity(
        activity_id=uuid.UUID(int=1),
        workflow_id=uuid.UUID(int=1),
        activity_key=name,
        worker="py-std",
        activity_name=name,
        parameters=PARAMETERS,
        signal_data={"s": 1},
    )
    await sdk.WorkerPoller(config, client, registry)._execute_activity(pending)
    return client.reported


async def our_report(registry, name):
    """What flowherd would report for the same one."""
    runner = Runner(
        adapt_apps.registry_of(registry).for_type("py-std"),
        WorkerConfig(worker_id="t"),
        ThreadPool(1),
        RunEnvironment(),
    )
    outcome = await runner.start(make_activity(name, PARAMETERS, signal_data={"s": 1})).outcome()
    if isinstance(outcome, Completed):
        return ("complete", json.loads(outcome.output), outcome.cost_usd)
    return ("fail", outcome.code, outcome.message, outcome.retryable)


@pytest.mark.parametrize("name", [activity.name for activity in ALL if activity.name != "times_out"])
async def test_both_workers_report_the_same(name):
    registry = stock_registry(*ALL)
    assert await our_report(registry, name) == await stock_report(registry, name)


async def test_a_timeout_of_the_handlers_own_has_the_stock_code():
    """Only the words differ: the stock worker blames its own limit of 300 s."""
    registry = stock_registry(*ALL)
    ours, theirs = await our_report(registry, "times_out"), await stock_report(registry, "times_out")
    assert (ours[:2], ours[3]) == (theirs[:2], theirs[3]) == (("fail", "TIMEOUT"), True)


class Wrapping(sdk.ActivityRegistry):
    """A registry that puts something around every activity."""

    async def execute(self, worker, name, params, ctx, timeout):  # noqa: ASYNC109  # as the SDK names it
        result = await super().execute(worker, name, params, ctx, timeout)
        result.outputs[0].value = ["wrapped", result.outputs[0].value, timeout]
        return result


async def test_a_registry_with_an_execute_of_its_own_is_called_through_it():
    registry = stock_registry(echo, kind=Wrapping)
    expected = ("complete", {"output": ["wrapped", "hellohello", 300.0]}, None)
    assert await our_report(registry, "echo") == await stock_report(registry, "echo") == expected


async def test_a_subclass_of_the_result_is_mapped_by_its_own_methods():
    class Loud(sdk.ActivityResult):
        def to_output_dict(self):
            return {name.upper(): value for name, value in super().to_output_dict().items()}

    @sdk.activity()
    async def loud(params, ctx):
        return Loud.value("a", 1)

    assert (await run_activity(loud, PARAMETERS)).output == {"A": 1}


async def test_the_context_is_one_of_the_stock_sdk():
    """Users annotate it, subclass it and check it."""
    seen = []

    @sdk.activity()
    async def look(params, ctx):
        seen.append(ctx)
        return sdk.ActivityResult.value("x", 1)

    await run_activity(look, {})
    assert isinstance(seen[0], sdk.ActivityContext)
    assert type(seen[0]).__name__ == "ActivityContext"


async def test_the_context_is_as_good_as_one_that_pydantic_has_made():
    """It is put together without asking each field: whatever pydantic does with a model must go on to work."""
    seen = []

    @sdk.activity()
    async def look(params, ctx):
        ctx.signal = {"changed": ctx.signal is None}
        seen.append(
            (ctx, ctx.model_dump(), ctx.model_copy(update={"activity_key": "other"}), ctx.logger.name)
        )
        return sdk.ActivityResult.value("x", 1)

    await run_activity(look, {})
    ((ctx, dumped, copied, logger),) = seen
    fields = {"workflow_id": uuid.UUID(int=1), "activity_id": uuid.UUID(int=1), "activity_key": "look"}
    assert dumped == {**fields, "signal": {"changed": True}}
    plain = type(ctx)(**fields, signal={"changed": True})
    assert (plain.model_dump(), plain.model_fields_set) == (dumped, ctx.model_fields_set)
    assert plain.__pydantic_private__.keys() == ctx.__pydantic_private__.keys()
    assert (copied.activity_key, copied.limit_s, ctx.activity_key) == ("other", ctx.limit_s, "look")
    assert logger == "kruxiaflow.activity.look"


async def test_heartbeat_of_a_stock_handler_notices_a_lost_lease():
    """The stock worker only logs a 409; and it must not send one heartbeat per call."""
    begun, caught = asyncio.Event(), []

    @sdk.activity()
    async def work(params, ctx):
        begun.set()
        try:
            while True:
                await ctx.heartbeat()
        except asyncio.CancelledError as exc:
            caught.append(type(exc))
            raise

    runner = Runner(
        adapt_apps.registry_of(work), WorkerConfig(worker_id="t"), ThreadPool(1), RunEnvironment()
    )
    run = runner.start(make_activity("work"))
    await begun.wait()
    run.cancel(CancelReason.LEASE_LOST)
    await asyncio.wait_for(run.ended(), 5)
    assert caught[0] in {LeaseLost, asyncio.CancelledError}


async def test_file_methods_say_that_there_is_no_storage_as_the_stock_ones_do():
    @sdk.activity()
    async def work(params, ctx):
        return sdk.ActivityResult.value("path", await ctx.download_file("postgres://x"))

    failure = (await run_activity(work, {})).failure
    assert failure.message == "File operations not available (no storage configured)"


class FileServer:
    """A stand-in for the SDK's API client with one file in it."""

    def __init__(self):
        self.files = {"in.txt": b"hello"}

    def client(self):
        return self

    async def download_file(self, workflow_id, activity_key, filename):
        yield self.files[filename]

    async def upload_file(self, workflow_id, activity_key, filename, data, content_type=None):
        self.files[filename] = b"".join([chunk async for chunk in data])


async def test_files_come_and_go_as_under_the_stock_worker_and_the_directory_is_removed():
    from pathlib import Path

    server, seen = FileServer(), []

    @sdk.activity()
    async def shout(params, ctx):
        local = Path(await ctx.download_file(params["file"]))
        seen.append(local)
        local.with_suffix(".up").write_bytes(local.read_bytes().upper())  # noqa: ASYNC240  # a tiny file
        return sdk.ActivityResult.value(
            "file", await ctx.upload_file(str(local.with_suffix(".up")), "out.txt")
        )

    reference = f"postgres://{uuid.UUID(int=1)}/shout/in.txt"
    result = await run_activity(shout, {"file": reference}, environment=RunEnvironment(stock_files=server))
    assert result.output == {"file": f"postgres://{uuid.UUID(int=1)}/shout/out.txt"}
    assert server.files["out.txt"] == b"HELLO"
    assert not seen[0].parent.exists()


async def test_the_sdks_own_client_sends_the_hosts_token_and_none_where_none_is_asked_for():
    """A token that is sent to an engine in development mode is checked (protocol.md §2.2)."""
    import httpx

    from flowherd.client.bearer_tokens import Token

    class Tokens:
        version = 1

        async def current(self):
            return Token(self.version, f"token-{self.version}")

        async def renewed(self, refused):
            self.version = refused.version + 1
            return await self.current()

    shown = []

    def answer(request):
        shown.append(request.headers.get("Authorization"))
        stale = shown[-1] == "Bearer token-1"
        return httpx.Response(401 if stale else 200, json={"size": 1})

    for tokens in (Tokens(), None):
        files = SdkFiles("http://127.0.0.1:1", tokens)
        client = files.client()
        assert files.client() is client
        await client._http._transport.aclose()
        client._http._transport = httpx.MockTransport(answer)
        client._http._mounts = {}

        async def chunks():
            yield b"x"

        await client.upload_file(uuid.UUID(int=1), "key", "name", chunks())
        await files.aclose()
    assert shown == ["Bearer token-1", "Bearer token-2", None]


async def test_an_upload_of_the_sdks_client_is_sent_whole_again_after_a_401_and_says_what_was_stored():
    """A stream that has been read cannot be sent twice; so there is a copy, which is no longer in memory alone."""
    import httpx

    from flowherd.stock_sdk.stock_files import MEMORY_BYTES

    got = []

    def answer(request):
        headers = request.headers
        got.append((request.content, headers["content-length"], headers.get("content-type")))
        assert "transfer-encoding" not in headers
        status = (401, 201)[len(got) - 1] if len(got) < 3 else 507
        return httpx.Response(status, json={"size": len(request.content)})

    pieces = [bytes([number]) * (MEMORY_BYTES // 2 + 1) for number in range(5)]

    async def chunks():
        for piece in pieces:
            yield piece

    files = SdkFiles("http://127.0.0.1:1", None)
    client = files.client()
    await client._http._transport.aclose()
    client._http._transport = httpx.MockTransport(answer)
    client._http._mounts = {}
    stored = await client.upload_file(uuid.UUID(int=1), "key", "name", chunks(), "text/plain")
    content = b"".join(pieces)
    assert got == [(content, str(len(content)), "text/plain")] * 2
    assert (type(stored), stored.size, stored.filename) == (sdk.storage.FileMetadata, len(content), "name")
    with pytest.raises(httpx.HTTPStatusError, match="507"):
        await client.upload_file(uuid.UUID(int=1), "key", "name", chunks())
    await files.aclose()


def test_our_registry_takes_stock_activities_and_lists_may_mix_them():
    async def ours(): ...

    registry = Registry.of([echo, ours])
    assert registry.names() == ("echo", "ours")
    assert Registry().register(echo, "py-ml").worker_type == "py-ml"
