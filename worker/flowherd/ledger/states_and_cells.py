"""The words of the ledger: states, verdicts, and who writes which cell; it does nothing."""

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
    """The engine's expectation of an attempt."""

    HELD = 0
    REPORTING = 1
    CRASHED = 2
    CLOSED = 3


# The byte of a record: 0 while it is free, else TAKEN, whether its handler is in an isolate, and the pair. ADOPTING
# goes with WAITING alone: the record counts once the keeper has judged it GOOD (`flowherd.leases.adoption`).
TAKEN = 0x80
ADOPTING = 0x40
ISOLATED = 0x20
PAIR = 0x1F
PAIRS = 20
WAITS_FOR_WORD = TAKEN | ADOPTING  # the byte of a record that would take over another one


def pair_of(handler: Handler, claim: Claim) -> int:
    """Handler and claim as one number below `PAIRS`."""
    return handler << 2 | claim


def is_record_byte(byte: int) -> bool:
    """Some writer of ours can have stored it."""
    is_plain = byte >= TAKEN and byte & PAIR < PAIRS and not byte & ADOPTING
    return not byte or is_plain or byte == WAITS_FOR_WORD


class Standing(IntEnum):
    """The keeper's verdict on a record; it counts only for the sequence it was written with."""

    UNKNOWN = 0
    GOOD = 1
    GONE = 2  # somebody else's
    SETTLED = 3  # told to the engine in the name of whoever has died with it, or given up


FINAL = frozenset({Standing.GONE, Standing.SETTLED})  # whoever holds it owes the engine nothing any more


class Cause(IntEnum):
    """Why an incarnation ended, as the supervisor knows it; decides the code of what the keeper settles."""

    CLEAN = 0
    CRASH = 1
    STOPPED = 2  # killed at a drain limit, by a second signal, or after the supervisor had gone
    HUNG = 3  # ended by the supervisor: an activity had run past its limit and the grace


class Life(Enum):
    """The state of a segment."""

    FREE = "free"
    LIVE = "live"
    ENDED = "ended"


class Host(IntEnum):
    """Cells of the whole host."""

    TOKEN_VERSION = 0  # keeper
    KEEPER_TICK = 1  # keeper: when it looked last, or until when it rests; monotonic microseconds
    SETTLED = 2  # keeper: records of ended segments handed back or delivered
    LEASES_LOST = 3  # keeper
    UNSETTLED = 4  # keeper: records it could not tell the engine of, and has given up
    TOKEN_ERRORS = 5  # keeper: requests for a token that were not granted
    UNCONFIRMED = 6  # keeper: leases that may have lapsed since the engine answered; nobody polls then
    OFFERS = 7  # keeper: how often it has offered something of an ended segment to a worker
    OFFERED = (
        8  # keeper: records of ended segments that somebody may still adopt; polls leave slots free for them
    )


class ProcessTotal(IntEnum):
    """Counters of a process's incarnations that have ended and been settled; all written by the keeper."""

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
    """Cells of a segment that hold whole numbers."""

    STARTED = 0  # supervisor
    ENDED = 1  # supervisor
    CAUSE = 2  # supervisor
    EXIT_STATUS = 3  # supervisor, the wait status
    PROCESS = 4  # supervisor
    INCARNATION = 5  # supervisor
    PID = 6  # supervisor
    SETTLED = 7  # keeper
    GUILTY = 8  # supervisor: sequence of the record that hung its process, 0 if none did
    RESIDENT_BYTES = 9  # supervisor: memory when it last looked
    OPENED = 10  # worker, as all below
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
    ADOPTS = 28  # 1 while it polls, and so takes what the keeper offers
    WAITS_FOR = 31  # one bit for each activity of which attempts wait here for a permit of the host
    BLOCKED_US = 27  # microseconds that handlers kept the loop in steps that were too long


class Clock(IntEnum):
    """Cells of a segment that hold monotonic seconds or a duration."""

    STARTED_AT = 64  # supervisor
    READY_AT = 65  # worker, as all below
    LAST_GOOD_POLL = 66
    LOOP_LAG_S = 67
    NEXT_POLL_AT = 68  # with the last three: what `flowherd.worker.poll_policy.Sibling` says
    POLL_RTT_S = 69
    LAST_BAD_POLL = 70
    FILL = 71  # what share of the slots that polls asked for was filled lately, 0 to 1
    POLLED_AT = 72
    DRAINED_AT = 73
    WORKED_AT = 74
    LOOP_READ_AT = 75  # when the loop's lag was last read; nobody reads it while no handler runs
