"""The pool of isolates with a fake host: their assignment, number and end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from isolate_pool_kit import pool
from runner_kit import CancelReason, Phase
from virtual_time import virtual_time

from flowherd.activities_and_outcomes import Completed, Died, Usage
from flowherd.isolates.isolate_protocol import (
    Begin,
    Draining,
    Ended,
    LeftBehind,
    Stop,
    TokenRefused,
    UsagePlace,
    encode,
)
from flowherd.link.messages import BootFailed, Ready
from flowherd.sdk.usage_bytes import pack
from flowherd.testing import make_activity
from flowherd.wait_status import OURS

if TYPE_CHECKING:
    from runner_kit import Run


async def until(look: Any) -> None:
    async with asyncio.timeout(5):
        while not look():  # noqa: ASYNC110 - it happens in a callback of the loop
            await asyncio.sleep(0.001)


async def done(run: Run) -> Any:
    async with asyncio.timeout(5):
        await run.ended()
        return await run.outcome()


async def test_the_limit_begins_when_an_isolate_is_ready_and_not_before():
    async with pool() as it:
        run = it.start({"a": 1}, timeout_s=7.0)
        assert run.phase is Phase.WAITING
        peer = it.open(1)
        begin, parameters = await peer.hear()
        assert (begin.activity.name, begin.limit_s, parameters) == ("work", 7.0, {"a": 1})
        assert run.phase is Phase.RUNNING
        peer.succeed(b'{"b":2}')
        assert await done(run) == Completed(b'{"b":2}')


async def test_parameters_that_came_undecoded_are_passed_on_as_they_came():
    async with pool() as it:
        it.start(msgspec.Raw(b'{"a" :  1.50}'))
        peer = it.open(1)
        await until(lambda: peer.take_in() or peer.heard)
        assert bytes(peer.heard[0][1]) == b'{"a" :  1.50}'


async def test_an_isolate_is_used_again_and_there_are_never_more_than_slots():
    async with pool(limit=2) as it:
        runs = [it.start() for _ in range(4)]
        assert it.keys == [1, 2]
        first = it.open(1)
        for run in runs[:2]:
            await first.hear()
            first.succeed()
            await done(run)
        await first.hear()
        assert it.keys == [1, 2]
        second = it.open(2)
        await second.hear()
        second.fail()
        assert (await done(runs[3])).code == "C"


async def test_the_one_that_was_used_last_is_used_first():
    """So that what is not needed any more grows idle, and ends."""
    async with pool(limit=2, idle_s=0.05) as it:
        runs = [it.start(), it.start()]
        peers = [it.open(1), it.open(2)]
        for peer in peers:
            await peer.hear()
        peers[1].succeed()
        await done(runs[1])
        await until(lambda: "1 idle" in repr(it.isolates))
        peers[0].succeed()
        await done(runs[0])
        await until(lambda: "2 idle" in repr(it.isolates))
        it.start()
        assert isinstance((await peers[0].hear())[0], Begin)
        assert await peers[1].hear() is None
        assert it.keys == [1, 2]


@virtual_time
async def test_an_isolate_that_works_for_long_is_not_idle():
    async with pool(limit=1, idle_s=10.0) as it:
        first = it.start()
        peer = it.open(1)
        await peer.hear()
        peer.succeed()
        await done(first)
        await until(lambda: "1 idle" in repr(it.isolates))
        it.start(timeout_s=100.0)
        await peer.hear()
        await asyncio.sleep(30.0)
        peer.take_in()
        assert not peer.heard
        peer.succeed()
        await asyncio.sleep(30.0)
        assert await peer.hear() is None


async def test_an_isolate_is_replaced_after_a_number_of_activities():
    async with pool(limit=1, max_tasks=2) as it:
        runs = [it.start(), it.start()]
        peer = it.open(1)
        for run in runs:
            await peer.hear()
            peer.succeed()
            await done(run)
        assert await peer.hear() is None
        following = it.start()
        assert it.keys == [1, 2]  # the old one does not count, though it has not ended yet
        it.end(1)
        await it.open(2).hear()
        assert following.phase is Phase.RUNNING


async def test_a_cancelled_activity_is_told_why_then_killed_and_its_slot_is_free_when_it_has_ended(
    caplog,
):
    async with pool(cancel_grace_s=0.01) as it:
        run = it.start(timeout_s=0.01)
        peer = it.open(1)
        await peer.hear()
        assert await peer.hear() == Stop("timeout")
        assert (await asyncio.wait_for(run.outcome(), 5)).code == "TIMEOUT"
        await until(lambda: ("kill", 1) in it.host.orders)
        assert it.host.orders[1:] == [("kill", 1)]
        assert run.is_detached
        it.end(1, 9 | OURS)
        assert run.has_ended
        [died] = [record for record in caplog.records if record.message == "isolate_died"]
        assert died.reason == "was stopped by flowherd: its handler did not stop within its grace"


async def test_an_isolate_that_was_told_to_stop_never_gets_another_activity():
    """Its SIGTERM may still be on the way, and would hit another activity."""
    async with pool(limit=1) as it:
        run = it.start()
        peer = it.open(1)
        await peer.hear()
        run.cancel(CancelReason.SHUTDOWN)
        await peer.hear()
        peer.succeed()
        assert (await done(run)).code == "WORKER_SHUTDOWN"
        assert await peer.hear() is None
        it.start()
        assert it.keys == [1, 2]


async def test_what_was_cancelled_while_it_waited_needs_no_isolate():
    async with pool(limit=1) as it:
        first, second, third = it.start(), it.start(), it.start()
        second.cancel(CancelReason.SHUTDOWN)
        assert second.has_ended
        peer = it.open(1)
        for run in (first, third):
            await peer.hear()
            peer.succeed()
            await done(run)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"nonsense", "was stopped by flowherd: JSON is malformed"),
        (b"", "it had closed its channel"),
        (b'{"type":"Ready"}', "sent Ready out of turn"),
        (b'{"type":"Never"}', "Invalid value 'Never'"),
        (b"[2000000000,2000000000]", "announced 2000000000 bytes, and 2000000000 that belong to them"),
        (b"[2000000,0]", "announced 2000000 bytes"),
        (b"[100,2]", "its file is shorter than it announced"),
        (b"[-1,0]", "Expected `int` >= 0"),
        (b"[1]", "Expected `array` of length 2"),
        (b" " * 200_000, "was stopped by flowherd"),
        (b"[" * 100_000, "was stopped by flowherd"),
        (b"{" * 100_000, "was stopped by flowherd"),
    ],
)
async def test_a17_garbage_costs_only_its_isolate_and_its_activity(data, words):
    async with pool() as it:
        runs = [it.start(), it.start()]
        peers = [it.open(1), it.open(2)]
        for peer in peers:
            await peer.hear()
        peers[0].send_raw(data)
        await until(lambda: ("kill", 1) in it.host.orders)
        it.end(1, 9 | OURS)
        death = await done(runs[0])
        assert isinstance(death, Died)
        assert words in death.how
        peers[1].succeed()
        assert await done(runs[1]) == Completed(b"{}")


@pytest.mark.parametrize("output", [b"nonsense", b"[1]", b'{"a":', b"", b"{} {}", b'{"a":"\xff"}'])
async def test_a17_an_output_that_is_no_object_is_garbage_too(output):
    """It would be spliced into the report to the engine."""
    async with pool() as it:
        run = it.start()
        peer = it.open(1)
        await peer.hear()
        peer.send(Ended(None), output)
        await until(lambda: ("kill", 1) in it.host.orders)
        it.end(1, 9)
        assert isinstance(await done(run), Died)


@pytest.mark.parametrize(
    "figures",
    [
        {"cost_usd": "-1"},
        {"cost_usd": "much"},
        {"usage": (Usage("", "m"),)},
        {"usage": (Usage("p", "m", input_tokens=-1),)},
        {"usage": (Usage("p", "m", cost_usd="NaN"),)},
        {"cpu_s": -1.0},
        {"wall_s": -1.0},
        {"cpu_s": 1e308},
        {"growth_bytes": 10**400},
    ],
)
async def test_a17_figures_that_cannot_be_are_garbage(figures):
    async with pool() as it:
        run = it.start()
        peer = it.open(1)
        await peer.hear()
        peer.succeed(**figures)
        await until(lambda: ("kill", 1) in it.host.orders)
        it.end(1, 9 | OURS)
        how = (await done(run)).how
        assert "cannot be" in how or "Expected `" in how or "out of range" in how


@pytest.mark.parametrize(
    "message",
    [
        Ready(),
        BootFailed(3, "no"),
        LeftBehind("a thread"),
        Ended(None),
        TokenRefused(-1),
        TokenRefused(2**70),
        Begin(make_activity("n"), 1.0, "m", UsagePlace(0, 1, 0, 1)),
    ],
)
@pytest.mark.parametrize("is_idle", [True, False])
async def test_a17_a_message_out_of_turn_is_garbage(message, is_idle):
    async with pool() as it:
        run = it.start()
        peer = it.open(1)
        await peer.hear()
        if is_idle:
            peer.succeed()
            await until(lambda: "1 idle" in repr(it.isolates))
        elif isinstance(message, Ended):
            return  # it is its turn
        peer.send(message)
        await until(lambda: ("kill", 1) in it.host.orders)
        it.end(1, 9)
        assert isinstance(await done(run), Completed if is_idle else Died)


def scrambled(rng: random.Random) -> bytes:
    """A message of an isolate, of which something is another thing."""
    known = [Ended(None), Ready(), BootFailed(3, "n"), LeftBehind("l"), TokenRefused(1)]
    fields = msgspec.json.decode(encode(rng.choice(known)))
    odd = [None, -1, 2**70, 1e400, "x", "\0", [], {}, [[]], {"type": "Ended"}, True]
    for name in rng.sample(sorted(fields), rng.randint(0, len(fields))):
        fields[name] = rng.choice(odd)
    data = bytearray(json.dumps(fields).encode())
    for _ in range(rng.choice([0, 0, 1, 3])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("seed", range(40))
async def test_a17_whatever_an_isolate_sends_costs_at_most_itself(seed):
    """Each activity ends, the neighbour completes, and nothing is raised on the loop."""
    rng = random.Random(seed)
    async with pool() as it:
        accidents = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: accidents.append(context))
        runs = [it.start(), it.start()]
        peers = [it.open(1), it.open(2)]
        for peer in peers:
            await peer.hear()
        with contextlib.suppress(OSError):  # its channel has been closed
            for _ in range(5):
                peers[0].send_raw(scrambled(rng))
                await asyncio.sleep(0)
        peers[1].succeed()
        assert await done(runs[1]) == Completed(b"{}")
        it.end(1, 9)
        await done(runs[0])
        assert not accidents


async def test_what_was_spent_outlives_the_isolate():
    """It is on the attempt's usage page, and the isolate's own sums take its place when there are any."""
    async with pool() as it:
        first, second = it.start(), it.start()
        peers = [it.open(1), it.open(2)]
        for peer in peers:
            begin, _ = await peer.hear()
            place = begin.usage
            it.ledger.segments[place.segment].usage(place.page, place.sequence).keep(
                pack(Decimal("0.50"), (), 1024)
            )
        it.end(1, 11)
        assert await done(first) == Died("its isolate was killed by SIGSEGV", 11)
        assert first.spent == ("0.50", ())
        usage = (Usage("p", "m", input_tokens=4),)
        peers[1].succeed(cost_usd="0.75", usage=usage)
        assert await done(second) == Completed(b"{}", "0.75", usage)


async def test_an_isolate_that_was_refused_with_a_token_has_its_worker_ask_for_another():
    versions = []
    async with pool(token_refused=versions.append) as it:
        it.start()
        it.open(1).send(TokenRefused(7))
        await until(lambda: versions == [7])


async def test_n15_what_an_activity_has_left_behind_holds_no_slot():
    """Its isolate gets no other activity, and a fresh one is asked for at once."""
    async with pool(limit=1) as it:
        first, second = it.start(), it.start()
        peer = it.open(1)
        await peer.hear()
        peer.send(Ended(None), b"{}")
        peer.send(LeftBehind("a thread or a program goes on"))
        assert await done(first) == Completed(b"{}")
        assert await peer.hear() is None
        assert it.keys == [1, 2]
        await it.open(2).hear()
        assert second.phase is Phase.RUNNING


async def test_one_that_cannot_be_made_fails_one_activity_and_the_next_one_is_tried():
    async with pool(limit=1) as it:
        first, second = it.start(), it.start()
        it.end(1, 0, "Resource temporarily unavailable")
        failure = await done(first)
        assert (failure.code, failure.retryable) == ("WORKER_OVERLOADED", True)
        assert failure.message == "its isolate could not be made: Resource temporarily unavailable"
        assert it.keys == [1, 2]
        await it.open(2).hear()
        assert second.phase is Phase.RUNNING


async def test_a_supervisor_that_is_gone_fails_the_activity():
    async with pool() as it:
        it.host.is_gone = True
        assert "the supervisor is gone" in (await done(it.start())).message


async def test_an_app_that_does_not_start_in_it_fails_one_activity_with_its_words(caplog):
    async with pool(limit=1) as it:
        run = it.start()
        it.host.peers[1].send(BootFailed(3, "KeyError: 'GPU'", "Traceback …"))
        await until(lambda: "isolate_did_not_start" in caplog.text)
        it.end(1, 3 << 8)
        failure = await done(run)
        assert (failure.code, failure.message) == (
            "WORKER_CRASHED",
            "its isolate could not start: KeyError: 'GPU'",
        )


async def test_what_an_isolate_has_sent_before_its_death_counts_though_its_reap_is_heard_first():
    """Else an activity that has ended would run again; nothing else begins in what is dead."""
    async with pool(limit=1) as it:
        first, second = it.start(), it.start()
        peer = it.open(1)
        await peer.hear()
        peer.succeed(b'{"a":1}')
        it.end(1, 11)
        assert await done(first) == Completed(b'{"a":1}')
        assert second.phase is Phase.WAITING
        await it.open(2).hear()
        assert second.phase is Phase.RUNNING


async def test_what_comes_after_garbage_does_not_count():
    async with pool() as it:
        run = it.start()
        peer = it.open(1)
        await peer.hear()
        peer.send_raw(b"nonsense")
        await until(lambda: ("kill", 1) in it.host.orders)
        peer.succeed()
        it.end(1, 9 | OURS)
        assert isinstance(await done(run), Died)


async def test_one_that_is_not_ready_in_time_is_killed():
    async with pool(boot_timeout_s=0.01) as it:
        run = it.start()
        await until(lambda: ("kill", 1) in it.host.orders)
        it.end(1, 9 | OURS)
        message = (await done(run)).message
        assert message == "its isolate was stopped by flowherd: it was not ready within 0.01 s"


async def test_one_that_is_ready_too_late_gets_no_work_since_its_kill_is_on_the_way():
    """An activity that began in it would be killed with it."""
    heard: list[int] = []
    async with pool(limit=1, boot_timeout_s=0.01, token_refused=heard.append) as it:
        run = it.start()
        await until(lambda: ("kill", 1) in it.host.orders)
        it.open(1).send(TokenRefused(7))
        await until(lambda: heard)
        assert run.phase is Phase.WAITING
        it.end(1, 9 | OURS)
        assert (await done(run)).code == "WORKER_CRASHED"


async def test_an_isolate_that_is_killed_for_its_memory_gets_no_other_activity(monkeypatch):
    """The kill is on the way: the next activity would die of it, with the reason of this one."""
    monkeypatch.setattr("flowherd.isolates.isolate.resident_bytes", lambda _: 500 << 20)
    monkeypatch.setattr("flowherd.isolates.isolate.LOOK_EVERY_S", 0.01)
    async with pool(limit=1, max_memory_mb=300) as it:
        first, second = it.start(), it.start()
        peer = it.open(1, pid=1)
        await peer.hear()
        await until(lambda: ("kill", 1) in it.host.orders)
        peer.succeed()
        assert await done(first) == Completed(b"{}")
        assert await peer.hear() is None
        it.end(1, 9 | OURS)
        await it.open(2).hear()
        assert second.phase is Phase.RUNNING


async def test_one_that_dies_idle_is_replaced_and_one_that_closes_its_channel_is_killed():
    async with pool(limit=1) as it:
        run = it.start()
        peer = it.open(1)
        await peer.hear()
        peer.succeed()
        await done(run)
        peer.channel.close()
        await until(lambda: ("kill", 1) in it.host.orders)
        following = it.start()
        it.end(1, 9)
        await it.open(2).hear()
        assert following.phase is Phase.RUNNING


async def test_handlers_hear_of_a_drain_also_in_isolates_that_are_made_later():
    async with pool() as it:
        it.start()
        peer = it.open(1)
        await peer.hear()
        it.isolates.send_draining()
        assert await peer.hear() == Draining()
        it.start()
        assert await it.host.peers[2].hear() == Draining()


async def test_lines_belong_to_the_activity_that_printed_them(caplog):
    """An isolate gets no other activity before what the last one has printed is in the log."""
    caplog.set_level("INFO")
    async with pool(limit=1) as it:
        runs = [it.start(), it.start()]
        peer = it.open(1)
        for number, run in enumerate(runs):
            begin, _ = await peer.hear()
            os.write(peer.stdout, b"out %d" % number)
            os.write(peer.stderr, b"err %d\n" % number)
            peer.succeed()
            await done(run)
            assert begin.activity.activity_id == run.activity.activity_id
        await until(lambda: "1 idle" in repr(it.isolates))
        said = [
            (r.activity_id[-1], r.getMessage(), r.line, r.levelname)
            for r in caplog.records
            if hasattr(r, "line")
        ]
        assert sorted(said) == [
            ("1", "activity_stderr", "err 0", "WARNING"),
            ("1", "activity_stdout", "out 0", "INFO"),
            ("2", "activity_stderr", "err 1", "WARNING"),
            ("2", "activity_stdout", "out 1", "INFO"),
        ]


async def test_no_isolate_is_made_once_no_attempt_waits():
    """Otherwise an app that does not start in an isolate would need a useless isolate after each failure."""
    async with pool(limit=2) as it:
        run = it.start()
        it.end(1, 0, "no memory")
        await done(run)
        assert it.keys == [1]


@virtual_time
async def test_n4_an_isolate_that_is_frozen_while_it_boots_is_not_late():
    """N4: its worker was frozen, too, and gives it the rest of its time."""
    async with pool(boot_timeout_s=30.0) as it:
        it.start()
        await asyncio.sleep(1.0)
        asyncio.get_running_loop().now += 60.0
        await asyncio.sleep(15.0)
        assert it.host.orders == [("need", 1)]
        await asyncio.sleep(15.0)
        assert it.host.orders == [("need", 1), ("kill", 1)]


async def test_n15_one_that_prints_for_ever_is_killed_a_second_after_its_activity():
    """Whatever prints: the slot is free at once, for a fresh isolate."""
    async with pool(limit=1) as it:
        first, second = it.start(), it.start()
        peer = it.open(1)
        await peer.hear()
        os.set_blocking(peer.stdout, False)
        loop = asyncio.get_running_loop()
        loop.add_writer(peer.stdout, lambda: os.write(peer.stdout, b"leftover\n" * 400))
        try:
            peer.send(Ended(None), b"{}")
            assert await done(first) == Completed(b"{}")
            since = loop.time()
            await until(lambda: ("kill", 1) in it.host.orders)
            assert 0.9 < loop.time() - since < 3
            await it.open(2).hear()
        finally:
            loop.remove_writer(peer.stdout)
        assert second.phase is Phase.RUNNING
