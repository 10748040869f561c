"""The attempts that have ended recently, in rings of shared memory: one pair per worker, and the host's.

A worker writes an entry when the claim of an attempt ends. At each scan the keeper moves the entries to the host's
rings, also those of a dead process, and adds the attempts that it has settled for such a process. So neither a crash
nor a new keeper loses any. An entry is a head of its own and the head of the record, copied without encoding. Failures
are also stored in a ring of their own, with their messages, so that successes do not displace them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from flowherd.ledger.record import CRC_BYTES, HEAD, RECORD_BYTES, body_of, texts_of
from flowherd.ledger.ring import Ring
from flowherd.ledger.ring import area_bytes as ring_bytes
from flowherd.ledger.states_and_cells import LATEST_S

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable

    from flowherd.activities_and_outcomes import Failed
    from flowherd.ledger.record import Record

# begun_at, ended_at, closed_at, beat_at; process, end, retryable, isolated
_HEAD = struct.Struct("<ddddHBBBxxx")
ENTRY_BYTES = 320
_BODY_BYTES = ENTRY_BYTES - _HEAD.size
FAILURE_BYTES = 768
_WORDS = struct.Struct("<HHHH")  # the lengths of code, kind, line of code and message
_WORDS_AT = ENTRY_BYTES + _WORDS.size
_MOST_OF_LINE = 120  # characters of a line of code; the end of a long path is kept
MOST_ATTEMPTS, MOST_FAILURES = 10_000, 500  # of the host
_OWN_ATTEMPTS, _OWN_FAILURES = 512, 64  # of a worker, for the time between two scans of the keeper


class End(IntEnum):
    """The end of an attempt's claim."""

    COMPLETED = 0  # the engine accepted the result
    FAILED = 1  # the engine accepted the failure
    LOST = 2  # the engine gave it to another worker
    SETTLED = 3  # the keeper reported a failure: its process died, or an operator ended it
    DELIVERED = 4  # its process died, and the keeper delivered its stored result
    ADOPTED = 5  # its process ended before it had begun, and another one goes on with it


_ENDS = frozenset(End)


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt whose claim has ended. Times are monotonic seconds, 0 for events that did not happen.

    Attributes:
        begun_at: the time of its handler's first step.
        ended_at: the time of its outcome.
        closed_at: the time of the engine's answer.
        beat_at: the time of the last heartbeat that the engine confirmed, for attempts longer than a second.
        is_isolated: True when its handler ran in an isolate.
        code: the code of a failure; `kind` is the exception's class, or for SETTLED the
            label of the `Cause` of its process's end, `message` its message; "" when unknown.
        at: the line of code that failed, such as `/srv/orders.py:19 in price`; "" when unknown.
        is_retryable: True when the engine runs it again: the failure was retryable and not the last attempt.
        worker_id: the claim's, which an adopted attempt shares with its predecessor; "" when it was too long.

    """

    process: int
    sequence: int
    activity_id: str
    workflow_id: str
    name: str
    key: str
    claimed_at: float
    begun_at: float
    ended_at: float
    closed_at: float
    beat_at: float
    end: End
    is_retryable: bool = False
    is_isolated: bool = False
    code: str = ""
    kind: str = ""
    at: str = ""
    message: str = ""
    worker_id: str = ""


class AttemptHistory:
    """Two rings: one of attempts, and one of failures with their messages.

    Args:
        map_: the ledger's map.
        offset: the offset of an area of `history_bytes` for the same counts.

    """

    __slots__ = ("_map", "attempts", "failures")

    def __init__(
        self, map_: mmap.mmap, offset: int, attempts: int = _OWN_ATTEMPTS, failures: int = _OWN_FAILURES
    ) -> None:
        self._map = map_
        self.attempts = Ring(map_, offset, slots=attempts, entry_bytes=ENTRY_BYTES)
        offset += ring_bytes(attempts, ENTRY_BYTES)
        self.failures = Ring(map_, offset, slots=failures, entry_bytes=FAILURE_BYTES)

    def __repr__(self) -> str:
        return f"<AttemptHistory {self.attempts!r}, failures {self.failures!r}>"

    @classmethod
    def of_host(cls, map_: mmap.mmap, offset: int) -> AttemptHistory:
        """Returns the host's rings; a ring holds one entry fewer than it has slots."""
        return cls(map_, offset, MOST_ATTEMPTS + 1, MOST_FAILURES + 1)

    @property
    def is_filling(self) -> bool:
        """True when the keeper should move the entries away soon."""
        return self.attempts.is_filling or self.failures.is_filling

    def resume(self) -> None:
        """Continues where the previous writer ended; for a worker, before its first write."""
        self.attempts.resume()
        self.failures.resume()

    def ended(
        self,
        body: int,
        begun_at: float,
        ended_at: float,
        closed_at: float,
        beat_at: float,
        process: int,
        end: int,
        failure: Failed | None = None,
        isolated: bool = False,  # noqa: FBT001, FBT002 - by position, as all others: it is written for each attempt
    ) -> None:
        """Writes an attempt; for the writer of these rings only.

        Args:
            body: the offset of its record's body in the map; the record may just have been freed.
            begun_at: see `EndedAttempt`.
            ended_at: see `EndedAttempt`.
            closed_at: see `EndedAttempt`.
            beat_at: see `EndedAttempt`.
            process: the process's index.
            end: a member of `End`.
            failure: the reported failure, None for other ends.
            isolated: True when its handler ran in an isolate.

        """
        start = body + CRC_BYTES
        is_retryable = failure is not None and failure.retryable
        head = _HEAD.pack(begun_at, ended_at, closed_at, beat_at, process, end, is_retryable, isolated)
        entry = head + self._map[start : start + _BODY_BYTES]
        self.attempts.append(entry)
        if failure is not None:
            self.failures.append(_with_words(entry, failure))

    def add(
        self,
        record: Record,
        times: tuple[float, float, float, float],
        process: int,
        failure: Failed | None,
        end: End,
    ) -> None:
        """Writes an attempt that the keeper has settled, with the reported failure; for the keeper only.

        Args:
            record: the record as its process left it.
            times: `begun_at`, `ended_at`, `closed_at` and `beat_at` of `EndedAttempt`.
            process: the process's index.
            failure: the reported failure, None for any other end than SETTLED.
            end: how its claim ended.

        """
        body = body_of(
            record.activity_id,
            record.worker_id,
            record.name,
            record.workflow_id,
            record.key,
            record.sequence,
            record.usage_sequence,
            record.claimed_at,
            record.lease_s,
            record.usage_page,
        )
        head = _HEAD.pack(*times, process, end, failure is not None and failure.retryable, record.is_isolated)
        entry = (head + body[:_BODY_BYTES]).ljust(ENTRY_BYTES, b"\0")
        self.attempts.extend(entry)
        if failure is not None:
            words = _with_words(entry, failure)
            self.failures.extend(words.ljust(FAILURE_BYTES, b"\0"))

    def take_from(self, other: AttemptHistory) -> None:
        """Moves the new entries of a worker's rings to these; for the keeper only."""
        self.attempts.take_from(other.attempts)
        self.failures.take_from(other.failures)


def history_bytes(attempts: int = _OWN_ATTEMPTS, failures: int = _OWN_FAILURES) -> int:
    """Returns the bytes of both rings."""
    return ring_bytes(attempts, ENTRY_BYTES) + ring_bytes(failures, FAILURE_BYTES)


HOST_BYTES = history_bytes(MOST_ATTEMPTS + 1, MOST_FAILURES + 1)


def _with_words(entry: bytes, failure: Failed) -> bytes:
    """Returns an entry for the ring of failures; long texts are cut at the end."""
    kind = failure.raised.kind if failure.raised is not None else failure.cause.label if failure.cause else ""
    room, parts = FAILURE_BYTES - _WORDS_AT, []
    for text in (failure.code, kind, failure.at[-_MOST_OF_LINE:], failure.message):
        parts.append(text.encode("utf-8", "replace")[:room])
        room -= len(parts[-1])
    return entry + _WORDS.pack(*map(len, parts)) + b"".join(parts)


def decoded(entries: Iterable[bytes]) -> list[EndedAttempt]:
    """Decodes the entries of either ring, without the corrupt ones."""
    return [found for entry in entries if (found := _decode(entry)) is not None]


def _decode(entry: bytes) -> EndedAttempt | None:
    begun_at, ended_at, closed_at, beat_at, process, end, retryable, isolated = _HEAD.unpack_from(entry)
    *lengths, sequence, _, claimed_at, _, _ = HEAD.unpack_from(entry, _HEAD.size)
    if end not in _ENDS or sum(lengths) > RECORD_BYTES:
        return None
    if not all(0.0 <= at < LATEST_S for at in (claimed_at, begun_at, ended_at, closed_at, beat_at)):
        return None
    texts = entry[_HEAD.size + HEAD.size : ENTRY_BYTES]
    activity_id, workflow_id, name, key, worker_id = texts_of(lengths, texts)
    code = kind = message = ""
    at = ""
    if len(entry) == FAILURE_BYTES:
        code, kind, at, message = _words_of(entry)
    return EndedAttempt(
        process=process,
        sequence=sequence,
        activity_id=activity_id,
        workflow_id=workflow_id,
        name=name,
        key=key,
        claimed_at=claimed_at,
        begun_at=begun_at,
        ended_at=ended_at,
        closed_at=closed_at,
        beat_at=beat_at,
        end=End(end),
        is_retryable=bool(retryable),
        is_isolated=bool(isolated),
        code=code,
        kind=kind,
        at=at,
        message=message,
        worker_id=worker_id if sum(lengths) <= len(texts) else "",
    )


def _words_of(entry: bytes) -> list[str]:
    found, start = [], _WORDS_AT
    for length in _WORDS.unpack_from(entry, ENTRY_BYTES):
        found.append(entry[start : start + length].decode(errors="ignore"))
        start += length
    return found
