"""The shared-memory table of every lease of the host, and what else its processes tell each other through memory."""

from flowherd.ledger.histogram import Timing
from flowherd.ledger.layout import (
    AT_WORK,
    FINAL,
    HELD,
    Cause,
    Cell,
    Clock,
    Host,
    Life,
    ProcessTotal,
    Standing,
    State,
)
from flowherd.ledger.ledger import Ledger
from flowherd.ledger.segment import JOURNAL_BYTES, RECORD_BYTES, Record, Segment
from flowherd.ledger.writer import RecordWriter, records_needed

__all__ = [
    "AT_WORK",
    "FINAL",
    "HELD",
    "JOURNAL_BYTES",
    "RECORD_BYTES",
    "Cause",
    "Cell",
    "Clock",
    "Host",
    "Ledger",
    "Life",
    "ProcessTotal",
    "Record",
    "RecordWriter",
    "Segment",
    "Standing",
    "State",
    "Timing",
    "records_needed",
]
