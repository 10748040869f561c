"""The programs `flowherd` and `flowherd-supervisor`; `python -m flowherd_supervisor` is `flowherd`."""

from __future__ import annotations

import signal
import sys

from flowherd.process.open_standard_streams import open_closed_streams

_ABOUT = {"-h", "--help", "--version"}  # answered sooner by a process that hosts nothing


def main() -> None:
    """The `flowherd` program: exits with a code of `flowherd.exit_codes`."""
    _begin(sys.argv[1:], hosts=sys.argv[1:2] == ["run"])


def main_supervisor() -> None:
    """The `flowherd-supervisor` program: `flowherd-supervisor APP -p N` is `flowherd run APP -p N`."""
    words = sys.argv[1:]
    names_an_app = bool(words) and (":" in words[0] or words[0].startswith("-")) and words[0] not in _ABOUT
    _begin(["run", *words] if names_an_app else words, hosts=names_an_app)


def _begin(words: list[str], *, hosts: bool) -> None:
    open_closed_streams()
    if hosts and not _ABOUT.intersection(words):
        try:
            from flowherd_supervisor.cli import run  # noqa: PLC0415 - other commands need none of it

            sys.exit(run.run(words))
        except KeyboardInterrupt:
            sys.exit(128 + signal.SIGINT)
    from flowherd_supervisor.cli import main as command_line  # noqa: PLC0415 - a host needs no parser

    command_line.main(words)


if __name__ == "__main__":
    main()
