"""An attempt's costs are sent whatever happens to it and its process, and never charged twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from decimal import ROUND_UP, Decimal, Inexact, localcontext
from pathlib import Path

import pytest
from attempts_kit import Table, an_activity
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from virtual_time import virtual_time
from worker_kit import claim, open_segment

from flowherd import SyncActivityContext, Usage
from flowherd.execution.run_environment import RunEnvironment
from flowherd.leases.lease_scan import LeaseKeeper
from flowherd.ledger import Cause, Ledger, RecordWriter
from flowherd.ledger.usage_page import PAGE_BYTES, SUMS_BYTES, UsagePage
from flowherd.sdk.run_state import RunState
from flowherd.sdk.spending import Costs
from flowherd.sdk.usage_bytes import MAX_TOKENS, pack, unpack
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import make_activity

SUMS = st.binary(max_size=SUMS_BYTES)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=300)
COUNTS = st.integers(0, MAX_TOKENS)
PRICES = st.decimals(0, 1000, places=6).map(lambda price: format(price, "f"))
ENTRIES = st.builds(
    Usage,
    provider=st.one_of(st.sampled_from(["anthropic", "openai"]), NAMES),
    model=NAMES,
    input_tokens=COUNTS,
    output_tokens=COUNTS,
    cost_usd=st.one_of(st.none(), PRICES),
)


class Torn(bytearray):
    """Memory of a process that dies when so large a part of a write has been stored."""

    torn_at = 1.0

    def __setitem__(self, place, data) -> None:
        stored = data[: round(len(data) * self.torn_at)]
        super().__setitem__(slice(place.start, place.start + len(stored)), stored)


# Bytes


@given(earlier=st.lists(SUMS, max_size=4), last=SUMS, torn_at=st.floats(0, 1))
def test_a_write_that_a_crash_tears_leaves_the_sums_before(
    earlier: list[bytes], last: bytes, torn_at: float
) -> None:
    """Two slots take turns: whatever part of a write arrives, the newest whole sums are read."""
    memory = Torn(PAGE_BYTES)
    page = UsagePage(memory, 0, 7)
    for sums in earlier:
        page.keep(sums)
    memory.torn_at = torn_at
    page.keep(last)
    before = earlier[-1] if earlier else None
    assert page.read() in {before, last}
    if torn_at == 1.0:
        assert page.read() == last


@given(lives=st.lists(st.lists(st.tuples(SUMS, st.floats(0, 1)), max_size=3), max_size=4))
def test_what_an_earlier_attempt_left_on_the_same_page_never_counts(
    lives: list[list[tuple[bytes, float]]],
) -> None:
    """A place is used again without being cleared, also after a torn write."""
    memory = Torn(PAGE_BYTES)
    for sequence, writes in enumerate(lives, 1):
        page = UsagePage(memory, 0, sequence)
        assert page.read() is None
        for sums, torn_at in writes:
            memory.torn_at = torn_at
            page.keep(sums)
        memory.torn_at = 1.0
        page.keep(b"whole")
        assert page.read() == b"whole"


# Merging


@given(cost=st.none() | PRICES.map(Decimal), usage=st.lists(ENTRIES, max_size=60).map(tuple))
def test_sums_always_fit_and_no_money_is_lost_on_the_way(
    cost: Decimal | None, usage: tuple[Usage, ...]
) -> None:
    """The rule of sdk/usage_bytes.py: prices are exact, tokens without a price stay tokens without a price."""
    packed = pack(cost, usage, SUMS_BYTES)
    assert len(packed) <= SUMS_BYTES
    kept_cost, kept = unpack(packed)

    def money(rest: object, entries: tuple[Usage, ...]) -> Decimal:
        return sum((Decimal(e.cost_usd) for e in entries if e.cost_usd is not None), Decimal(str(rest or 0)))

    assert money(kept_cost, kept) == money(cost, usage)
    before = sum(e.input_tokens for e in usage if e.cost_usd is None)
    after = sum(e.input_tokens for e in kept if e.cost_usd is None)
    assert after == before or MAX_TOKENS in {e.input_tokens for e in kept}


def test_few_sums_are_kept_as_they_are() -> None:
    usage = (Usage("anthropic", "m", 1, 2, 3, 4, 0.5), Usage("openai", "n", cost_usd="0.1"))
    assert unpack(pack(Decimal("1.5"), usage, SUMS_BYTES)) == ("1.5", usage)
    assert unpack(pack(None, (), SUMS_BYTES)) == (None, ())


def test_a_sum_without_a_price_that_finds_no_place_goes_to_the_largest_of_its_provider() -> None:
    """It is priced as that model, rather than not at all."""
    big = [Usage(name, f"{name}-big", input_tokens=10**6) for name in ("a", "b")]
    small = [Usage("b", f"model-{number}-{'x' * 100}", input_tokens=1) for number in range(30)]
    _, kept = unpack(pack(None, (*small, *big), SUMS_BYTES))
    found = {entry.model: entry.input_tokens for entry in kept}
    assert found["a-big"] == 10**6
    assert found["b-big"] == 10**6 + len(small) - (len(kept) - 2)


# Contexts


class Kept:
    """A usage page in memory."""

    room_for_sums = SUMS_BYTES

    def __init__(self) -> None:
        self.sums: list[bytes] = []

    def keep_spent(self, sums: bytes) -> None:
        self.sums.append(sums)


def test_each_call_is_kept_before_the_handler_goes_on() -> None:
    keeper = Kept()
    ctx = SyncActivityContext(RunState(make_activity("work"), RunEnvironment(), keeper))
    ctx.record_usage("anthropic", "m", input_tokens=10)
    ctx.record_usage("anthropic", "m", input_tokens=5)
    ctx.record_cost("0.25")
    assert [unpack(sums) for sums in keeper.sums] == [
        (None, (Usage("anthropic", "m", input_tokens=10),)),
        (None, (Usage("anthropic", "m", input_tokens=15),)),
        ("0.25", (Usage("anthropic", "m", input_tokens=15),)),
    ]


def test_threads_of_one_handler_lose_no_money_to_each_other() -> None:
    keeper = Kept()
    costs = Costs(keeper)

    def spend() -> None:
        for _ in range(200):
            costs.add_usage(Usage("p", "m", input_tokens=1, cost_usd="0.01"))
            costs.add_cost("0.01")

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert unpack(keeper.sums[-1]) == ("8.00", (Usage("p", "m", input_tokens=800, cost_usd="8.00"),))


# Attempts


def spend(table: Table, activity_id: str, usd: str) -> None:
    """Reports from whatever stands for the handler, as an isolate's message does."""
    SyncActivityContext(table.attempt(activity_id)).record_cost(usd)


async def settled(table: Table) -> dict[str, tuple[str, str | None]]:
    """The worker's process has died: what the keeper says of each activity, and with which cost."""
    loop = asyncio.get_running_loop()
    keeper = LeaseKeeper(table.engine, table.engine, table.ledger, WorkerConfig(), lambda _: None, loop.time)
    before = len(table.engine.calls)
    table.segment.end(Cause.CRASH, signal.SIGKILL)
    running = loop.create_task(keeper.run())
    await keeper.all_settled()
    running.cancel()
    told = [call for call in table.engine.calls[before:] if call.verb in {"complete", "fail"}]
    return {call.activity_id: (call.worker_id, call.body["cost_usd"]) for call in told}


@virtual_time
async def test_a_process_that_dies_is_settled_with_what_its_activities_have_spent() -> None:
    table = Table()
    worker_id = table.bring(an_activity("a-1"), an_activity("a-2"))
    await table.rest()
    spend(table, "a-1", "0.25")
    spend(table, "a-1", "0.5")
    assert await settled(table) == {"a-1": (worker_id, "0.75"), "a-2": (worker_id, None)}
    [failed] = [call for call in table.engine.of("fail") if call.activity_id == "a-1"]
    assert failed.body["error"]["code"] == "WORKER_CRASHED"


@pytest.mark.parametrize("spends_again", [True, False])
@pytest.mark.parametrize("records", [20, 1])
@virtual_time
async def test_what_was_spent_moves_with_a_claim_and_is_told_under_the_newest_alone(
    records: int, *, spends_again: bool
) -> None:
    """E18: the earlier claim's record is gone; with a single place it is written over."""
    table = Table(slots=1, records=records)
    table.bring(an_activity())
    await table.rest()
    spend(table, "a-1", "0.25")
    newest_id = table.bring(an_activity())
    if spends_again:
        spend(table, "a-1", "0.5")
    assert await settled(table) == {"a-1": (newest_id, "0.75" if spends_again else "0.25")}


def test_a_record_that_moves_leaves_its_usage_page_where_it_is() -> None:
    """E18: the engine takes the newest claim's report and refuses the other, so both name the same sums."""
    ledger = Ledger(processes=1, records=4)
    writer = RecordWriter(segment := open_segment(ledger))
    place = claim(writer)
    index, page = place[0], segment.usage(*place)
    page.keep(b"sums")
    for number in range(2, 9):  # more often than there are places
        index, _ = writer.move(index, f"w-{number}", now=1.0, completion=None)
        record = segment.record(index)
        assert record is not None
        assert (record.usage_page, record.usage_sequence) == place
        others = [claim(writer) for _ in range(writer.free)]
        assert len(others) == 2, "the record and the page each take a place"
        for other in others:
            segment.usage(*other).keep(b"other sums")
            writer.clear(other[0])
        assert page.read() == b"sums"
    writer.clear(index)
    assert writer.free == 4


@pytest.mark.parametrize("records", [1, 2])
def test_a_record_that_moves_where_there_is_no_other_place_keeps_its_page(records: int) -> None:
    """E18: then it is written over."""
    ledger = Ledger(processes=1, records=records)
    writer = RecordWriter(segment := open_segment(ledger))
    place = claim(writer)
    segment.usage(*place).keep(b"sums")
    index = place[0]
    for number in range(2, 6):
        index, _ = writer.move(index, f"w-{number}", now=1.0, completion=None)
        record = segment.record(index)
        assert record is not None
        assert segment.usage(record.usage_page, record.usage_sequence).read() == b"sums"
    writer.clear(index)
    assert writer.free == records


@virtual_time
async def test_the_next_activity_in_the_same_place_has_spent_nothing() -> None:
    table = Table(slots=1, records=1)
    table.bring(an_activity("a-1"))
    await table.rest()
    spend(table, "a-1", "0.25")
    table.handlers.end("a-1")
    await table.rest()
    assert [call.body["cost_usd"] for call in table.engine.of("complete")] == ["0.25"]
    worker_id = table.bring(an_activity("a-2"))
    await table.rest()
    assert await settled(table) == {"a-2": (worker_id, None)}


@virtual_time
async def test_work_given_back_at_a_stop_tells_what_its_handler_has_spent() -> None:
    """Also when the handler does not end: its slot's failure is not the handler's."""
    table = Table()
    table.bring(an_activity("a-1", "stubborn"), an_activity("a-2"))
    await table.rest()
    spend(table, "a-1", "0.25")
    spend(table, "a-2", "0.5")
    await table.attempts.release(last_chance_s=0.1)
    await table.attempts.all_ended()
    told = {c.activity_id: (c.body["error"]["code"], c.body["cost_usd"]) for c in table.engine.of("fail")}
    assert told == {"a-1": ("WORKER_SHUTDOWN", "0.25"), "a-2": ("WORKER_SHUTDOWN", "0.5")}
    table.handlers.end("a-1")
    await table.rest()


@virtual_time
async def test_what_an_attempt_has_spent_whose_lease_was_lost_is_named_in_the_log() -> None:
    """Protocol, fact 13: it cannot be reported, so the log has it."""
    table = Table()
    table.bring(an_activity())
    await table.rest()
    spend(table, "a-1", "0.25")
    with capture_logs() as logs:
        table.lose("a-1")
        await table.rest()
    [line] = [line for line in logs if line["event"] == "spent_by_lost_attempt"]
    assert (line["activity_id"], line["cost_usd"]) == ("a-1", "0.25")


@virtual_time
async def test_what_is_spent_after_the_outcome_is_in_no_report_and_so_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A task that a handler left behind must not write into the record of the next activity either."""
    table = Table(slots=1, records=1)
    table.bring(an_activity("a-1"))
    await table.rest()
    attempt = table.attempt("a-1")
    spend(table, "a-1", "0.25")
    table.handlers.end("a-1")
    await table.rest()
    worker_id = table.bring(an_activity("a-2"))
    await table.rest()
    spend(table, "a-2", "0.5")
    SyncActivityContext(attempt).record_cost("9")
    assert any(record.message == "spent_after_the_outcome" for record in caplog.records)
    assert await settled(table) == {"a-2": (worker_id, "0.5")}


COPY = """
import asyncio, os
from flowherd import SyncActivityContext
from flowherd import end_forked_copies
from flowherd.link.link import Link
from attempts_kit import Table, an_activity

async def main():
    table = Table()
    end_forked_copies.guard(asyncio.get_running_loop(), Link.pair()[0])
    table.bring(an_activity())
    await table.rest()
    context = SyncActivityContext(table.attempt("a-1"))
    [record] = table.segment.records()
    context.record_cost("0.25")
    ours = table.segment.usage(record.usage_page, record.usage_sequence).read()
    if not os.fork():
        context.record_cost("9")
        os._exit(0)
    assert os.wait()[1] == 0
    assert table.segment.usage(record.usage_page, record.usage_sequence).read() == ours

asyncio.run(main())
"""


@pytest.mark.fork
def test_a_copy_that_a_handler_has_forked_writes_no_sums() -> None:
    """Law 7: a cell has one writer. What a copy spends is its original's to record."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "support")}
    subprocess.run([sys.executable, "-c", COPY], check=True, timeout=30, env=environment)


@virtual_time
async def test_the_settlement_names_what_it_told() -> None:
    table = Table()
    table.bring(an_activity())
    await table.rest()
    spend(table, "a-1", "0.25")
    with capture_logs() as logs:
        await settled(table)
    [line] = [line for line in logs if line["event"] == "activity_failed"]
    assert (line["cost_usd"], line["usage"]) == ("0.25", [])


@pytest.mark.parametrize("traps", [[], [Inexact]])
def test_money_is_exact_whatever_a_handler_has_done_to_the_arithmetic_of_its_decimals(traps):
    """Code that needs two digits sets the context of all decimals of its handler."""
    costs = Costs()
    with localcontext() as context:
        context.prec, context.rounding = 2, ROUND_UP
        for trap in traps:
            context.traps[trap] = True
        for _ in range(2):
            costs.add_cost("1.2345678901234")
            costs.add_usage(Usage("p", "m", input_tokens=1, cost_usd="1234.5678901234567"))
        packed = pack(Decimal("123.456"), (Usage("p" * 900, "m", cost_usd="654.321"),) * 9, 1024)
    assert costs.cost_usd == "2.469135780246"
    assert [entry.cost_usd for entry in costs.usage] == ["2469.135780246914"]
    sums = unpack(packed)
    assert sum(Decimal(price) for price in (sums[0], *(e.cost_usd for e in sums[1]))) == Decimal("6012.345")
