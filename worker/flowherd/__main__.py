"""The command `python -m flowherd`: parses the command line and runs `flowherd.process.standalone`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from cyclopts import App

from flowherd import __version__, logs
from flowherd.errors import AppImportError
from flowherd.exit_codes import Exit
from flowherd.process import standalone
from flowherd.process.open_standard_streams import open_closed_streams
from flowherd.settings import sources
from flowherd.settings.command_exit import call
from flowherd.settings.flags import EVERY_FLAG, AppDir, AppName, ConfigFile, flags_but, given
from flowherd.settings.model import SUPERVISOR_ONLY

if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME = "python -m flowherd"
_Flags: Any = flags_but(SUPERVISOR_ONLY)
_NO_FLAGS = _Flags()

app = App(
    name=_NAME,
    version=__version__,
    help="Work as one process. `flowherd run` hosts the same app on several, and keeps leases while handlers block.",
    result_action="return_value",
)


@app.default
def work(
    app_name: AppName,
    /,
    *,
    app_dir: AppDir = ".",
    config: ConfigFile = None,
    flags: Annotated[_Flags, EVERY_FLAG] = _NO_FLAGS,
) -> int:
    """Run the activities of APP in this process until it is stopped."""
    settings = sources.load(given(flags), config, ignored=SUPERVISOR_ONLY).settings
    logs.setup(settings.log_level, settings.log_format)
    try:
        return standalone.run(app_name, app_dir, settings)
    except AppImportError as error:
        sys.stderr.write(f"{error.report}\n{error}\n")
        return Exit.BOOT_FAILED


def main(words: Sequence[str]) -> int:
    """Runs until stopped and returns the exit code (`flowherd.exit_codes`)."""
    code: int = call(app, _NAME, words)
    return code


def _leave(code: int) -> NoReturn:
    """Exits without waiting for threads that user code left behind (faults.md A16, C16)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    open_closed_streams()
    _leave(main(sys.argv[1:]))
