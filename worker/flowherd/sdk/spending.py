"""Sums of the tokens and money that one attempt has spent.

Each change is stored outside the process before the handler continues, so spending is reported even when the attempt
or its process crashes.
"""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Protocol

from flowherd.sdk.usage_bytes import EXACT, MAX_TOKENS, pack

if TYPE_CHECKING:
    from flowherd.activities_and_outcomes import Usage

MAX_COST_USD = Decimal(10) ** 12
MAX_HOURS = 1e12
COST_STEP_USD = Decimal("1e-12")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # protocol.md §6.5

Money = Decimal | int | float | str


class SpendingKeeper(Protocol):
    """Stores an attempt's sums where they survive a crash of its process."""

    @property
    def room_for_sums(self) -> int:
        """The most bytes that `keep_spent` takes."""
        ...

    def keep_spent(self, sums: bytes) -> None:
        """Replaces the stored sums; callable from any thread, without effect after the attempt has ended."""
        ...


class Costs:
    """Collects usage per (provider, model) and costs that belong to no model; callable from any thread.

    Args:
        keeper: stores the sums after each change; None where no keeper settles the records of a dead process.

    """

    __slots__ = ("_cost_usd", "_keeper", "_lock", "_usage")

    def __init__(self, keeper: SpendingKeeper | None = None) -> None:
        self._cost_usd: Decimal | None = None
        self._usage: dict[tuple[str, str, bool, int], Usage] = {}
        self._keeper = keeper
        self._lock = threading.Lock()

    @property
    def cost_usd(self) -> str | None:
        """The cost not covered by usage entries, as the engine reads it; None when none was recorded."""
        return None if self._cost_usd is None else format(self._cost_usd, "f")

    @property
    def usage(self) -> tuple[Usage, ...]:
        """The usage, one entry per provider and model; more when a counter would exceed 32 bits."""
        with self._lock:
            return tuple(self._usage.values())

    def add_cost(self, usd: Money) -> None:
        """Adds US dollars that belong to no model; ValueError unless 0 ≤ usd ≤ 10¹²."""
        cost = checked_cost(usd)
        with self._lock:
            self._cost_usd = EXACT.add(self._cost_usd or Decimal(0), cost)
            self._keep()

    def add_usage(self, usage: Usage) -> None:
        """Adds to the sums of the entry's provider and model; ValueError when the engine would refuse the entry.

        Priced and unpriced tokens are summed separately: the engine prices only entries without `cost_usd`.
        """
        _check_usage(usage)
        if usage.cost_usd is not None:
            usage = replace(usage, cost_usd=format(checked_cost(usage.cost_usd), "f"))
        with self._lock:
            self._add(usage)
            self._keep()

    def _add(self, usage: Usage) -> None:
        page = 0
        while True:
            key = (usage.provider, usage.model, usage.cost_usd is None, page)
            held = self._usage.get(key)
            total = usage if held is None else _sum(held, usage)
            if held is None or _counts_fit(total):
                self._usage[key] = total
                return
            page += 1

    def _keep(self) -> None:
        if self._keeper is not None:
            self._keeper.keep_spent(
                pack(self._cost_usd, tuple(self._usage.values()), self._keeper.room_for_sums)
            )


def checked_cost(usd: Money) -> Decimal:
    """Returns `usd` as an exact decimal; ValueError unless it is a number with 0 ≤ usd ≤ 10¹²."""
    try:
        cost = Decimal(str(usd))
        fits = 0 <= cost <= MAX_COST_USD
    except InvalidOperation:
        fits = False
    if not fits:
        raise ValueError("a cost must be a number of US dollars between 0 and 10^12")
    if cost.as_tuple().exponent < -12:  # type: ignore[operator]
        return cost.quantize(COST_STEP_USD, context=EXACT).normalize(EXACT)
    return cost


def _check_usage(usage: Usage) -> None:
    for name in (usage.provider, usage.model):
        if not isinstance(name, str) or not name or _UNSTORABLE.search(name):
            raise ValueError(
                "usage needs a provider and a model: text without NUL or halves of surrogate pairs"
            )
    if not _counts_fit(usage):
        raise ValueError("token counts must be whole numbers between 0 and 4294967295")
    hours = usage.cache_storage_token_hours
    if type(hours) not in {int, float} or not 0 <= hours <= MAX_HOURS:
        raise ValueError("cache_storage_token_hours must be a number between 0 and 10^12")


def _counts(usage: Usage) -> tuple[int, int, int, int]:
    return (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_creation_tokens)


def _counts_fit(usage: Usage) -> bool:
    return all(type(count) is int and 0 <= count <= MAX_TOKENS for count in _counts(usage))


def _sum(first: Usage, second: Usage) -> Usage:
    inputs, outputs, reads, creations = (a + b for a, b in zip(_counts(first), _counts(second), strict=True))
    return replace(
        first,
        input_tokens=inputs,
        output_tokens=outputs,
        cache_read_tokens=reads,
        cache_creation_tokens=creations,
        cache_storage_token_hours=first.cache_storage_token_hours + second.cache_storage_token_hours,
        cost_usd=None if first.cost_usd is None else _sum_costs(first.cost_usd, second.cost_usd or "0"),
    )


def _sum_costs(first: str, second: str) -> str:
    return format(EXACT.add(Decimal(first), Decimal(second)), "f")
