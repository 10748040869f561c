"""The extra `engine`: demo, bench and dev ask for it before they start anything."""

from __future__ import annotations

from importlib.util import find_spec

from flowherd.errors import ConfigurationError

PACKAGES = ("aiosqlite", "fastapi", "jwt", "yaml")


def require_engine(command: str) -> None:
    """Raise ConfigurationError with the remedy if the embedded engine cannot run here."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"{command} needs the embedded engine ({', '.join(missing)} is missing): pip install 'flowherd[engine]'"
        )
