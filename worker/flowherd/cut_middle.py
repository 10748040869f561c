"""Texts that are too long."""

from __future__ import annotations

_GAP = " … "


def cut_middle(text: str, most: int) -> str:
    """The text, or its beginning and its end with a mark between, of at most `most` characters."""
    if len(text) <= most:
        return text
    kept = max(most - len(_GAP), 2)
    return text[: kept // 2] + _GAP + text[-(kept - kept // 2) :]
