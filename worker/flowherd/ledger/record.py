"""A record of one attempt that a process holds, as bytes and as an object."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowherd.errors import LedgerFull
from flowherd.ledger.states_and_cells import ADOPTING, ISOLATED, PAIR, Claim, Handler

if TYPE_CHECKING:
    from collections.abc import Iterable

RECORD_BYTES = 512
CRC_BYTES = 8  # 4 are used, so that the following bytes stay aligned
# The lengths of five texts, sequence, usage_sequence, claimed_at, lease_s, usage_page.
HEAD = struct.Struct("<HHHHHxxxxxxQQddI")
TEXT_AT = CRC_BYTES + HEAD.size
_ROOM = RECORD_BYTES - TEXT_AT
_CLOSED = int(Claim.CLOSED)


@dataclass(frozen=True, slots=True)
class Record:
    """A consistent copy of one record. Times are seconds of the monotonic clock, which is the same for all processes.

    `started_at` and `limit_s` are 0 before the handler begins. The usage page is that of the attempt's first record.
    `byte` is without IN_THREAD, which `is_in_thread` holds.
    """

    index: int
    byte: int
    sequence: int
    activity_id: str
    worker_id: str
    name: str
    workflow_id: str
    key: str
    claimed_at: float
    lease_s: float
    started_at: float
    limit_s: float
    usage_page: int
    usage_sequence: int
    is_in_thread: bool = False

    @property
    def ids(self) -> dict[str, str]:
        """The names of its activity, for a log line."""
        return {
            "name": self.name,
            "workflow_id": self.workflow_id,
            "activity_id": self.activity_id,
            "activity_key": self.key,
        }

    @property
    def handler(self) -> Handler:
        """The state of the handler."""
        return Handler((self.byte & PAIR) >> 2)

    @property
    def claim(self) -> Claim:
        """The state of the claim."""
        return Claim(self.byte & 3)

    @property
    def is_held(self) -> bool:
        """The outcome is open and the engine waits for it."""
        return not self.byte & (3 | ADOPTING)

    @property
    def is_owed(self) -> bool:
        """The engine waits for word about it: the keeper settles it if its process dies."""
        return self.byte & (3 | ADOPTING) < _CLOSED

    @property
    def is_adopting(self) -> bool:
        """It stands for nothing until the keeper has judged it GOOD: until then its origin does."""
        return bool(self.byte & ADOPTING)

    @property
    def is_at_work(self) -> bool:
        """True while the handler runs, in any state of the claim."""
        return Handler.RUNNING <= (self.byte & PAIR) >> 2 <= Handler.STOPPING

    @property
    def is_detached(self) -> bool:
        """True while the handler runs although no report is owed any more."""
        return self.is_at_work and not self.is_owed

    @property
    def is_isolated(self) -> bool:
        """True when the handler runs in an isolate, so that it cannot have crashed its worker's process."""
        return bool(self.byte & ISOLATED)


def body_of(
    activity_id: str,
    worker_id: str,
    name: str,
    workflow_id: str,
    key: str,
    sequence: int,
    first: int,
    claimed_at: float,
    lease_s: float,
    page: int,
) -> bytes:
    """Encodes a record's head and texts; a long name or key is cut at the end.

    Raises:
        LedgerFull: the identifiers are longer than a record.

    """
    text = f"{activity_id}{workflow_id}{name}{key}{worker_id}"
    if text.isascii() and len(text) <= _ROOM:  # one byte per character: one encoding instead of five
        return (
            HEAD.pack(
                len(activity_id), len(workflow_id), len(name), len(key), len(worker_id),
                sequence, first, claimed_at, lease_s, page,
            )
            + text.encode()
        )  # fmt: skip
    id_, workflow, name_, key_, worker = (
        part.encode("utf-8", "replace") for part in (activity_id, workflow_id, name, key, worker_id)
    )
    ids = len(id_) + len(workflow) + len(worker)
    if ids > _ROOM:
        raise LedgerFull(f"its identifiers of {ids} bytes are too long, at most {_ROOM} fit")
    name_ = name_[: _ROOM - ids]
    key_ = key_[: _ROOM - ids - len(name_)]
    parts = (id_, workflow, name_, key_, worker)
    return HEAD.pack(*map(len, parts), sequence, first, claimed_at, lease_s, page) + b"".join(parts)


def texts_of(lengths: Iterable[int], data: bytes) -> list[str]:
    """Decodes the texts of a record (activity, workflow, name, key and worker), as far as `data` holds them."""
    found, start = [], 0
    text = data.decode("ascii") if data.isascii() else None
    for length in lengths:
        end = start + length
        found.append(data[start:end].decode(errors="replace") if text is None else text[start:end])
        start = end
    return found
