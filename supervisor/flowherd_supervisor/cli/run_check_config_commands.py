"""The commands `run`, `check` and `config`, which take every setting as a flag; `commands.py` registers them."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import TypeAdapter, ValidationError

from flowherd.errors import ConfigurationError
from flowherd.settings import sources
from flowherd.settings.flags import EVERY_FLAG, AppDir, AppName, ConfigFile, flags_but, given
from flowherd.settings.parsing import PositiveSeconds
from flowherd_supervisor.cli.host_order import HostOrder

BURST_IDLE_S = 3.0  # the engine has the next step of a workflow ready within 1 s, a first retry after 2

_RunFlags: Any = flags_but()
_NO_FLAGS = _RunFlags()


def run(
    app_name: AppName,
    /,
    *,
    app_dir: AppDir = ".",
    config: ConfigFile = None,
    reload: Annotated[
        bool, Parameter(help="import the app again when its files change", negative="")
    ] = False,
    burst: Annotated[
        bool, Parameter(help="run what is queued, then drain and exit with 0", negative="")
    ] = False,
    burst_idle: Annotated[
        str | None,
        Parameter(
            help=f"with --burst: end after so many seconds without work [default: {BURST_IDLE_S:g}]",
            metavar="SECONDS",
        ),
    ] = None,
    flags: Annotated[_RunFlags, EVERY_FLAG] = _NO_FLAGS,
) -> HostOrder:
    """Returns the order to host an app."""
    if app_name != app_name.encode(errors="replace").decode():
        raise ConfigurationError("APP: should be module:attr, in UTF-8")
    return HostOrder(
        app=app_name,
        app_dir=app_dir,
        config=None if config is None else str(config),
        reload=reload,
        burst_idle_s=_idle_s(burst_idle, burst=burst),
        flags=given(flags),
    )


def _idle_s(text: str | None, *, burst: bool) -> float | None:
    """Seconds without work after which a burst ends; None without `--burst`."""
    if text is None:
        return BURST_IDLE_S if burst else None
    if not burst:
        raise ConfigurationError("--burst-idle: says when --burst ends: add --burst")
    try:
        return TypeAdapter(PositiveSeconds).validate_python(text)
    except ValidationError as error:
        raise ConfigurationError(f"--burst-idle: {sources.plain(error.errors()[0])}") from None


def check(
    app_name: AppName,
    /,
    *,
    app_dir: AppDir = ".",
    config: ConfigFile = None,
    offline: Annotated[bool, Parameter(help="do not ask the engine", negative="")] = False,
    flags: Annotated[_RunFlags, EVERY_FLAG] = _NO_FLAGS,
) -> int:
    """Reports what would keep an app from running well."""
    from flowherd_supervisor.cli.check import check as part  # noqa: PLC0415 - `run` needs none of it

    return part(app_name, app_dir, sources.load(given(flags), config), offline=offline)


def show(
    *,
    config: ConfigFile = None,
    json: Annotated[bool, Parameter(help="print one JSON object", negative="")] = False,
    flags: Annotated[_RunFlags, EVERY_FLAG] = _NO_FLAGS,
) -> int:
    """Shows the effective settings."""
    from flowherd_supervisor.cli.config import show_config  # noqa: PLC0415 - as above

    return show_config(sources.load(given(flags), config), as_json=json)


def schema() -> int:
    """Prints the schema of the settings file."""
    from flowherd_supervisor.cli.config import show_schema  # noqa: PLC0415 - as above

    return show_schema()
