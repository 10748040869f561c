"""The replies that a worker keeps for whoever adopts, and the decision about a record, as others read them."""

from __future__ import annotations

import random

import pytest
from worker_kit import claim, open_segment

from flowherd.ledger import Ledger, RecordWriter
from flowherd.ledger.adoption_cells import FAIL, LARGEST_REPLY, REPLIES_BYTES, KeptReply


@pytest.fixture
def writer() -> RecordWriter:
    return RecordWriter(open_segment(Ledger(processes=1, records=8)))


def test_a_reply_is_kept_until_the_last_record_that_it_brought_has_begun(writer: RecordWriter) -> None:
    """One copy serves all of them, and its room is used again."""
    reply = writer.replies.keep(b"{}")
    assert reply is not None
    places = [writer.claim(f"a-{n}", "w-1", "act", now=1.0, lease_s=60.0, reply=reply)[0] for n in range(2)]
    writer.replies.leave(reply)
    cells = writer.segment.adoption
    assert [cells.reply(cells.reply_place(place)) for place in places] == [b"{}", b"{}"]
    writer.running(places[0], now=2.0, limit_s=60.0)
    assert "[64 of" in repr(writer.replies)
    writer.clear(places[1])
    assert "[0 of" in repr(writer.replies)
    assert cells.reply_place(writer.claim("a-3", "w-2", "act", now=3.0, lease_s=60.0)[0]) == 0


@pytest.mark.parametrize("reply", [b"", b"x" * (LARGEST_REPLY + 1)])
def test_nothing_and_too_much_is_not_kept(writer: RecordWriter, reply: bytes) -> None:
    """What such a reply brought is requeued after a crash, as without any memory."""
    assert writer.replies.keep(reply) is None
    assert writer.segment.adoption.reply(0) is None


def test_room_is_used_again_in_whatever_order_replies_are_given_up(writer: RecordWriter) -> None:
    """Gaps become one again, so that memory for replies never runs out by itself."""
    rng, kept = random.Random(7), list[tuple[KeptReply, bytes]]()
    refused = 0
    for number in range(2_000):
        body = bytes([number % 251 + 1]) * rng.randint(1, 200_000)
        if (reply := writer.replies.keep(body)) is not None:
            kept.append((reply, body))
        else:
            refused += 1
        while kept and (rng.random() < 0.5 or (reply is None and len(kept) > 5)):
            old, expected = kept.pop(rng.randrange(len(kept)))
            assert writer.segment.adoption.reply(old.place) == expected
            writer.replies.leave(old)
    for old, _ in kept:
        writer.replies.leave(old)
    assert refused
    assert repr(writer.replies) == f"<KeptReplies [0 of {REPLIES_BYTES} bytes, 1 gaps]>"


def test_a_reply_that_was_written_over_is_none(writer: RecordWriter) -> None:
    """User code may scribble there: nobody runs what does not check."""
    reply = writer.replies.keep(b"a reply")
    assert reply is not None
    cells = writer.segment.adoption
    cells.map[cells.replies_at + reply.place + 8] ^= 1
    assert cells.reply(reply.place) is None


def test_a_decision_is_about_one_record_and_not_the_next_in_its_place(writer: RecordWriter) -> None:
    """Nobody has to clear what an earlier incarnation's record has left."""
    index, _ = claim(writer)
    record, cells = writer.segment.record(index), writer.segment.adoption
    assert record is not None
    assert cells.decision(record) == 0
    cells.decide(record, FAIL)
    assert cells.decision(record) == FAIL
    writer.clear(index)
    assert claim(writer)[0] == index
    later = writer.segment.record(index)
    assert later is not None
    assert cells.decision(later) == 0


def test_a_decision_is_never_changed(writer: RecordWriter) -> None:
    """Whoever adopts may have begun: a keeper that decides again, as by a defect, must not fail it then."""
    index, _ = claim(writer)
    record, cells = writer.segment.record(index), writer.segment.adoption
    assert record is not None
    cells.decide(record, 7 << 30)
    assert cells.decide(record, FAIL) == 7 << 30
    assert cells.decision(record) == 7 << 30
