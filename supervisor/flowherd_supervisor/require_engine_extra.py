"""Checks that the extra `engine` is installed, before demo, bench and dev start anything."""

from __future__ import annotations

import sysconfig
from importlib.util import find_spec

from flowherd.errors import ConfigurationError

PACKAGES = ("aiosqlite", "fastapi", "jwt", "minijinja", "yaml")
NO_WHEEL = (
    " (minijinja has no wheel for some free-threaded Pythons; the ordinary build of the same version has one)"
)


def require_engine(command: str) -> None:
    """Raises ConfigurationError with the remedy if the embedded engine cannot run here."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        free_threaded = "minijinja" in missing and sysconfig.get_config_var("Py_GIL_DISABLED")
        raise ConfigurationError(
            f"{command} needs the embedded engine ({', '.join(missing)} is missing): pip install 'flowherd[engine]'"
            f"{NO_WHEEL if free_threaded else ''}"
        )
