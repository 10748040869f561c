"""The words for whoever begins: `init` and `dev`; each calls the part that does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def init(
    folder: Annotated[Path, Parameter(name="FOLDER", help="where to; made if it is not there")] = Path(),
    /,
    *,
    name: Annotated[str, Parameter(help="the module's")] = "my_app",
) -> int:
    """Write a starter project: app, test, settings, unit file."""
    from flowherd_supervisor.cli.init import init as part  # noqa: PLC0415 - `flowherd --help` needs none of it

    return part(folder, name)


def dev(
    app_name: Annotated[str, Parameter(name="APP", help="module:attr, as for run")],
    /,
    *,
    app_dir: Annotated[str, Parameter(help="goes first on the import path, and is watched")] = ".",
    processes: Annotated[
        int | None, Parameter(name=["--processes", "-p"], help="worker processes [default: as run]")
    ] = None,
    port: Annotated[int, Parameter(help="of the engine; 0 picks a free one")] = 8080,
    db: Annotated[str, Parameter(help="SQLite file that keeps the engine's state")] = ":memory:",
    reload: Annotated[bool, Parameter(help="import the app anew when its files change")] = True,
    admin: Annotated[str | None, Parameter(help="as for run")] = None,
    log_format: Annotated[str | None, Parameter(help="text or json")] = None,
) -> int:
    """Run the embedded engine and APP in one command, and reload APP when its files change."""
    from flowherd_supervisor.cli import dev as part  # noqa: PLC0415 -

    given = {"--admin": admin, "--log-format": log_format}
    flags = [word for flag, value in given.items() if value is not None for word in (flag, value)]
    return part.dev(
        part.DevOptions(
            app_name, app_dir, port=port, db=db, processes=processes, reload=reload, flags=tuple(flags)
        )
    )
