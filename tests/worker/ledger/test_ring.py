"""Rings of entries in shared memory: bounded, and nothing torn is ever read."""

from __future__ import annotations

import mmap
import os
import random
import struct

import pytest
from worker_kit import child_that

from flowherd.ledger.ring import Ring, area_bytes

SIZE = 24
NUMBERS = struct.Struct("<QQQ")


def ring(slots: int = 8) -> Ring:
    return Ring(mmap.mmap(-1, mmap.PAGESIZE * 16), 0, slots=slots, entry_bytes=SIZE)


def entry(number: int) -> bytes:
    return NUMBERS.pack(number, number, number)


def numbers(entries: list[bytes]) -> list[int]:
    found = []
    for one in entries:
        first, second, third = NUMBERS.unpack(one)
        assert first == second == third, "an entry is torn"
        found.append(first)
    return found


def test_the_newest_entries_are_kept_in_their_order() -> None:
    past = ring()
    for number in range(100):
        past.append(entry(number))
    assert numbers(past.entries()) == list(range(93, 100))
    assert past.written == 100


def test_entries_move_on_once_and_in_order_however_often_they_are_fetched() -> None:
    own, host = ring(), ring(64)
    for number in range(20):
        own.append(entry(number))
        if number % 3 == 0:
            host.take_from(own)
    assert numbers(own.waiting()) == [19]
    host.take_from(own)
    host.take_from(own)
    assert numbers(host.entries()) == list(range(20))
    assert (own.missed, own.waiting()) == (0, [])


def test_entries_are_found_by_a_word_that_stands_in_one_of_them_and_not_across_two() -> None:
    past = ring(64)
    texts = [b"a flow-1 b", b"flow-2", b"x" * (SIZE - 4) + b"flow", b"-1 and flow-2", b"", b"flow-1flow-1"]
    for text in texts:
        past.append(text.ljust(SIZE, b"\0"))
    assert [one.rstrip(b"\0") for one in past.entries(b"flow-1")] == [texts[0], texts[5]]
    assert [one.rstrip(b"\0") for one in past.waiting(b"flow-2")] == [texts[1], texts[3]]
    assert past.entries(b"flow-3") == []
    assert len(past.entries()) == len(texts)


def test_what_was_written_over_before_it_was_fetched_is_counted_as_missed() -> None:
    own, host = ring(), ring(64)
    for number in range(30):
        own.append(entry(number))
    host.take_from(own)
    assert numbers(host.entries()) == list(range(23, 30))
    assert own.missed == 23


def test_a_small_ring_takes_everything_from_a_large_one() -> None:
    own, host = ring(64), ring(4)
    for number in range(40):
        own.append(entry(number))
    host.take_from(own)
    assert numbers(host.entries()) == [37, 38, 39]


def test_another_writer_goes_on_where_the_one_before_has_ended() -> None:
    map_ = mmap.mmap(-1, mmap.PAGESIZE)
    old = Ring(map_, 0, slots=8, entry_bytes=SIZE)
    new = Ring(map_, 0, slots=8, entry_bytes=SIZE)
    old.append(entry(0))
    new.resume()
    new.append(entry(1))
    assert numbers(new.entries()) == [0, 1]


@pytest.mark.parametrize("garbage", [b"\xff" * 24, b"\x07" + bytes(23), bytes(8) + b"\xff" * 16])
def test_garbage_in_the_counts_loses_entries_and_breaks_nothing(garbage: bytes) -> None:
    """User code can write into the memory of its process: the keeper lives on."""
    map_ = mmap.mmap(-1, mmap.PAGESIZE)
    own, host = Ring(map_, 0, slots=8, entry_bytes=SIZE), ring(64)
    own.append(entry(1))
    map_[: len(garbage)] = garbage
    host.take_from(own)
    own.waiting()
    own.entries()
    own.resume()
    before = own.written
    own.append(entry(2))
    host.take_from(own)
    assert host.entries()[-1] == entry(2)
    assert own.written == before + 1


def test_the_memory_of_a_ring_is_fixed() -> None:
    """Its writer never writes behind it."""
    map_ = mmap.mmap(-1, mmap.PAGESIZE)
    past = Ring(map_, 0, slots=8, entry_bytes=SIZE)
    end = area_bytes(8, SIZE)
    for number in range(1000):
        past.append(entry(number))
    past.extend(b"".join(map(entry, range(7))))
    assert map_[end:] == bytes(mmap.PAGESIZE - end)
    assert numbers(past.entries()) == list(range(7))


class Overtaken:
    """A map whose writer writes during a read: the first bytes are older than the others."""

    def __init__(self, own: Ring, fresh: list[int]) -> None:
        self._own, self._map, self._fresh = own, own._map, fresh

    def __getitem__(self, place: slice) -> bytes:
        middle = (place.start + place.stop) // 2
        before = self._map[place.start : middle]
        self._own._map = self._map
        for number in self._fresh:
            self._own.append(entry(number))
        return before + self._map[middle : place.stop]


@pytest.mark.parametrize("fresh", [0, 1, 3, 7, 8, 20])
def test_what_is_written_over_while_it_is_read_does_not_count(fresh: int) -> None:
    own, host = ring(), ring(64)
    for number in range(24):
        own.append(entry(number))
    own._map = Overtaken(own, list(range(24, 24 + fresh)))  # type: ignore[assignment]
    host.take_from(own)
    kept = list(range(max(17, 17 + fresh), 24))
    assert numbers(host.entries()) == kept
    assert own.missed == 24 - len(kept)
    host.take_from(own)
    assert numbers(host.entries()) == sorted({*kept, *range(max(24, 17 + fresh), 24 + fresh)})


def test_a_reader_in_another_process_gets_whole_entries_in_order_while_they_are_overwritten() -> None:
    """A writer that is much faster than its reader costs entries, never the truth of those that are read."""
    slots, words = 200, struct.Struct("<40Q")
    map_ = mmap.mmap(-1, mmap.PAGESIZE * 32)
    own = Ring(map_, 0, slots=slots, entry_bytes=words.size)
    host = Ring(mmap.mmap(-1, mmap.PAGESIZE * 512), 0, slots=5_000, entry_bytes=words.size)

    def write() -> None:
        for number in range(10**9):
            own.append(words.pack(*[number] * 40))

    def numbers_of(entries: list[bytes]) -> list[int]:
        found = [set(words.unpack(one)) for one in entries]
        assert all(len(one) == 1 for one in found), "an entry is torn"
        return [one.pop() for one in found]

    with child_that(write):
        while own.written < 50_000:
            host.take_from(own)
            seen = numbers_of(own.entries())
            assert seen == sorted(seen), "an entry is newer than those behind it"
    found = numbers_of(host.entries())
    assert found == sorted(set(found))
    assert own.missed + host.written <= own.written


def test_any_order_of_writes_and_reads_keeps_the_newest() -> None:
    seed = int(os.environ.get("SEED", "7"))
    rng = random.Random(seed)
    for _ in range(50):
        own, host = ring(rng.randint(2, 9)), ring(rng.randint(2, 30))
        written = 0
        for _ in range(200):
            if rng.random() < 0.8:
                own.append(entry(written))
                written += 1
            else:
                host.take_from(own)
        host.take_from(own)
        found = numbers(host.entries())
        assert found == sorted(set(found)), seed
        assert not found or found[-1] == written - 1, seed
        assert own.missed + host.written == written, seed
