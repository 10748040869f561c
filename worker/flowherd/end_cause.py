"""The causes of a process's end: the only list of them, for ledger, log, metrics, alerts, page and `explain`."""

from __future__ import annotations

from enum import IntEnum
from typing import Self

from flowherd.wait_status import OUT_OF_MEMORY


class Cause(IntEnum):
    """The cause of an incarnation's end.

    The number is stored in the ledger, where 0 is none. `meaning` is its text in the reference. A planned end is one
    that flowherd was told to bring about: it is no crash, and nothing that ran is charged with it.
    """

    is_planned: bool
    meaning: str

    def __new__(cls, number: int, is_planned: bool = False, meaning: str = "") -> Self:  # noqa: FBT001, FBT002 - as below
        """Makes a member that is its number and carries the rest."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.is_planned = is_planned
        member.meaning = meaning
        return member

    EXIT = 1, False, "It exited by itself, such as by `os._exit`."
    SIGNAL = 2, False, "A signal killed it."
    OUT_OF_MEMORY = 3, False, "The kernel killed it for lack of memory."
    HUNG = 4, False, "A handler blocked it beyond its limit."
    DAMAGED = 5, False, "User code overwrote its shared memory."
    BOOT = 6, False, "It did not start, or not in time."
    RELOAD = 7, True, "A reload replaced it."
    RECYCLE = 8, True, "It had reached a limit, such as `--max-tasks-per-child`, and was replaced."
    SCALE = 9, True, "Another number of processes was wanted."
    STOP = 10, True, "Its host stopped."

    @property
    def label(self) -> str:
        """The name in the log, in metrics and in `explain`."""
        return self.name.lower()

    @property
    def is_crash(self) -> bool:
        """True when any activity that ran in it may have caused the end; a hang has been traced to one."""
        return not self.is_planned and self is not Cause.HUNG

    @classmethod
    def of_status(cls, status: int) -> Cause:
        """Returns the cause of an end that nobody ordered, from a wait status with the bits of `wait_status`."""
        if status & OUT_OF_MEMORY:
            return cls.OUT_OF_MEMORY
        return cls.SIGNAL if status & 0x7F else cls.EXIT

    @classmethod
    def of_number(cls, number: int) -> Cause | None:
        """Returns the cause that the ledger holds; None for none, and for what user code may have written there."""
        return _BY_NUMBER.get(number)


_BY_NUMBER = {int(cause): cause for cause in Cause}
