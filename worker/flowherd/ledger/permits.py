"""Permits to run one more attempt of an activity, and an implementation for a process that is alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Permit:
    """A place among the `max_concurrent` of an activity."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class NotNow:
    """No permit is free; `again_in_s` is the seconds until a retry, None when only this process can release one."""

    again_in_s: float | None = None


class Permits(Protocol):
    """A source of permits; all its methods are called on the worker's loop."""

    def take(self, name: str, limit: int) -> Permit | NotNow:
        """Returns a permit to run one more attempt of an activity, or NotNow."""
        ...

    def give_back(self, permit: Permit) -> None:
        """Releases the permit of an attempt that has ended."""
        ...

    def say_waiting(self, names: frozenset[str]) -> None:
        """Announces the activities whose attempts wait for permits in this process."""
        ...


class OwnPermits:
    """Permits of a process that is alone."""

    def __init__(self) -> None:
        self._held: set[Permit] = set()

    def __repr__(self) -> str:
        return f"<OwnPermits [{len(self._held)} held]>"

    def take(self, name: str, limit: int) -> Permit | NotNow:
        """See `Permits.take`."""
        for permit in (Permit(name, number) for number in range(limit)):
            if permit not in self._held:
                self._held.add(permit)
                return permit
        return NotNow()

    def give_back(self, permit: Permit) -> None:
        """See `Permits.give_back`."""
        self._held.discard(permit)

    def say_waiting(self, names: frozenset[str]) -> None:
        """Does nothing: there are no other processes."""
