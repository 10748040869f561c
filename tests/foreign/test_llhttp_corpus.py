"""llhttp's own replies, good and bad, as bytes: to the reader alone, and through both transports."""

from __future__ import annotations

import contextlib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from foreign.llhttp_corpus import Case, corpus
from scripted_engine import Play, scripted_engine

from flowherd.client.kruxia import new_transport
from flowherd.errors import EngineUnavailable
from flowherd.settings.worker_config import WorkerConfig
from flowherd.transport.reply_parser import ReplyReader

if TYPE_CHECKING:
    from flowherd.transport.transport import Transport

CAP = 1 << 20
ROUTE = "/api/v1/activities/x/complete"
DIFFERENCES = Path(__file__).with_name("llhttp_differences.toml")


@pytest.fixture(scope="session")
def cases(llhttp_replies: Path) -> list[Case]:
    found = list(corpus(llhttp_replies))
    assert len(found) >= 80, "the corpus is written in another way now"
    assert sum(case.is_strict for case in found) >= 70
    return found


def read(*parts: bytes) -> ReplyReader:
    reader = ReplyReader()
    reader.begin(CAP)
    for part in parts:
        reader.feed(part)
        if reader.fault is not None:
            break
    return reader


def seen(reader: ReplyReader) -> tuple[int, bytes, bool, bool]:
    """As `Expected` has it; the status of an interim reply is none."""
    status = reader.status if reader.status >= 200 else 0
    return status, reader.body, reader.is_whole, reader.fault is not None


def test_every_reply_is_read_as_llhttps_own_test_has_it_or_refused_for_a_reason(cases: list[Case]) -> None:
    """Faults E15: never more lenient than the strict parser, and stricter only where a difference is named."""
    differences = tomllib.loads(DIFFERENCES.read_text())
    wrong = {}
    for case in cases:
        expected, reader = case.expected, read(case.raw)
        wanted = (expected.status, expected.body, expected.is_whole, expected.is_refused)
        if case.is_strict and seen(reader) != wanted:
            wrong[case.name] = (seen(reader), wanted)
            assert reader.fault is not None or case.name not in differences, "a difference is a refusal"
        if expected.has_surplus and case.is_strict:
            assert not reader.keep_alive, case.name
    assert wrong.keys() == differences.keys(), wrong


def test_every_reply_is_the_same_wherever_it_is_split(cases: list[Case]) -> None:
    for case in cases:
        whole = read(case.raw)
        splits = [(case.raw[:n], case.raw[n:]) for n in range(1, len(case.raw))]
        for parts in [*splits, tuple(bytes([byte]) for byte in case.raw)]:
            reader = read(*parts)
            assert (reader.is_whole, reader.fault is None) == (whole.is_whole, whole.fault is None), case.name
            if whole.is_whole:
                assert (seen(reader), reader.keep_alive) == (seen(whole), whole.keep_alive), case.name


@pytest.mark.parametrize("carrier", ["httpx", "direct"])
async def test_every_reply_is_a_reply_or_an_outage_and_the_next_call_sees_its_own(
    cases: list[Case], carrier: str
) -> None:
    """Faults E2, E15; smuggling: surplus bytes of a reply must answer no other call."""
    async with scripted_engine() as engine:
        config = WorkerConfig(api_url=engine.url, transport=carrier)  # type: ignore[arg-type]
        transport = new_transport(config, None, connections=1)
        for case in cases:
            reader = read(case.raw)
            reader.end()
            engine.script("complete", Play(raw=case.raw, close=True), Play(200, b"mine"))
            seen_by_caller = await outcome(transport)
            if carrier != "httpx":  # h11 is stricter here and more lenient there
                assert seen_by_caller == (seen(reader)[:2] if reader.is_whole else None), case.name
            assert await outcome(transport) == (200, b"mine"), case.name
        await transport.aclose()


async def outcome(transport: Transport) -> tuple[int, bytes] | None:
    """Returns the result of a call; None for an outage."""
    with contextlib.suppress(EngineUnavailable):
        reply = await transport.call(ROUTE, b"{}", 5.0)
        return reply.status, reply.body
    return None
