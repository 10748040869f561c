"""An order to host an app: the process that parses the command line tells it to the one that hosts."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from flowherd.settings import sources
from flowherd.settings.command_exit import exit_code_of


@dataclass(frozen=True, slots=True)
class HostOrder:
    """The app to host, and how; as JSON it survives arguments that are not UTF-8.

    Attributes:
        app: `module:attr`.
        app_dir: the folder that is put first on the import path.
        config: the settings file of `--config`.
        reload: import the app again when its files change.
        burst_idle_s: seconds without work after which the host ends by itself, None for never.
        flags: values by field name of the settings; None means not given.

    """

    app: str
    app_dir: str
    config: str | None
    reload: bool
    burst_idle_s: float | None
    flags: dict[str, str | bool | None]

    def carry_out(self) -> int:
        """Hosts until it is stopped; returns an exit code of `flowherd.exit_codes`."""
        return exit_code_of(self._host)

    def _host(self) -> int:
        from flowherd_supervisor.cli.watch_files import watching  # noqa: PLC0415 - who parses needs none of it
        from flowherd_supervisor.shell import host_setup  # noqa: PLC0415 - as above

        app = host_setup.App(self.app, self.app_dir, self.burst_idle_s)
        config = None if self.config is None else Path(self.config)
        with watching(self.app_dir, os.getpid()) if self.reload else nullcontext():
            return host_setup.run(app, lambda: sources.load(self.flags, config).settings)
