"""What flowherd offers for users' own tests, and the engine in memory that worker tests build on."""

import asyncio

import pytest
import structlog

from flowherd import ActivityContext, RegistryError, SyncActivityContext, activity
from flowherd.activities_and_outcomes import Completed, Failed, Usage
from flowherd.client.engine_protocol import Answer, Batch, Engine, Undecodable, Verdict
from flowherd.errors import EngineUnavailable
from flowherd.execution.run_environment import RunEnvironment
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import FakeEngine, make_activity, run_activity, run_activity_sync


@activity(name="double")
async def _double(ctx: ActivityContext, n: int):
    ctx.record_usage("p", "m", input_tokens=n)
    return {"n": n * 2, "state": ctx.state, "signal": ctx.signal}


async def test_a_handler_is_run_as_a_worker_would():
    environment = RunEnvironment(state="db")
    result = await run_activity(_double, {"n": "4"}, environment=environment, signal_data=[1])
    assert result.output == {"n": 8, "state": "db", "signal": [1]}
    assert result.usage == (Usage("p", "m", input_tokens=4),)
    with pytest.raises(AssertionError, match="did not fail"):
        _ = result.failure


async def test_a_handler_gets_the_state_that_the_lifespan_of_its_app_would_have_made():
    """Without it a test would have to build the environment of a worker."""
    assert (await run_activity(_double, {"n": 1}, state="db")).output["state"] == "db"


def test_a_test_that_is_not_async_can_run_one_too():
    def plain(ctx: SyncActivityContext, n: int):
        return ctx.activity_key + "!" * n

    assert run_activity_sync(plain, {"n": 2}, key="step").output == {"result": "step!!"}


async def test_a_failure_is_a_value_to_look_at():
    result = await run_activity(_double, {"n": "x"})
    assert result.failure.code == "INVALID_PARAMETERS"
    with pytest.raises(AssertionError, match=r"did not complete: .*INVALID_PARAMETERS"):
        _ = result.output


async def test_limits_can_be_tested():
    async def forever():
        await asyncio.Event().wait()

    config = WorkerConfig(worker_id="t", activity_timeout_s=0.01)
    assert (await run_activity(forever, config=config)).failure.code == "TIMEOUT"


def _is_an_engine(engine: Engine) -> Engine:
    return engine


async def test_the_fake_engine_hands_out_each_activity_once_under_the_polls_worker_id():
    engine = FakeEngine()
    assert _is_an_engine(engine) is engine
    engine.offer(
        make_activity("a", number=1),
        make_activity("b", number=2, worker_type="py-ml"),
        Undecodable("x", "", "bad"),
        make_activity("c", number=3),
    )
    first = await engine.poll("py-std", "w-1", 2, 1.0)
    assert [item.name for item in first.activities] == ["a"]
    assert [(item.activity_id, item.worker_id) for item in first.undecodable] == [("x", "w-1")]
    second = await engine.poll("py-std", "w-2", 9, 1.0)
    assert [(item.name, item.worker_id) for item in second.activities] == [("c", "w-2")]
    assert [item.name for item in (await engine.poll("py-ml", "w-3", 9, 1.0)).activities] == ["b"]
    assert [call.limit for call in engine.of("poll")] == [2, 9, 9]


async def test_the_fake_engine_answers_as_scripted_and_then_accepts():
    engine, held = FakeEngine(), asyncio.Event()
    engine.script(
        "complete", Verdict.GONE, Answer(Verdict.REFUSED, "no"), EngineUnavailable("down"), held.wait
    )
    body = engine.encode_completion("w", Completed(b'{"a":1}', "0.5", (Usage("p", "m"),)))
    assert (await engine.complete("id", body, 1.0)).verdict is Verdict.GONE
    assert (await engine.complete("id", body, 1.0)).detail == "no"
    with pytest.raises(EngineUnavailable):
        await engine.complete("id", body, 1.0)
    waiting = asyncio.create_task(engine.complete("id", body, 1.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    held.set()
    assert (await waiting).verdict is Verdict.ACCEPTED
    sent = engine.of("complete")[0].body
    assert (sent["output"], sent["cost_usd"], sent["usage"][0]["provider"]) == ({"a": 1}, "0.5", "p")


async def test_a_test_can_wait_for_what_the_worker_does():
    engine = FakeEngine()
    settled = asyncio.create_task(engine.settled("1", "2"))
    beaten = asyncio.create_task(engine.until(lambda engine: len(engine.of("heartbeat")) == 1))
    await engine.heartbeat("1", "w", 1.0)
    await asyncio.wait_for(beaten, 5)
    await engine.complete("1", engine.encode_completion("w", Completed(b"{}")), 1.0)
    await asyncio.sleep(0)
    assert not settled.done()
    await engine.fail("2", engine.encode_failure("w", Failed("C", "m", retryable=True)), 1.0)
    await asyncio.wait_for(settled, 5)
    assert engine.of("fail")[0].body["error"] == {"code": "C", "message": "m", "retryable": True}
    await engine.aclose()
    assert engine.closed


async def test_a_scripted_poll_brings_just_that_batch():
    engine = FakeEngine()
    engine.script("poll", Batch([make_activity("a")]))
    assert len((await engine.poll("py-std", "w", 1, 1.0)).activities) == 1
    assert len((await engine.poll("py-std", "w", 1, 1.0)).activities) == 0


async def test_a_handler_for_an_isolate_is_tested_where_the_test_says():
    """A test has no supervisor, and so no isolates; the same body gives the same output elsewhere."""

    @activity(offload="process")
    def work(n: int):
        return n + 1

    with pytest.raises(RegistryError, match='offload="thread"'):
        await run_activity(work, {"n": 1})
    assert (await run_activity(work, {"n": 1}, offload="thread")).output == {"result": 2}


@pytest.fixture
def _users_logging():
    """structlog as in the tests of a user, who has not configured it."""
    before = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("_users_logging")
def test_a_failure_is_one_line_with_its_reason_and_the_users_traceback(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """What pytest shows below a failing test: the message of a record, and nothing of its fields."""

    def divide(a: int) -> float:
        return a / 0

    run_activity_sync(divide, {"a": 1})
    [message] = caplog.messages
    first, *trace = message.splitlines()
    assert first.startswith(
        "activity_failed type='ZeroDivisionError' code='EXECUTION_ERROR' reason='division by zero' at="
    )
    assert trace[-2:] == ["    return a / 0", "ZeroDivisionError: division by zero"]
    assert capsys.readouterr() == ("", ""), "no second line by structlog itself"
