"""The hostile profile: generated poll replies and errors against a whole worker; `--soak` for the full size.

Scorecard M13. With `--soak` it is 10,000 poll bodies and 3,000 error bodies; without, a tenth of both.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hostile_replies import Replies, an_item
from virtual_time import virtual_time
from worker_kit import open_segment

from flowherd import Registry
from flowherd.client.kruxia import KruxiaEngine
from flowherd.client.kruxia_poll_replies import decode_batch
from flowherd.errors import EngineUnavailable
from flowherd.execution.run_environment import RunEnvironment
from flowherd.ledger import Ledger, RecordWriter, records_needed
from flowherd.settings.worker_config import WorkerConfig
from flowherd.transport.transport import Reply
from flowherd.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = 20261124
POLLS, ERRORS = 10_000, 3_000
GOOD = b'{"acknowledged":true,"will_retry":false}'
NOTHING = b'{"activities":[],"count":0}'


class ScriptedTransport:
    """Replays polls; every call may first get an error. Remembers what was sent, and when all is played."""

    def __init__(self, polls: list[bytes], errors: list[Reply], chance: Replies) -> None:
        self.polls = deque(polls)
        self.errors = deque(errors)
        self._chance = chance
        self.told: Counter[tuple[str, str]] = Counter()
        self.played = asyncio.Event()

    def begin(self, *_: object) -> bool:
        """Every call takes a task."""
        return False

    async def call(
        self,
        route: str,
        body: bytes,
        deadline_s: float,
        *,
        max_reply_bytes: int = 1 << 20,
        is_first: bool = False,
    ) -> Reply:
        """See `flowherd.transport.transport.Transport`."""
        await asyncio.sleep(0)
        sent = json.loads(body)
        if self.errors and self._chance.random() < 0.6:
            return self.errors.popleft()
        if route.endswith("/poll"):
            if self.polls:
                return Reply(200, {}, self.polls.popleft())
            if not self.errors:
                self.played.set()
            return Reply(200, {}, NOTHING)
        _, _, _, _, activity_id, verb = route.split("/")
        assert sent["worker_id"]
        assert verb != "fail" or (sent["error"]["code"].strip() and sent["error"]["message"].strip())
        assert "\0" not in json.dumps(sent, ensure_ascii=False)
        self.told[verb, activity_id] += 1
        return Reply(200, {}, GOOD)

    async def aclose(self) -> None:
        """Nothing to close."""


class HostileRig:
    """A worker with its real client; `begun` says which good items have run, and how often."""

    def __init__(self, transport: ScriptedTransport) -> None:
        self.transport = transport
        self.begun: Counter[int] = Counter()
        self.accidents: list[dict[str, Any]] = []
        registry = Registry()

        async def good(n: int) -> dict[str, int]:
            self.begun[n] += 1
            return {"n": n}

        registry.register(good)
        config = WorkerConfig(worker_id="rig", concurrency=8, poll_max=10)
        segment = open_segment(Ledger(processes=1, records=records_needed(8, 10)))
        engine = KruxiaEngine(transport, api_url="http://engine")
        self.worker = Worker(config, registry, engine, RecordWriter(segment), RunEnvironment())

    async def play(self) -> None:
        """Works until all replies are played, then drains; raises what ended the poller."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.accidents.append(context))
        work = loop.create_task(self.worker.run())
        played = loop.create_task(self.transport.played.wait())
        await asyncio.wait({work, played}, return_when=asyncio.FIRST_COMPLETED)
        assert not work.done() or work.result() is None, "the worker has ended by itself"
        self.worker.drain(3600.0)
        stopped = await work
        assert not stopped.undelivered
        assert not self.accidents


@pytest.fixture
def size(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """The full number with --soak, a tenth of it without."""
    return lambda full: full if request.config.getoption("--soak") else full // 10


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Prints what was counted, and what none in so many proves."""

    def say(what: str, count: int) -> None:
        record_property(what, count)
        print(f"seed {SEED}: 0 of {count} {what}; below {3 / count:.2%} with 95 % confidence")

    return say


@pytest.mark.timeout(300)
def test_no_poll_reply_ends_the_poller_and_no_bad_item_costs_a_good_one(
    size: Callable[[int], int], report: Callable[[str, int], None]
) -> None:
    """Scorecard M13, faults E15, E16."""
    chance, polls, good = Replies(SEED), [], 0
    for _ in range(size(POLLS)):
        if chance.random() < 0.4:
            polls.append(chance.garbage())
            continue
        items = [an_item(good + number) for number in range(1, chance.randint(1, 3) + 1)]
        good += len(items)
        polls.append(chance.batch(items * chance.choice([1, 1, 2])))
    begun, told = _played(polls, [], chance)
    assert begun == Counter(range(1, good + 1))
    lost = [number for number in range(1, good + 1) if told["complete", str(UUID(int=number))] != 1]
    assert not lost
    report("poll bodies ended the poller", len(polls))
    report("good items were lost to a bad neighbour", good)


@pytest.mark.timeout(300)
def test_no_error_reply_ends_the_poller_or_leaves_an_outcome_behind(
    size: Callable[[int], int], report: Callable[[str, int], None]
) -> None:
    """Scorecard M13, faults E5-E15: to polls, completions and failures alike; what comes last still runs."""
    chance, count = Replies(SEED + 1), size(ERRORS)
    errors = [Reply(*chance.error()) for _ in range(count)]
    good = count // 2
    polls = [chance.batch([an_item(number)]) for number in range(1, good + 1)]
    begun, told = _played(polls, errors, chance)
    assert begun == Counter(range(1, good + 1))
    assert told["complete", str(UUID(int=good))] == 1
    report("error bodies ended the poller", count)


def _played(polls: list[bytes], errors: list[Reply], chance: Replies) -> tuple[Counter[int], Counter[Any]]:
    """Lets a worker meet the replies in virtual time."""
    found: list[HostileRig] = []

    @virtual_time
    async def run() -> None:
        found.append(HostileRig(ScriptedTransport(polls, errors, chance)))
        await found[0].play()

    run()
    return found[0].begun, found[0].transport.told


@pytest.mark.parametrize(
    "raw",
    [b"1e999", b"9" * 5000, b'"\\ud800"', b'"\xff"', b"NaN", b'"\x01"', b"[1,]", b'{"a"}', b'"],[{\\"}"'],
)
def test_an_item_that_no_json_decoder_takes_costs_no_other_and_is_failed(raw: bytes) -> None:
    """protocol.md R4: a number out of range, half of a surrogate pair, a byte that is no UTF-8."""
    good, bad = an_item(1), b'{"activity_id":"bad-1","parameters":{"a":[%b]}}' % raw
    batch = decode_batch(b'{"activities": [%b, %b, %b],"count":1e999}' % (good, bad, good), "w-1")
    assert [activity.activity_id for activity in batch.activities] == [str(UUID(int=1))] * 2
    assert all(item.activity_id == "bad-1" for item in batch.undecodable)
    assert len(batch.undecodable) == (raw not in {b"[1,]", b'{"a"}'})


@pytest.mark.parametrize(
    "body",
    [
        b'{"activities":[',
        b'{"activities":[{"a":1]}',
        b'{"activities":["a]}',
        b'{"activities":[1e999',
        b"[1e999]",
    ],
)
def test_a_reply_that_is_cut_or_unbalanced_is_still_an_outage(body: bytes) -> None:
    """What a broken frame holds may be anything."""
    with pytest.raises(EngineUnavailable):
        decode_batch(body, "w-1")
