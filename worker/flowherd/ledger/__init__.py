"""The shared-memory table of every lease of the host, and what else its processes tell each other through memory."""

from flowherd.ledger.histogram import Timing
from flowherd.ledger.layout import (
    FINAL,
    Cause,
    Cell,
    Claim,
    Clock,
    Handler,
    Host,
    Life,
    ProcessTotal,
    Standing,
)
from flowherd.ledger.ledger import Ledger
from flowherd.ledger.record import RECORD_BYTES, Record
from flowherd.ledger.segment import JOURNAL_BYTES, Segment
from flowherd.ledger.writer import RecordWriter, records_needed

__all__ = [
    "FINAL",
    "JOURNAL_BYTES",
    "RECORD_BYTES",
    "Cause",
    "Cell",
    "Claim",
    "Clock",
    "Handler",
    "Host",
    "Ledger",
    "Life",
    "ProcessTotal",
    "Record",
    "RecordWriter",
    "Segment",
    "Standing",
    "Timing",
    "records_needed",
]
