"""Numbers with their nouns, for texts that people read."""

from __future__ import annotations

_VOWELS = frozenset("aeiou")


def counted(number: int, noun: str) -> str:
    """Returns the number with the noun in its form: `1 process`, `2 processes`, `0 activities`; regular nouns only."""
    return f"{number} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Returns the plural of a regular noun."""
    if noun.endswith("y") and noun[-2:-1] not in _VOWELS:
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "ch")) else f"{noun}s"
