"""The shared-memory table of every lease of the host, and what else its processes tell each other through memory."""

from flowherd.ledger.histogram import Timing
from flowherd.ledger.layout import AT_WORK, Cause, Cell, Clock, FINAL, HELD, Host, Life, SeatTotal, Standing, State
from flowherd.ledger.ledger import Ledger
from flowherd.ledger.segment import Berth, JOURNAL_BYTES, RECORD_BYTES, Record
from flowherd.ledger.writer import RecordBook, records_needed

__all__ = [
    "AT_WORK",
    "FINAL",
    "HELD",
    "JOURNAL_BYTES",
    "RECORD_BYTES",
    "Berth",
    "Cause",
    "Cell",
    "Clock",
    "Host",
    "Ledger",
    "Life",
    "Record",
    "RecordBook",
    "SeatTotal",
    "Standing",
    "State",
    "Timing",
    "records_needed",
]
