"""Who has died with whom: the host's memory of activities that ran when a process crashed; it judges nobody.

A process that dies takes everything with it that ran there, so the first death names only suspects. A suspect runs
alone from then on: the second death names its culprit, and a healthy activity loses at most one attempt.

The keeper writes; workers read. An entry's hash is stored last, so that a reader never meets half an entry.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from flowherd.shared.checked import CHECKED, checked, read_checked

if TYPE_CHECKING:
    from collections.abc import Callable

ENTRIES = 256
FORGOTTEN_AFTER_S = 3600.0
ABOUT_S = 120.0  # by then most retry delays are over (protocol.md §3.2)
_ENTRY_BYTES = 1024
_BODY_BYTES = _ENTRY_BYTES - CHECKED.size
_DEATHS_NAMED = 5
AREA_BYTES = ENTRIES * (8 + 8 + _ENTRY_BYTES)


@dataclass(frozen=True, slots=True)
class Charges:
    """What is held against one activity.

    Attributes:
        deaths: one line for each death that is still named, oldest first.
        count: all deaths, also those no longer named.
        last: sequence of the record the last death was about, so that a death is never charged twice.

    """

    deaths: tuple[str, ...] = ()
    count: int = 0
    last: int = 0


_NOTHING = Charges()
_NOBODY = bytes(8 * ENTRIES)
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Charges)


class Suspects:
    """The table of suspects.

    Args:
        area: `AREA_BYTES` of the shared map.
        clock: monotonic seconds.

    """

    def __init__(self, area: memoryview, clock: Callable[[], float] = time.monotonic) -> None:
        self._taken = area[: 8 * ENTRIES]
        self._hashes = self._taken.cast("Q")
        self._times = area[8 * ENTRIES : 16 * ENTRIES].cast("d")
        self._bodies = area[16 * ENTRIES :]
        self._clock = clock

    @classmethod
    def none(cls) -> Suspects:
        """A table of its own, for a worker without a shared one: nobody is ever charged."""
        return cls(memoryview(bytearray(AREA_BYTES)))

    def __repr__(self) -> str:
        return f"<Suspects [{sum(map(bool, self._hashes))} of {ENTRIES}]>"

    def charges(self, activity_id: str) -> Charges:
        """What is held against an activity; nothing, for nearly all."""
        if not self.any_charged:
            return _NOTHING
        index = self._find(activity_id)
        if index is None or self._clock() - self._times[index] > FORGOTTEN_AFTER_S:
            return _NOTHING
        start = index * _ENTRY_BYTES
        body = read_checked(bytes(self._bodies[start : start + _ENTRY_BYTES]), 0, _BODY_BYTES)
        return _decoder.decode(body) if body else _NOTHING

    @property
    def are_about(self) -> bool:
        """Whether a death was charged lately: a suspect may be in the next batch, so polls ask for one."""
        return self.any_charged and self._clock() - max(self._times.tolist()) < ABOUT_S

    @property
    def any_charged(self) -> bool:
        """Whether anybody ever was: that nobody was costs each activity next to nothing."""
        return self._taken.tobytes() != _NOBODY

    def charge(self, activity_id: str, death: str, sequence: int) -> Charges:
        """Adds a death and returns all; only the keeper may. The entry that is oldest makes room."""
        before = self.charges(activity_id)
        if before.last == sequence:
            return before
        deaths = (*before.deaths, death[:150])[-_DEATHS_NAMED:]
        after = Charges(deaths, before.count + 1, sequence)
        index = self._find(activity_id)
        if index is None:
            index = min(range(ENTRIES), key=lambda entry: self._times[entry] if self._hashes[entry] else 0.0)
            self._hashes[index] = 0
        body = _encoder.encode(after)
        start = index * _ENTRY_BYTES
        self._bodies[start : start + CHECKED.size + len(body)] = checked(body)
        self._times[index] = self._clock()
        self._hashes[index] = _hash(activity_id)
        return after

    def _find(self, activity_id: str) -> int | None:
        try:
            return self._hashes.tolist().index(_hash(activity_id))
        except ValueError:
            return None


def _hash(activity_id: str) -> int:
    """Never 0, which is a free entry."""
    return int.from_bytes(blake2b(activity_id.encode(), digest_size=8).digest(), "little") or 1
