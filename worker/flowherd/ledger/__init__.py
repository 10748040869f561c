"""The ledger: shared memory with every lease of the host, and all other data that its processes share."""

from flowherd.end_cause import Cause
from flowherd.ledger.histogram import Timing
from flowherd.ledger.ledger import Ledger
from flowherd.ledger.record import Record
from flowherd.ledger.record_writer import RecordWriter, records_needed
from flowherd.ledger.segment import JOURNAL_BYTES, Segment
from flowherd.ledger.states_and_cells import (
    FINAL,
    Cell,
    Claim,
    Clock,
    Handler,
    Host,
    Life,
    ProcessTotal,
    Standing,
)

__all__ = [
    "FINAL",
    "JOURNAL_BYTES",
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
