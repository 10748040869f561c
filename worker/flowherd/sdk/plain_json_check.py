"""A fast check that an output consists of plain JSON values."""

from __future__ import annotations

import math
from typing import Any

from flowherd.errors import InvalidOutput

MAX_DEPTH = 119  # levels of an output: 120 with the envelope (protocol.md §6.5)
MAX_NODES = 27_000_000  # more values than fit into a body; also ends a walk through shared containers
WIDE = 50_000  # with more containers than this on a level, repeated ones are removed
MAX_INT, MIN_INT = 2**64 - 1, -(2**63)  # beyond these the engine rounds silently (protocol.md §6.5)
_SCALARS = frozenset({str, int, float, bool, type(None)})
_HARMLESS = frozenset({str, bool, type(None)})
_ONLY_STR = {str}
_FEW, _SMALL = 16, 2**53


def is_plain(output: dict[Any, Any]) -> bool:
    """True when every value is of a JSON type, finite, in range and not too deep; the text of strings is not checked.

    Containers are checked by C loops, so a million numbers cost milliseconds. Raises InvalidOutput when there are more
    values than any body can hold.
    """
    if len(output) <= _FEW and _are_few_scalars(output):
        return True
    waiting: list[Any] = [output]
    nodes = 0
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for container in waiting:
            nodes += len(container)
            if nodes > MAX_NODES:
                raise too_many()
            if type(container) is dict:
                if set(map(type, container)) != _ONLY_STR and container:
                    return False
                values: Any = container.values()
            else:
                values = container
            if not _plain_values(values, deeper):
                return False
        if not deeper:
            return True
        waiting = _without_repeats(output, deeper) if len(deeper) > WIDE else deeper
    return False


def _are_few_scalars(output: dict[Any, Any]) -> bool:
    """True for the usual output: all names are strings, and all values are scalars that need no further check."""
    for name, value in output.items():
        kind = type(value)
        if type(name) is not str or not (
            kind in _HARMLESS
            or (kind is int and -_SMALL <= value <= _SMALL)
            or (kind is float and value - value == 0)
        ):
            return False
    return True


def _without_repeats(output: Any, containers: list[Any]) -> list[Any]:
    """Returns each container once; checks the unfolded size of the output before it drops any."""
    unique = list({id(container): container for container in containers}.values())
    if len(unique) < len(containers):
        check_unfolded(output)
    return unique


def check_unfolded(output: Any) -> None:
    """Raises InvalidOutput when shared containers unfold to more values than any body can hold."""
    if _unfolded(output, {}, MAX_DEPTH) > MAX_NODES:
        raise too_many()


def _unfolded(value: Any, known: dict[int, int], levels: int) -> int:
    """Returns the number of values that this one becomes when encoded; visits each container once."""
    if type(value) not in {dict, list, tuple} or not levels:
        return 1
    if (count := known.get(id(value))) is None:
        known[id(value)] = 1  # a container that contains itself is reported elsewhere
        items = value.values() if type(value) is dict else value
        count = known[id(value)] = 1 + sum(_unfolded(item, known, levels - 1) for item in items)
    return count


def _plain_values(values: Any, deeper: list[Any]) -> bool:
    """Checks the values of one container and appends the containers among them to `deeper`."""
    kinds = set(map(type, values))
    if kinds <= _HARMLESS:
        return True
    if float in kinds and not all(math.isfinite(value) for value in values if type(value) is float):
        return False
    if int in kinds:
        numbers = [value for value in values if type(value) is int]
        if max(numbers) > MAX_INT or min(numbers) < MIN_INT:
            return False
    kinds -= _SCALARS
    if not kinds:
        return True
    if not kinds <= {dict, list, tuple}:
        return False
    deeper.extend(value for value in values if type(value) in kinds)
    return True


def too_many() -> InvalidOutput:
    """Returns the error for more values than any body can hold."""
    return InvalidOutput("the output holds too many values for one reply: write them to a file")
