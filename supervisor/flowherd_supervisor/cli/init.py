"""`flowherd init`: writes a starter project, and never over anything that is there already."""

from __future__ import annotations

import getpass
import shlex
import sys
from importlib.resources import files
from pathlib import Path

from flowherd.errors import ConfigurationError
from flowherd.exits import Exit
from flowherd_supervisor.cli.itself import called_from

_TEMPLATES = {
    "app.py.in": "@NAME@.py",
    "test_app.py.in": "test_@NAME@.py",
    "flowherd.toml.in": "flowherd.toml",
    "app.service.in": "@NAME@.service",
}


def init(folder: Path, name: str) -> int:
    """Makes `folder` if need be and writes app, test, settings and unit file into it.

    Args:
        folder: where to.
        name: the module's.

    Raises:
        ConfigurationError: the name cannot be a module's, or something is there already.

    """
    if not name.isidentifier() or name in sys.stdlib_module_names or name.startswith("flowherd"):
        raise ConfigurationError(
            f"--name {name}: should be the name of a module that there is not yet, such as my_app"
        )
    made = {
        folder / to.replace("@NAME@", name): _filled(template, folder, name)
        for template, to in _TEMPLATES.items()
    }
    if there := [str(path) for path in made if path.exists()]:
        raise ConfigurationError(f"{', '.join(there)}: there already; choose another folder, or --name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in made.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{folder}: {error.strerror}") from None
    sys.stdout.write("".join(f"{path}\n" for path in made))
    where = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    sys.stdout.write(f"next: {where}{called_from(folder)} dev {name}:registry\n")
    return Exit.CLEAN


def _filled(template: str, folder: Path, name: str) -> str:
    text = (files("flowherd_supervisor.cli") / "starter" / template).read_text(encoding="utf-8")
    program = Path(sys.executable).with_name("flowherd")
    values = {
        "NAME": name,
        "USER": getpass.getuser(),
        "FOLDER": _in_a_unit(folder),
        "PROGRAM": _in_a_unit(program),
    }
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


def _in_a_unit(path: Path) -> str:
    """A path as systemd reads it: % begins a specifier there, and a space ends a word."""
    return str(path.absolute()).replace("%", "%%").replace(" ", "\\x20")
