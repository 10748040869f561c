"""Counts the words of a text in parallel: split, count each part, merge."""

from collections import Counter

from flowherd import Registry

registry = Registry()


@registry.activity
def split_text(text: str, parts: int) -> dict[str, list[str]]:
    """Cuts a text into parts of about the same number of words."""
    words = text.split()
    return {"parts": [" ".join(words[part::parts]) for part in range(parts)]}


@registry.activity(timeout_s=60)
def count_words(text: str) -> dict[str, dict[str, int]]:
    """Counts each word of one part."""
    return {"counts": Counter(text.lower().split())}


@registry.activity
def merge_counts(counts: list[dict[str, int]], most: int) -> dict[str, dict[str, int]]:
    """Adds the counts up and keeps the most frequent words."""
    total = sum(map(Counter, counts), Counter[str]())
    return {"words": dict(total.most_common(most))}
