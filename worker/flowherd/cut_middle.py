"""Shortens long texts in the middle."""

from __future__ import annotations

_GAP = " … "


def cut_middle(text: str, most: int) -> str:
    """Returns the text, or its start and end with a mark in between, of at most `most` characters."""
    if len(text) <= most:
        return text
    kept = max(most - len(_GAP), 2)
    return text[: kept // 2] + _GAP + text[-(kept - kept // 2) :]
