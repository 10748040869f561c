"""Takes known secrets out of texts; it must not keep what it has seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Secret, SecretBytes, SecretStr

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MASK = "***"
MIN_SECRET_CHARS = 4  # shorter ones would mask ordinary words
MAX_LOOKED_AT = 1000  # values of one call


def mask(text: str, secrets: Iterable[str]) -> str:
    """Replaces every secret of at least four characters (faults.md A12)."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= MIN_SECRET_CHARS:
            text = text.replace(secret, MASK)
    return text


def secrets_in(arguments: Iterable[Any]) -> Iterator[str]:
    """Yields the text of every pydantic secret among a handler's arguments and their fields."""
    waiting = list(arguments)
    for _ in range(MAX_LOOKED_AT):
        if not waiting:
            return
        match waiting.pop():
            case SecretBytes() as found:
                yield found.get_secret_value().decode(errors="replace")
            case (SecretStr() | Secret()) as found:
                yield str(found.get_secret_value())
            case BaseModel() as model:
                waiting.extend(value for _, value in model)
            case dict() as mapping:
                waiting.extend(mapping.values())
            case list() | tuple() as items:
                waiting.extend(items)
            case _:
                pass
