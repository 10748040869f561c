"""Lets one activity be alone in a process whose workers are threads; it starts nothing and knows no attempts.

A process that dies takes the activities of all its threads along. A worker that holds a suspect says so: from then on
the others claim nothing more, and when nothing is at work in any of them the suspect begins, and nothing beside it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowherd.shared.bells import Bells

_Claim = tuple[int, str]  # a worker, and the activity that it wants to run alone


class Solitude:
    """What the workers of one process tell each other; all methods may be called from any thread.

    Args:
        bells: wake the workers whose time has come.

    """

    def __init__(self, bells: Bells) -> None:
        self._bells = bells
        self._guard = threading.Lock()
        self._at_work: dict[int, int] = {}
        self._wanted: list[_Claim] = []
        self._alone: _Claim | None = None

    def __repr__(self) -> str:
        whose = (
            f"worker {self._alone[0]} is alone" if self._alone else f"{len(self._wanted)} want to be alone"
        )
        return f"<Solitude [{sum(self._at_work.values())} at work, {whose}]>"

    def member(self, number: int) -> Member:
        """The part of the worker in that berth."""
        with self._guard:
            self._at_work[number] = 0
        return Member(self, number)

    def begin(self, number: int) -> bool:
        """Counts an activity that begins; False while another one must be alone."""
        with self._guard:
            if self._alone is not None:
                return False
            self._at_work[number] += 1
            return True

    def begin_alone(self, claim: _Claim) -> bool:
        """Counts an activity that begins alone; False while another one is at work, and then it is next."""
        with self._guard:
            if claim not in self._wanted:
                self._wanted.append(claim)
            if self._alone is not None or any(self._at_work.values()):
                return False
            self._alone = claim
            self._at_work[claim[0]] += 1
            return True

    def end(self, number: int) -> None:
        """An activity has ended, and with it its solitude."""
        with self._guard:
            self._at_work[number] -= 1
            if self._alone is not None:
                self._withdraw(self._alone)
            elif any(self._at_work.values()):
                return
            waiting = {one for one, _ in self._wanted}
        for one in waiting:
            self._bells.ring(one)

    def withdraw(self, claim: _Claim) -> None:
        """It does not wait any more; what it had begun ends by `end`."""
        with self._guard:
            if claim in self._wanted and claim != self._alone:
                self._withdraw(claim)

    def _withdraw(self, claim: _Claim) -> None:
        """Called with the guard held. Those who held back may go on."""
        self._wanted.remove(claim)
        if self._alone == claim:
            self._alone = None
        if not self._wanted:
            for one in self._at_work:
                self._bells.ring(one)

    def is_wanted_beside(self, number: int) -> bool:
        """Whether another worker than this one has, or waits for, an activity that must be alone."""
        return any(one != number for one, _ in self._wanted)


class Member:
    """One worker's part; its methods are called on that worker's loop.

    Args:
        solitude: of the process.
        number: of the worker's berth.

    """

    def __init__(self, solitude: Solitude, number: int) -> None:
        self._solitude = solitude
        self._number = number

    def __repr__(self) -> str:
        return f"<Member {self._number} of {self._solitude!r}>"

    @property
    def holds_back(self) -> bool:
        """Whether nothing more is to be claimed here, since another worker's activity must be alone."""
        return self._solitude.is_wanted_beside(self._number)

    def begin(self) -> bool:
        """Whether an activity begins; if so, `end` must follow."""
        return self._solitude.begin(self._number)

    def begin_alone(self, activity_id: str) -> bool:
        """Whether it begins, with nothing beside it; if so, `end` must follow, else the bell rings when it may."""
        return self._solitude.begin_alone((self._number, activity_id))

    def end(self) -> None:
        """One that had begun has ended."""
        self._solitude.end(self._number)

    def withdraw(self, activity_id: str) -> None:
        """It does not wait to be alone any more."""
        self._solitude.withdraw((self._number, activity_id))
