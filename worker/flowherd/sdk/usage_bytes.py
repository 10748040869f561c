"""Sums of tokens and money as bytes of bounded length, for the ledger; it must not add up what handlers report.

Sums that are longer than there is room for are merged rather than lost, in this order:

1. Sums without a price keep their places first, the largest first: only the engine can price them.
2. A priced sum that finds no place goes into the cost that belongs to no model: the money is exact, its tokens are
   not told any more.
3. A sum without a price that finds no place is added to the largest one of the same provider that has found one,
   else to the largest of all: it is priced as that model. A counter stops at the largest the engine takes.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Context, Decimal, InvalidOperation

import msgspec

from flowherd.activities_and_outcomes import Usage

MAX_TOKENS = 2**32 - 1  # the engine's counters are unsigned 32-bit (protocol.md §6.1)
EXACT = Context(prec=60, traps=[InvalidOperation])  # for sums of money: a handler may change the current one
_LONGEST_NAME_BYTES = 256  # of a provider or a model, where room is short
_NUMBERS_BYTES = 120  # four counters, token-hours, cost and what stands between them, at their longest

_Row = tuple[str, str, int, int, int, int, float, str | None]
_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(tuple[str | None, tuple[_Row, ...]])


def pack(cost_usd: Decimal | None, usage: tuple[Usage, ...], limit: int) -> bytes:
    """At most `limit` bytes, from 1,024, for `unpack`; what does not fit is merged as the module says."""
    packed = _packed(cost_usd, usage)
    return packed if len(packed) <= limit else _packed(*_merged(cost_usd, usage, limit))


def bounded(
    cost_usd: str | None, usage: tuple[Usage, ...], limit: int
) -> tuple[str | None, tuple[Usage, ...]]:
    """The sums as they are where they take at most `limit` bytes, from 1,024; else merged as the module says."""
    if (
        len(usage) * _NUMBERS_BYTES <= limit // 4
        and sum(len(e.provider) + len(e.model) for e in usage) <= limit // 8
    ):
        return cost_usd, usage
    return unpack(pack(None if cost_usd is None else Decimal(cost_usd), usage, limit))


def unpack(packed: bytes) -> tuple[str | None, tuple[Usage, ...]]:
    """The cost that belongs to no model, and the sums, as a failure carries them."""
    cost_usd, rows = _decoder.decode(packed)
    return cost_usd, tuple(Usage(*row) for row in rows)


def _packed(cost_usd: Decimal | None, usage: tuple[Usage, ...]) -> bytes:
    cost = None if cost_usd is None else format(cost_usd, "f")
    return _encode((cost, [_row(entry) for entry in usage]))


def _row(entry: Usage) -> _Row:
    return (
        entry.provider,
        entry.model,
        entry.input_tokens,
        entry.output_tokens,
        entry.cache_read_tokens,
        entry.cache_creation_tokens,
        entry.cache_storage_token_hours,
        entry.cost_usd,
    )


def _merged(
    cost_usd: Decimal | None, usage: tuple[Usage, ...], limit: int
) -> tuple[Decimal | None, tuple[Usage, ...]]:
    room = limit - _NUMBERS_BYTES
    priced: list[Usage] = []
    unpriced: list[Usage] = []
    homeless: list[Usage] = []
    for entry in sorted(usage, key=lambda entry: (entry.cost_usd is not None, -_tokens(entry))):
        short = replace(entry, provider=_clipped(entry.provider), model=_clipped(entry.model))
        needed = len(_encode(short.provider)) + len(_encode(short.model)) + _NUMBERS_BYTES
        if needed <= room:
            room -= needed
            (unpriced if entry.cost_usd is None else priced).append(short)
        elif entry.cost_usd is not None:
            cost_usd = EXACT.add(cost_usd or Decimal(0), Decimal(entry.cost_usd))
        else:
            homeless.append(short)
    for entry in homeless:
        same = (place for place, other in enumerate(unpriced) if other.provider == entry.provider)
        place = next(same, 0)
        unpriced[place] = _sum(unpriced[place], entry)
    return cost_usd, (*unpriced, *priced)


def _tokens(entry: Usage) -> int:
    return entry.input_tokens + entry.output_tokens + entry.cache_read_tokens + entry.cache_creation_tokens


def _clipped(name: str) -> str:
    while len(_encode(name)) > _LONGEST_NAME_BYTES:
        name = name[: min(_LONGEST_NAME_BYTES, len(name) * 3 // 4)]
    return name


def _sum(first: Usage, second: Usage) -> Usage:
    def capped(one: int, other: int) -> int:
        return min(one + other, MAX_TOKENS)

    return replace(
        first,
        input_tokens=capped(first.input_tokens, second.input_tokens),
        output_tokens=capped(first.output_tokens, second.output_tokens),
        cache_read_tokens=capped(first.cache_read_tokens, second.cache_read_tokens),
        cache_creation_tokens=capped(first.cache_creation_tokens, second.cache_creation_tokens),
        cache_storage_token_hours=first.cache_storage_token_hours + second.cache_storage_token_hours,
    )
