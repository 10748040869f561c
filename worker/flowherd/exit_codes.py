"""The exit codes that people script against; nothing else."""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class Exit(IntEnum):
    """The exit codes of flowherd's programs; `meaning` says when each one is returned and what to do."""

    meaning: str

    def __new__(cls, code: int, meaning: str = "") -> Self:
        """Makes a member that is its code and carries its meaning."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    CLEAN = 0, "Everything was delivered to the engine, or requeued in time."
    INTERNAL = (
        1,
        "A host: an error in flowherd; please report it. Another command: the answer was a failure, or none came.",
    )
    USAGE = (
        2,
        "The command line, a setting or the app's name is wrong. The message names the place and the remedy.",
    )
    BOOT_FAILED = (
        3,
        "The app's code raised while it was imported, or its lifespan at the start; or it took too long. See the log.",
    )
    CREDENTIALS_REFUSED = (
        4,
        "The engine refused the credentials from the start, for longer than `--auth-grace`.",
    )
    CRASH_LOOP = 5, "Processes died faster than `--max-restarts` allows. The log names each cause."
    RELEASED = 6, "A stop ran out of time: some activities were requeued or killed."
