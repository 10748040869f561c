"""Results over links that are slow, or stand still: deadlines follow the bytes, and light work passes (N8)."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
import uvloop
from scripted_engine import Play, ScriptedEngine
from slow_link import slow_link
from structlog.testing import capture_logs

from flowherd.activities_and_outcomes import Completed
from flowherd.attempt_ids import AttemptIds
from flowherd.client.circuit import Circuit
from flowherd.client.kruxia import KruxiaEngine, new_transport
from flowherd.errors import CallTooSlow, EngineUnavailable
from flowherd.settings.worker_config import WorkerConfig
from flowherd.transport.direct_transport import DirectTransport
from flowherd.transport.stall_detection import LEAST_BYTES_PER_S, Progress
from flowherd.transport.transport import HttpxTransport, new_client
from flowherd.worker.delivery import Delivered, Delivery
from flowherd.worker.reporter import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from flowherd.transport.transport import Transport

ROUTE = "/api/v1/activities/x/complete"
KB, MB = 1000, 1_000_000


def transport_to(url: str, carrier: str, bytes_per_s: float, tls: ssl.SSLContext | None = None) -> Transport:
    if carrier == "direct":
        return DirectTransport(url, None, connections=3, tls=tls, bytes_per_s=bytes_per_s)
    client = new_client(url, None, connections=4, is_bounded=True)
    return HttpxTransport(client, connections=3, bytes_per_s=bytes_per_s)


@pytest.fixture(params=["direct", "direct on uvloop", "httpx"])
def ways(request: pytest.FixtureRequest) -> tuple[str, Callable[[Coroutine], None]]:
    """What carries the calls, and what runs a test on its loop."""
    carrier, _, loop = request.param.partition(" on ")

    def run(work: Coroutine) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop else None) as runner:
            runner.run(work)

    return carrier, run


async def delivered(reporter: Reporter, activity_id: str, outcome: Completed) -> Delivered:
    end: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
    reporter.deliver(Delivery(AttemptIds(activity_id, "w", "k", "n"), lambda: "w-1", outcome, end.set_result))
    return await end


class Beside:
    """Polls and light results beside a large one, one after the other; remembers the longest delay."""

    def __init__(self, engine: KruxiaEngine, reporter: Reporter, pause_s: float) -> None:
        self._engine = engine
        self._reporter = reporter
        self._pause_s = pause_s
        self.longest_s = 0.0
        self.count = 0

    async def go_on(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._pause_s)
            began = now()
            delivery = asyncio.create_task(delivered(self._reporter, "light", Completed(b"{}")))
            await self._engine.poll("py", "w-1", 1, 30.0)
            assert await delivery is Delivered.ACCEPTED
            self.longest_s, self.count = max(self.longest_s, now() - began), self.count + 1


async def deliver_beside_light_work(
    carrier: str, size: int, link_rate: float, deadline_s: float, least: float
) -> float:
    """Delivers a large output over a slow link; returns how long light work had to wait at most."""
    async with slow_link(link_rate) as link:
        engine, circuit = KruxiaEngine(transport_to(link.url, carrier, least)), Circuit()
        reporter = Reporter(engine, circuit, deadline_s)
        beside = Beside(engine, reporter, 0.05)
        light = asyncio.create_task(beside.go_on())
        output = Completed(b'{"n":"%b"}' % (b"x" * size))
        with capture_logs() as logs:
            assert await delivered(reporter, "large", output) is Delivered.ACCEPTED
        assert not light.done(), light.result()
        light.cancel()
        await reporter.calls_ended()
        await engine.aclose()
        assert (logs, circuit.failures) == ([], 0)
        assert link.received < 1.5 * size + 1000 * beside.count
        assert beside.count > 10
        return beside.longest_s


def test_a_large_output_over_a_slow_link_is_delivered_once_and_light_work_passes_it(ways) -> None:
    """N8: the deadline of two seconds is over long before; nothing is repeated, the circuit stays open."""
    carrier, run = ways

    async def deliver() -> None:
        longest_s = await deliver_beside_light_work(carrier, 2 * MB, 500 * KB, 2.0, 400 * KB)
        assert longest_s < 3.0

    run(deliver())


@pytest.mark.soak
@pytest.mark.timeout(200)
def test_forty_megabytes_over_half_a_megabyte_a_second(ways) -> None:
    """N8, with the default deadlines and rates."""
    carrier, run = ways

    async def deliver() -> None:
        longest_s = await deliver_beside_light_work(carrier, 40 * MB, 0.5 * MB, 30.0, LEAST_BYTES_PER_S)
        print(f"{carrier}: light work waited {longest_s:.2f} s at most")
        assert longest_s < 3.0

    run(deliver())


def test_bytes_are_seen_to_move_through_tls_too() -> None:
    """N8: what the loop still holds back of a connection with TLS cannot be asked for; the kernel can."""
    authority = trustme.CA()
    here, there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("127.0.0.1").configure_cert(here)
    authority.configure_trust(there)

    async def call() -> None:
        async with slow_link(700 * KB, here) as link:
            transport = transport_to(link.url, "direct", 1 * MB, there)
            assert (await transport.call(ROUTE, b"x" * (1500 * KB), 3.0)).status == 200
            await transport.aclose()

    asyncio.run(call())


def test_a_link_that_stands_still_ends_a_large_call_and_closes_the_circuit(ways) -> None:
    """N8: no byte in either direction for a third of the deadline (10 s of 30), long before the deadline itself."""
    carrier, run = ways

    async def call() -> None:
        async with slow_link(400 * KB) as link:
            transport = transport_to(link.url, carrier, 200 * KB)
            link.breaks_after = 100 * KB
            began = asyncio.get_running_loop().time()
            with pytest.raises(EngineUnavailable, match=r"no complete reply") as raised:
                await transport.call(ROUTE, b"x" * (400 * KB), 1.5)
            assert not raised.value.is_of_the_call
            assert raised.value.in_doubt
            assert asyncio.get_running_loop().time() - began < 1.5 + 2.0 + 0.5
            await transport.aclose()

    run(call())


def test_a_call_slower_than_the_least_rate_ends_and_says_nothing_about_others(ways) -> None:
    """N8: its own slowness closes no circuit; a byte now and then would hold its sender indefinitely."""
    carrier, run = ways

    async def call() -> None:
        async with slow_link(250 * KB) as link:
            transport = transport_to(link.url, carrier, 2 * MB)
            deadline_s = (
                3.0 if carrier == "httpx" else 1.0
            )  # through httpx bytes are seen to move in larger steps
            with pytest.raises(CallTooSlow) as raised:
                await transport.call(ROUTE, b"x" * MB, deadline_s)
            assert (raised.value.is_of_the_call, raised.value.in_doubt) == (True, True)
            await transport.aclose()

    run(call())


def test_the_bytes_of_a_reply_count_too(ways) -> None:
    """N8: what a poll brings may be larger than what it asks with."""
    carrier, run = ways

    async def call() -> None:
        async with slow_link(300 * KB) as link:
            link.polled = b"x" * (400 * KB)
            transport = transport_to(link.url, carrier, 200 * KB)
            reply = await transport.call("/api/v1/workers/poll", b"{}", 0.5)
            assert len(reply.body) == 400 * KB
            await transport.aclose()

    run(call())


async def test_polls_never_queue_behind_results(server: ScriptedEngine, carrier: str) -> None:
    """N8: a connection is kept for them."""
    config = WorkerConfig(api_url=server.url, transport=carrier)  # type: ignore[arg-type]  # one of the three
    transport = new_transport(config, None, connections=2)
    server.always("complete", Play(hold=(over := asyncio.Event())))
    results = [asyncio.create_task(transport.call(ROUTE, b"{}", 10.0)) for _ in range(4)]
    await server.asked("complete", 2)
    for _ in range(3):
        reply = await transport.call("/api/v1/workers/poll", b"{}", 10.0, is_first=True)
        assert reply.status == 200
    assert (len(server.of("complete")), server.connections) == (2, 3)
    over.set()
    await asyncio.gather(*results)
    assert server.connections <= 3
    await transport.aclose()


def begun(size: int) -> Progress:
    """An exchange of 30 s with the given bytes that began at 100 s."""
    progress = Progress()
    progress.begin(100.0, 30.0, size)
    return progress


def test_what_moves_may_go_on_until_its_bytes_are_late() -> None:
    progress, size = begun(40 * MB), 40 * MB
    deadline_at = 130.0 + size / LEAST_BYTES_PER_S
    while progress.look_at < deadline_at:
        now = progress.look_at
        assert progress.look(now, int(now), 0, is_sending=True) is None
    fault = progress.look(deadline_at, 0, 0, is_sending=True)
    assert fault is not None
    assert not fault.has_stalled


def test_a_small_call_that_is_not_answered_is_given_until_its_deadline() -> None:
    """protocol.md R3: an engine may take its time."""
    progress = begun(0)
    while progress.look_at < 130.0:
        assert progress.look(progress.look_at, 100, 0, is_sending=True) is None
    fault = progress.look(progress.look_at, 100, 0, is_sending=False)
    assert fault is not None
    assert fault.has_stalled
    assert progress.look_at == float("inf")


def test_a_frozen_process_does_not_take_the_link_for_dead() -> None:
    """A process that was frozen for an hour has seen no bytes for an hour, which proves nothing."""
    progress = begun(40 * MB)
    assert progress.look(progress.look_at, 5, 0, is_sending=True) is None
    assert progress.look(progress.look_at + 60.0, 5, 0, is_sending=True) is None
    assert progress.look(progress.look_at, 6, 0, is_sending=True) is None
