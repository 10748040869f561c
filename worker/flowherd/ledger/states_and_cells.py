"""The enums of the ledger: states, verdicts and cells, each cell with its writer."""

from __future__ import annotations

from enum import Enum, IntEnum


class Handler(IntEnum):
    """The state of an attempt's handler."""

    WAITING = 0
    ADMITTED = 1
    RUNNING = 2
    STOPPING = 3
    ENDED = 4


class Claim(IntEnum):
    """The state of an attempt's claim."""

    HELD = 0
    REPORTING = 1
    CRASHED = 2
    CLOSED = 3


# The byte of a record: 0 while it is free, else TAKEN, the place of its handler, and the pair. ADOPTING goes with
# WAITING alone: the record counts once the keeper has judged it GOOD (`flowherd.leases.adoption`). IN_THREAD is the
# same bit, and goes with handlers that have begun.
TAKEN = 0x80
ADOPTING = 0x40
IN_THREAD = 0x40
ISOLATED = 0x20
PLACE = ISOLATED | IN_THREAD
PAIR = 0x1F
PAIRS = 20
PLAUSIBLE = 1 << 52  # more than any counter reaches
LATEST_S = 2.0**40  # later than the monotonic clock reaches
WAITS_FOR_WORD = TAKEN | ADOPTING  # the byte of a record that would take over another one


def pair_of(handler: Handler, claim: Claim) -> int:
    """Returns handler and claim as one number below `PAIRS`."""
    return handler << 2 | claim


def is_record_byte(byte: int) -> bool:
    """Some writer of ours can have stored it."""
    has_begun = (byte & PAIR) >> 2 >= Handler.RUNNING
    is_whole = byte >= TAKEN and byte & PAIR < PAIRS and byte & PLACE != PLACE
    return not byte or byte == WAITS_FOR_WORD or (is_whole and (has_begun or not byte & IN_THREAD))


class Standing(IntEnum):
    """The keeper's verdict on a record; valid only for the sequence stored with it."""

    UNKNOWN = 0
    GOOD = 1
    GONE = 2  # another worker holds it
    SETTLED = 3  # the keeper reported it for a dead process, or gave it up


FINAL = frozenset({Standing.GONE, Standing.SETTLED})  # its holder owes the engine no report any more


class Life(Enum):
    """The state of a segment."""

    FREE = "free"
    LIVE = "live"
    ENDED = "ended"


class Host(IntEnum):
    """Cells of the whole host."""

    TOKEN_VERSION = 0  # keeper
    KEEPER_TICK = 1  # keeper: the time of its last scan, or until which it rests; monotonic microseconds
    SETTLED = 2  # keeper: records of ended segments requeued or delivered
    LEASES_LOST = 3  # keeper
    UNSETTLED = 4  # keeper: records it could not report and gave up
    TOKEN_ERRORS = 5  # keeper: requests for a token that were not granted
    UNCONFIRMED = 6  # keeper: leases that may have lapsed since the engine answered; nobody polls then
    OFFERS = 7  # keeper: how often it has offered something of an ended segment to a worker
    OFFERED = (
        8  # keeper: records of ended segments that somebody may still adopt; polls leave slots free for them
    )


class ProcessTotal(IntEnum):
    """Counters over the settled incarnations of a process; written by the keeper."""

    CLAIMED = 0
    COMPLETED = 1
    FAILED = 2
    LOST = 3
    POLLS = 4
    EMPTY_POLLS = 5
    POLL_ERRORS = 6
    BLOCKS = 7
    BLOCKED_US = 8


class Cell(IntEnum):
    """Integer cells of a segment, each with its writer."""

    STARTED = 0  # supervisor
    ENDED = 1  # supervisor; once it is gone, the keeper
    CAUSE = 2  # as ENDED
    EXIT_STATUS = 3  # as ENDED, the wait status
    PROCESS = 4  # supervisor
    INCARNATION = 5  # supervisor
    PID = 6  # supervisor
    SETTLED = 7  # keeper
    GUILTY = 8  # supervisor: the sequence of the record that hung its process, 0 for none
    RESIDENT_BYTES = 9  # supervisor: resident memory at its last check
    FROZEN_US = 29  # keeper: microseconds in which the host was frozen
    OPENED = 10  # worker, like all below
    LIMIT = 11
    LIMIT_APPLIED = 12
    HELD = 13
    RUNNING = 14
    CLAIMED = 15
    COMPLETED = 16
    FAILED = 17
    LOST = 18
    POLLS = 19
    EMPTY_POLLS = 20
    HIGH_WATER = 21
    TOKEN_REFUSED = 22
    POLL_ERRORS = 23
    ON_LOOP = 24  # index + 1 of the record whose handler is on the loop, 0 for nobody
    BLOCKS = 25  # how often a handler was found to keep the loop too long
    FRESH_BYTES = 26  # resident memory when it was Ready
    ADOPTS = 28  # 1 from its first order until it stops: it takes what the keeper offers
    WAITS_FOR = 31  # one bit for each activity of which attempts wait here for a permit of the host
    BLOCKED_US = 27  # microseconds that handlers kept the loop in steps that were too long


class Clock(IntEnum):
    """Cells of a segment that hold monotonic times, durations in seconds or shares, each with its writer."""

    STARTED_AT = 64  # supervisor
    READY_AT = 65  # worker, like all below
    LAST_GOOD_POLL = 66
    LOOP_LAG_S = 67
    NEXT_POLL_AT = 68  # read through `flowherd.worker.sibling_processes.Sibling`
    POLL_RTT_S = 69
    LAST_BAD_POLL = 70
    FILL = 71  # the recent share of free slots that polls filled, 0 to 1
    POLLED_AT = 72
    DRAINED_AT = 73
    WORKED_AT = 74
    LOOP_READ_AT = 75  # the time of the last reading of the loop's lag; not updated while no handler runs
    PAUSE_S = 76  # seconds from a receipt to the poll for what follows, as this process has learned them
    LEARNED_AT = 77  # the time of the last such lesson
