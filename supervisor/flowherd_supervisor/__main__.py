"""The programs `flowherd` and `flowherd-supervisor`; `python -m flowherd_supervisor` is `flowherd`."""

from __future__ import annotations

import sys

from flowherd.process.open_standard_streams import open_closed_streams

_HELP = {"-h", "--help"}


def main() -> None:
    """The `flowherd` program: exits with a code of `flowherd.exit_codes`."""
    open_closed_streams()
    if sys.argv[1:2] == ["run"] and not _HELP.intersection(sys.argv):
        _run(sys.argv[1:])
    from flowherd_supervisor.cli import main as command_line  # noqa: PLC0415 - it imports the parser

    command_line.main()


def main_supervisor() -> None:
    """The `flowherd-supervisor` program: `flowherd-supervisor APP -p N` is `flowherd run APP -p N`."""
    open_closed_streams()
    if ":" in "".join(sys.argv[1:2]):  # an app
        _run(["run", *sys.argv[1:]])
    from flowherd_supervisor.cli import main as command_line  # noqa: PLC0415 - it imports the parser

    command_line.main_supervisor()


def _run(words: list[str]) -> None:
    from flowherd_supervisor.cli import run  # noqa: PLC0415 - other commands need none of it

    sys.exit(run.run(words))


if __name__ == "__main__":
    main()
