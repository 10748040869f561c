"""Encodes sums of tokens and money as bytes of bounded length, for the ledger.

Sums that do not fit are merged rather than lost:

1. Unpriced sums are placed first, the largest first: only the engine can price them.
2. A priced sum that does not fit is added to the cost that belongs to no model: the money stays exact, its tokens are
   no longer reported.
3. An unpriced sum that does not fit is added to the largest placed one of the same provider, else to the largest of
   all, and is priced as that model. A counter stops at the largest number the engine accepts.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Context, Decimal, InvalidOperation

import msgspec

from flowherd.activities_and_outcomes import Usage

MAX_TOKENS = 2**32 - 1  # the engine's counters are unsigned 32-bit (protocol.md §6.1)
EXACT = Context(prec=60, traps=[InvalidOperation])  # for sums of money: a handler may change the current one
_LONGEST_NAME_BYTES = 256  # of a provider or a model, when sums are merged
_NUMBERS_BYTES = 120  # four counters, token-hours, cost and separators, at their longest

_Row = tuple[str, str, int, int, int, int, float, str | None]
_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(tuple[str | None, tuple[_Row, ...]])


def pack(cost_usd: Decimal | None, usage: tuple[Usage, ...], limit: int) -> bytes:
    """Encodes the sums in at most `limit` bytes (at least 1,024), merged as above where they do not fit."""
    packed = _packed(cost_usd, usage)
    return packed if len(packed) <= limit else _packed(*_merged(cost_usd, usage, limit))


def bounded(
    cost_usd: str | None, usage: tuple[Usage, ...], limit: int
) -> tuple[str | None, tuple[Usage, ...]]:
    """Returns the sums unchanged when they fit into `limit` bytes (at least 1,024), else merged as above."""
    if (
        len(usage) * _NUMBERS_BYTES <= limit // 4
        and sum(len(e.provider) + len(e.model) for e in usage) <= limit // 8
    ):
        return cost_usd, usage
    return unpack(pack(None if cost_usd is None else Decimal(cost_usd), usage, limit))


def unpack(packed: bytes) -> tuple[str | None, tuple[Usage, ...]]:
    """Decodes the cost that belongs to no model, and the usage."""
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
