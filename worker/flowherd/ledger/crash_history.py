"""The activities that were running when a process of the host crashed, and which of them are suspects.

`flowherd.leases.suspects` says which deaths count and who is a suspect; this is the memory of both.

The keeper writes; workers read. An entry's hash is stored last, so that a reader never sees half an entry. Entries are
used in order: `used` counts those ever written, and the others are never read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from hashlib import blake2b
from sys import byteorder
from typing import TYPE_CHECKING

import msgspec

from flowherd.ledger.checksummed import CHECKSUM, checksummed, read_checksummed

if TYPE_CHECKING:
    from collections.abc import Callable

FEWEST_ENTRIES = 256
FORGOTTEN_AFTER_S = 3600.0
ABOUT_S = 120.0  # most retry delays are shorter (protocol.md §3.2)
_ENTRY_BYTES = 1024
_BODY_BYTES = _ENTRY_BYTES - CHECKSUM.size
_DEATHS_NAMED = 5
_HASH_BYTES = _TIME_BYTES = 8
_HEAD_BYTES = 16  # the number of used entries, and the time of the last death with a suspect
_BYTES_EACH = _HASH_BYTES + _TIME_BYTES + _ENTRY_BYTES


def area_bytes(entries: int) -> int:
    """Returns the bytes of a table of this many entries; pages never written cost no memory."""
    return _HEAD_BYTES + entries * _BYTES_EACH


@dataclass(frozen=True, slots=True)
class Charges:
    """The crashes held against one activity.

    Attributes:
        deaths: a line for each of the latest deaths, oldest first.
        count: the number of all deaths.
        last: the sequence of the record of the last death, so that no death is charged twice.
        is_suspect: True when one of the deaths made it a suspect.

    """

    deaths: tuple[str, ...] = ()
    count: int = 0
    last: int = 0
    is_suspect: bool = False

    def before(self, sequence: int) -> int:
        """Returns the number of the deaths before that of a record."""
        return self.count - (self.last == sequence)


_NOTHING = Charges()
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Charges)


class CrashHistory:
    """The table of charged activities.

    Args:
        area: a part of the shared map, of `area_bytes` for the number of entries.
        clock: monotonic seconds.

    """

    def __init__(self, area: memoryview, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries = (len(area) - _HEAD_BYTES) // _BYTES_EACH
        times_at = _HEAD_BYTES + self._entries * _HASH_BYTES
        bodies_at = times_at + self._entries * _TIME_BYTES
        self._used = area[:8].cast("Q")
        self._suspected_at = area[8:_HEAD_BYTES].cast("d")
        self._taken = area[_HEAD_BYTES:times_at]
        self._hashes = self._taken.cast("Q")
        self._times = area[times_at:bodies_at].cast("d")
        self._bodies = area[bodies_at:]
        self._clock = clock

    @classmethod
    def none(cls) -> CrashHistory:
        """Returns an empty private table, for a worker without a shared one."""
        return cls(memoryview(bytearray(area_bytes(1))))

    def __repr__(self) -> str:
        return f"<CrashHistory [{self._used[0]} of {self._entries}]>"

    def charges(self, activity_id: str) -> Charges:
        """Returns the crashes held against an activity; none for nearly all."""
        if not self._used[0]:
            return _NOTHING
        index = self._find(activity_id)
        if index is None or self._clock() - self._times[index] > FORGOTTEN_AFTER_S:
            return _NOTHING
        start = index * _ENTRY_BYTES
        body = read_checksummed(bytes(self._bodies[start : start + _ENTRY_BYTES]), 0, _BODY_BYTES)
        return _decoder.decode(body) if body else _NOTHING

    def is_suspect(self, activity_id: str) -> bool:
        """True when this activity may have ended a process."""
        return self.charges(activity_id).is_suspect

    @property
    def are_about(self) -> bool:
        """True when a suspect was charged recently, so that the next batch may hold it."""
        return self.any_suspects and self._clock() - self._suspected_at[0] < ABOUT_S

    @property
    def any_suspects(self) -> bool:
        """True when any activity was ever a suspect; a fast check, made for each activity."""
        return self._suspected_at[0] > 0.0

    def charge(self, activity_id: str, death: str, sequence: int, *, is_suspect: bool = True) -> Charges:
        """Adds a death and returns all; replaces the oldest entry when full; for the keeper only.

        Args:
            activity_id: whose handler was running.
            death: a line about it.
            sequence: of the record.
            is_suspect: True when the death makes it a suspect; it stays one.

        """
        before = self.charges(activity_id)
        if before.last == sequence:
            return before
        deaths = (*before.deaths, death[:150])[-_DEATHS_NAMED:]
        after = Charges(deaths, before.count + 1, sequence, before.is_suspect or is_suspect)
        index = self._find(activity_id)
        if index is None:
            index = self._free_or_oldest()
            self._hashes[index] = 0
        while len(body := _encoder.encode(after)) > _BODY_BYTES:
            after = replace(after, deaths=after.deaths[1:])
        start = index * _ENTRY_BYTES
        self._bodies[start : start + CHECKSUM.size + len(body)] = checksummed(body)
        self._times[index] = self._clock()
        self._hashes[index] = _hash(activity_id)
        self._used[0] = max(self._used[0], index + 1)
        if after.is_suspect:
            self._suspected_at[0] = self._clock()
        return after

    def _free_or_oldest(self) -> int:
        used = self._used[0]
        if used < self._entries:
            return used
        times = self._times.tolist()
        return times.index(min(times))

    def _find(self, activity_id: str) -> int | None:
        """Returns the index of an activity's entry, or None; a fast search of the bytes, made for each claim."""
        taken = self._taken[: _HASH_BYTES * self._used[0]].tobytes()
        wanted = _hash(activity_id).to_bytes(_HASH_BYTES, byteorder)
        at = taken.find(wanted)
        while at > 0 and at % _HASH_BYTES:  # a match across two hashes
            at = taken.find(wanted, at + 1)
        return None if at < 0 else at // _HASH_BYTES


def _hash(activity_id: str) -> int:
    """Returns a hash of the id, never 0, which marks an entry being replaced."""
    return int.from_bytes(blake2b(activity_id.encode(), digest_size=8).digest(), "little") or 1
