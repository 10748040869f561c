"""The ids of an attempt in the keeper's log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowherd.ledger import Cell

if TYPE_CHECKING:
    from flowherd.ledger import Ledger, Record, Segment


def ids_of(ledger: Ledger, segment: Segment, record: Record) -> dict[str, Any]:
    """Returns the fields of each log line about a record: those of `AttemptIds`, and its process."""
    seen = 1 + ledger.seen.earlier(record.activity_id)
    return {"process": segment.get(Cell.PROCESS), "seen": seen, **record.ids}
