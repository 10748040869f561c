"""Prints text and tables on stdout: fitted to a terminal, else in whole lines without trailing blanks."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH_OF_A_PIPE = 200  # wide enough that grep sees whole lines


def print_text(*parts: RenderableType) -> None:
    """Prints the parts one below the other; nothing in them is taken for markup."""
    if sys.stdout.isatty():
        Console(highlight=False, markup=False).print(*parts, sep="\n")
        return
    text = io.StringIO()
    Console(file=text, width=WIDTH_OF_A_PIPE, highlight=False, markup=False).print(*parts, sep="\n")
    lines = text.getvalue().removesuffix("\n").split("\n")
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in lines))
