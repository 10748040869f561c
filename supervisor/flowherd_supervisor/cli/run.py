"""`flowherd run`, with a process of its own that parses the command line.

All processes of a host are forked from this one, and what parses command lines would stay in their memory: 4 MB for two
workers (2026-11). Both need the settings; what else hosts is imported while the other one parses.
"""

from __future__ import annotations

import flowherd_supervisor.cli.import_lean  # isort: skip  # noqa: F401 - before all others

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from flowherd.exit_codes import Exit
from flowherd_supervisor.cli.host_order import HostOrder
from flowherd_supervisor.processes.run_in_child import run_in_child

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(words: Sequence[str]) -> int:
    """Hosts what the words of a command line ask for; returns an exit code of `flowherd.exit_codes`.

    Words that are wrong are answered by the process that parses.
    """
    try:
        found = json.loads(run_in_child(lambda: _parse(words), meanwhile=_import_host))
    except ValueError:
        sys.stderr.write("flowherd: the process that parses the command line has failed or was killed\n")
        return Exit.INTERNAL
    return found if isinstance(found, int) else HostOrder(**found).carry_out()


def _parse(words: Sequence[str]) -> bytes:
    """Returns an order to host, or an exit code, as JSON."""
    from flowherd_supervisor.cli.commands import answer  # noqa: PLC0415 - it imports the parser

    found = answer(words)
    return json.dumps(found if isinstance(found, int) else asdict(found)).encode()


def _import_host() -> None:
    from flowherd_supervisor.shell import host_setup  # noqa: F401, PLC0415 - after the fork
