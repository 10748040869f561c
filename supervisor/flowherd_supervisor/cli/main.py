"""The programs `flowherd` and `flowherd-supervisor`; `flowherd run` begins without what parses command lines."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from flowherd.process.open_standard_streams import open_closed_streams

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_ABOUT = {"-h", "--help", "--version"}  # answered sooner by a process that hosts nothing


def main(words: Sequence[str] | None = None) -> NoReturn:
    """The `flowherd` program: exits with a code of `flowherd.exit_codes`."""
    words = sys.argv[1:] if words is None else words
    _begin(words, hosts=words[:1] == ["run"])


def main_supervisor() -> NoReturn:
    """The `flowherd-supervisor` program: `flowherd-supervisor APP -p N` is `flowherd run APP -p N`."""
    words = sys.argv[1:]
    names_an_app = bool(words) and (":" in words[0] or words[0].startswith("-")) and words[0] not in _ABOUT
    _begin(["run", *words] if names_an_app else words, hosts=names_an_app)


def _begin(words: Sequence[str], *, hosts: bool) -> NoReturn:
    open_closed_streams()
    if hosts and not _ABOUT.intersection(words):
        try:
            from flowherd_supervisor.cli import run  # noqa: PLC0415 - other commands need none of it

            sys.exit(run.run(words))
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
    from flowherd_supervisor.cli.commands import answer  # noqa: PLC0415 - a host needs no parser

    found = answer(words)
    sys.exit(found if isinstance(found, int) else found.carry_out())
