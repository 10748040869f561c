"""The words of the commands that take every setting as a flag; `main.py` names them, with their help."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Annotated, Any

from cyclopts import Parameter

from flowherd.settings import sources
from flowherd.settings.flags import EVERY_FLAG, AppDir, AppName, ConfigFile, flags_but, given

_RunFlags: Any = flags_but()
_NO_FLAGS = _RunFlags()


def run(
    app_name: AppName,
    /,
    *,
    app_dir: AppDir = ".",
    config: ConfigFile = None,
    reload: Annotated[bool, Parameter(help="import the app anew when its files change", negative="")] = False,
    flags: Annotated[_RunFlags, EVERY_FLAG] = _NO_FLAGS,
) -> int:
    """Hosts an app until told to stop."""
    from flowherd_supervisor.cli.reload import watching  # noqa: PLC0415 - the help needs none of it
    from flowherd_supervisor.shell import host  # noqa: PLC0415 - as above

    chosen = given(flags)
    with watching(app_dir, os.getpid()) if reload else nullcontext():
        return host.run(host.App(app_name, app_dir), lambda: sources.load(chosen, config).settings)


def check(
    app_name: AppName,
    /,
    *,
    app_dir: AppDir = ".",
    config: ConfigFile = None,
    offline: Annotated[bool, Parameter(help="ask no engine", negative="")] = False,
    flags: Annotated[_RunFlags, EVERY_FLAG] = _NO_FLAGS,
) -> int:
    """Says what would keep an app from running well."""
    from flowherd_supervisor.cli.check import check as part  # noqa: PLC0415 - as above

    return part(app_name, app_dir, sources.load(given(flags), config), offline=offline)


def show(
    *,
    config: ConfigFile = None,
    json: Annotated[bool, Parameter(help="as one JSON object", negative="")] = False,
    flags: Annotated[_RunFlags, EVERY_FLAG] = _NO_FLAGS,
) -> int:
    """Shows the effective settings."""
    from flowherd_supervisor.cli.config import show_config  # noqa: PLC0415 - as above

    return show_config(sources.load(given(flags), config), as_json=json)


def schema() -> int:
    """Prints the schema of the settings file."""
    from flowherd_supervisor.cli.config import show_schema  # noqa: PLC0415 - as above

    return show_schema()
