"""`flowherd init`: writes a starter project; refuses to overwrite files."""

from __future__ import annotations

import getpass
import shlex
import sys
import textwrap
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from flowherd.errors import ConfigurationError
from flowherd.exit_codes import Exit
from flowherd.settings.model import Settings
from flowherd_supervisor.cli.program_name import called_from

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_UNIT = "app.service.in"
_TEMPLATES = {
    "app.py.in": "@NAME@.py",
    "test_app.py.in": "test_@NAME@.py",
    "flowherd.toml.in": "flowherd.toml",
    "pytest.ini.in": "pytest.ini",
    _UNIT: "@NAME@.service",
}


_NO_KEYS = frozenset({"client_secret", "activities"})
_AUTO = {"processes": "auto", "concurrency": "auto"}
_EXAMPLES = {  # for keys without a default
    "client_id": "my-client",
    "client_secret_file": "/run/secrets/flowherd",
    "worker": "py-std",
    "worker_id": "my-host",
    "heartbeat_interval": 20,
    "max_tasks_per_child": 1000,
    "max_memory_per_child": 500,
    "preload": True,
    "offload_blockers": "auto",
    "log_activities": True,
    "log_format": "json",
}
_WIDTH = 100


def init(folder: Path, name: str) -> int:
    """Writes app, test, pytest and flowherd settings and a unit file into `folder`, which is created if missing.

    Args:
        folder: target folder.
        name: name of the app's module.

    Raises:
        ConfigurationError: the name is not usable for a module, or one of the files exists.

    """
    _check_name(name)
    made = {
        folder / to.replace("@NAME@", name): _filled(template, folder, name)
        for template, to in _TEMPLATES.items()
    }
    _write(made, folder, "folder, or --name")
    where = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    sys.stdout.write(f"next: {where}{called_from(folder)} dev {name}:registry\n")
    return Exit.CLEAN


def init_unit(unit: Path, folder: Path, name: str) -> int:
    """Writes a unit file for systemd alone, for an app that exists; warns of a unit that is unwise or cannot start.

    Args:
        unit: the file to write.
        folder: the app's folder.
        name: name of the app's module; the unit runs its `registry`.

    Raises:
        ConfigurationError: the name is not usable for a module, or the file exists.

    """
    _check_name(name)
    _write({unit: _filled(_UNIT, folder, name)}, unit.parent, "file")
    sys.stderr.writelines(f"flowherd: warning: {warning}\n" for warning in _warnings(folder.resolve()))
    return Exit.CLEAN


def _warnings(folder: Path) -> Iterator[str]:
    if getpass.getuser() == "root":
        yield "the unit runs as root: change User=, or write it as the user that is to run the app"
    if any(folder.is_relative_to(hidden) for hidden in ("/tmp", "/var/tmp")):  # noqa: S108 - systemd's own
        yield f"{folder} is hidden from the unit by PrivateTmp=yes: move the app, or remove that line"


def _check_name(name: str) -> None:
    if not name.isidentifier() or name in sys.stdlib_module_names or name.startswith("flowherd"):
        raise ConfigurationError(f"--name {name}: should be the name of a module of your own, such as my_app")


def _write(made: Mapping[Path, str], folder: Path, other: str) -> None:
    """Writes all files into `folder`, or none if one of them exists, and prints their names."""
    if there := [str(path) for path in made if path.exists()]:
        raise ConfigurationError(f"{', '.join(there)}: there already; choose another {other}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in made.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{folder}: {error.strerror}") from None
    sys.stdout.write("".join(f"{path}\n" for path in made))


def _filled(template: str, folder: Path, name: str) -> str:
    text = (files("flowherd_supervisor.cli") / "starter" / template).read_text(encoding="utf-8")
    program = Path(sys.executable).with_name("flowherd")
    values = {
        "KEYS": "\n".join(_keys()),
        "NAME": name,
        "USER": getpass.getuser(),
        "FOLDER": _in_a_unit(folder),
        "PROGRAM": _in_a_unit(program),
    }
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


def _keys() -> Iterator[str]:
    """Yields each setting as a comment with its description and its default, commented out."""
    for name, info in Settings.model_fields.items():
        if name in _NO_KEYS:
            continue
        value = _AUTO.get(name, info.default)
        about = info.description if value is not None else f"{info.description} (not set by default)"
        shown = msgspec.json.encode(_EXAMPLES[name] if value is None else value).decode()
        yield textwrap.fill(about or "", _WIDTH, initial_indent="## ", subsequent_indent="## ")
        yield f"# {name} = {shown}"


def _in_a_unit(path: Path) -> str:
    """Escapes a path for a systemd unit file: `%` starts a specifier, a space ends a word."""
    text = str(path.absolute())
    if text != text.encode(errors="replace").decode():
        raise ConfigurationError(f"{text!r}: the unit has this path, which should be UTF-8")
    return text.replace("%", "%%").replace(" ", "\\x20")
