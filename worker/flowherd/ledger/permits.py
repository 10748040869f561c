"""Permits to run one more attempt, and an implementation for a process that is alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Permit:
    """A number of a pool, such as one of the `max_concurrent` of an activity."""

    pool: str
    number: int


class Demand(NamedTuple):
    """The permits that an attempt needs from one pool: `needed` consecutive numbers, the first one of `starts`.

    They are taken in ascending order and kept meanwhile. So whoever lacks one waits for a larger number than it holds,
    and no two attempts can wait for each other.
    """

    pool: str
    starts: Sequence[int]
    needed: int = 1


@dataclass(frozen=True, slots=True)
class NotNow:
    """No permit is free; `again_in_s` is the seconds until a retry, None when only this process can release one."""

    again_in_s: float | None = None


class Permits(Protocol):
    """A source of permits; all its methods are called on the worker's loop."""

    def take(self, pool: str, numbers: Sequence[int]) -> Permit | NotNow:
        """Returns the first free permit of these numbers, or NotNow."""
        ...

    def give_back(self, permit: Permit) -> None:
        """Releases the permit of an attempt that has ended."""
        ...

    def say_waiting(self, pools: frozenset[str]) -> None:
        """Announces the pools for whose permits attempts wait in this process."""
        ...


class OwnPermits:
    """Permits of a process that is alone."""

    def __init__(self) -> None:
        self._held: set[Permit] = set()

    def __repr__(self) -> str:
        return f"<OwnPermits [{len(self._held)} held]>"

    def take(self, pool: str, numbers: Sequence[int]) -> Permit | NotNow:
        """See `Permits.take`."""
        for permit in (Permit(pool, number) for number in numbers):
            if permit not in self._held:
                self._held.add(permit)
                return permit
        return NotNow()

    def give_back(self, permit: Permit) -> None:
        """See `Permits.give_back`."""
        self._held.discard(permit)

    def say_waiting(self, pools: frozenset[str]) -> None:
        """Does nothing: there are no other processes."""
