"""The work of every task and the notes it leaves; it knows no task queue.

A note is a record appended to the file that PEERS_EVENTS names: what (`s`ent, `b`egun, `e`nded), the task's number, the
process, and CLOCK_MONOTONIC.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time

if not os.environ.get("PEERS_SENDER"):
    import numpy as np  # noqa: F401 - what people's programs import
    import pandas as pd  # noqa: F401

URL = os.environ["PEERS_URL"]
LEASE_S = float(os.environ["PEERS_LEASE_S"])  # 0: the contender's own default
EVENT = struct.Struct("=cIId")
_EVENTS = os.open(os.environ["PEERS_EVENTS"], os.O_WRONLY | os.O_APPEND)


def note(what: bytes, number: int) -> None:
    """Appends a record."""
    os.write(_EVENTS, EVENT.pack(what, number, os.getpid(), time.monotonic()))


def noop(number: int, seconds: float) -> None:
    """Does nothing."""
    note(b"e", number)


async def noop_on_loop(number: int, seconds: float) -> None:
    """Does nothing."""
    note(b"e", number)


def wait(number: int, seconds: float) -> None:
    """Waits and keeps its thread, or its event loop, for as long."""
    note(b"b", number)
    time.sleep(seconds)
    note(b"e", number)


async def wait_on_loop(number: int, seconds: float) -> None:
    """Waits as async code should."""
    note(b"b", number)
    await asyncio.sleep(seconds)
    note(b"e", number)


async def block_loop(number: int, seconds: float) -> None:
    """Waits as async code should not."""
    wait(number, seconds)


def heavy(number: int, seconds: float) -> None:
    """Pure-Python CPU for so many seconds."""
    note(b"b", number)
    stop_at = time.thread_time() + seconds
    while time.thread_time() < stop_at:
        sum(one * one for one in range(2000))
    note(b"e", number)


SYNC = {"noop": noop, "wait": wait, "block": wait, "heavy": heavy}
ASYNC = {"noop": noop_on_loop, "wait": wait_on_loop, "block": block_loop, "heavy": heavy}
