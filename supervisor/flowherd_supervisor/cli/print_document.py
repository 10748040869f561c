"""Prints a document of a running supervisor, as JSON or as text."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from flowherd.exit_codes import Exit
from flowherd_supervisor.print_text import print_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import RenderableType


def show(
    reply: tuple[str, dict[str, Any]] | None,
    render: Callable[[Mapping[str, Any]], Sequence[RenderableType]],
    *,
    as_json: bool,
) -> int:
    """Prints the reply of `ask` and returns the exit code, INTERNAL if there is none."""
    if reply is None:
        return Exit.INTERNAL
    text, document = reply
    if as_json:
        sys.stdout.write(text + "\n")
    else:
        print_text(*render(document))
    return Exit.CLEAN
