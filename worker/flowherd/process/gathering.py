"""Puts copies of the code that every worker runs side by side, in place of the originals; it runs none of it.

Python counts the users of code in the code itself, and notes there what it has found out about it. A few hundred bytes
of some hundred modules, each between others that no worker runs, would have a child copy a page for nearly each.
"""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

    Codes = Mapping[int, CodeType]  # by their ids: to compare codes is to compare all that they are made of


@contextmanager
def watched() -> Iterator[Codes]:
    """What code this thread runs meanwhile; none where somebody else watches it already."""
    seen: dict[int, CodeType] = {}

    def note(frame: FrameType, _event: str, _argument: object) -> None:
        seen[id(frame.f_code)] = frame.f_code

    if sys.getprofile() is not None:
        yield seen
        return
    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)


def gather(codes: Codes) -> int:
    """Gives each function that has one of these codes a copy of it, and returns how many functions there were.

    The copies lie where there is room: holes are to be filled before, and those of the originals afterwards. What
    there is by then is frozen: the collections to come need not look at it.
    """
    gc.unfreeze()  # the collector does not name what is frozen
    copies: dict[int, CodeType] = {}
    functions = [one for one in gc.get_objects() if type(one) is FunctionType and id(one.__code__) in codes]
    for function in functions:
        function.__code__ = _copy(function.__code__, codes, copies)
    gc.freeze()
    return len(functions)


def _copy(code: CodeType, codes: Codes, copies: dict[int, CodeType]) -> CodeType:
    """A copy that makes its own functions of copies, too; `codes` keeps the originals, whose room would be taken."""
    if id(code) not in copies:
        consts = tuple(_copy(one, codes, copies) if id(one) in codes else one for one in code.co_consts)
        copies[id(code)] = code.replace(co_consts=consts)
    return copies[id(code)]
