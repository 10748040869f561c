"""Collects settings from flags, environment and file, and explains errors in them."""

from __future__ import annotations

import difflib
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from flowherd.errors import ConfigurationError
from flowherd.settings.model import ActivitySettings, Settings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

CONFIG_VARIABLE = "KRUXIAFLOW_WORKER_CONFIG"
_OTHER_VARIABLES = {
    "worker": "WORKER_TYPE",  # also read by the stock SDK's scripts
    "offload_blockers": "FLOWHERD_OFFLOAD",
}
_FLAGS = {"offload_blockers": "--offload"}  # where the flag does not have the setting's name
_AUTO = frozenset({"processes", "concurrency"})  # take `auto` in place of a number
_NO_NUMBER = frozenset({"int_parsing", "int_type", "int_from_float"})
_WORDS = {
    **dict.fromkeys(_NO_NUMBER, "should be a whole number"),
    "float_parsing": "should be a number",
    "float_type": "should be a number",
    "greater_than": "should be more than {gt:g}",
    "greater_than_equal": "should be at least {ge:g}",
    "less_than_equal": "should be at most {le:g}",
    "bool_parsing": "should be true or false",
    "bool_type": "should be true or false",
    "string_type": "should be a text",
    "dict_type": "should be a table",
    "model_type": "should be a table",
}
_Found = dict[str, tuple[Any, str]]  # field name: value and origin


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and the origin of each value that is not a default: a flag, a variable, or `file: key`."""

    settings: Settings
    origins: Mapping[str, str]


def load(
    flags: Mapping[str, Any],
    config_file: Path | None = None,
    *,
    ignored: Collection[str] = (),
) -> Loaded:
    """Loads the settings: flag > environment > file > default.

    Args:
        flags: values by field name; None means not given.
        config_file: the file of `--config`, else of `KRUXIAFLOW_WORKER_CONFIG`; it must exist. Without either,
            `flowherd.toml` is read if it exists, else `[tool.flowherd]` of `pyproject.toml`.
        ignored: names of settings that the program does not use; their values are not checked.

    Raises:
        ConfigurationError: the message names the flag, variable or `file: key`, and the values it accepts.

    """
    return _loaded((_from_file(config_file), _from_environment(), _from_flags(flags)), ignored)


def check_flags(flags: Mapping[str, Any]) -> None:
    """Checks flags alone, for a program that hands them to another one.

    Args:
        flags: values by field name; None means not given.

    Raises:
        ConfigurationError: as `load`.

    """
    _loaded((_from_flags(flags),))


def _loaded(sources: Iterable[_Found], ignored: Collection[str] = ()) -> Loaded:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for found in sources:
        for name, (value, origin) in found.items():
            if name not in ignored:
                values[name], origins[name] = value, origin
    try:
        return Loaded(Settings(**values), origins)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, origins)) from None


def flag_of(name: str) -> str:
    """Returns the flag of a field."""
    return _FLAGS.get(name) or "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """Returns the environment variable of a field; for `activities`, which has none, the field name."""
    return str(Settings.model_fields[name].validation_alias)


def _from_flags(flags: Mapping[str, Any]) -> _Found:
    return {name: (value, flag_of(name)) for name, value in flags.items() if value is not None}


def _from_environment() -> _Found:
    """Reads the variables that are set and not empty: a compose file passes an unset variable as an empty one."""
    variables = {name: variable_of(name) for name in Settings.model_fields if name != "activities"}
    found: _Found = {
        name: (os.environ[variable], variable)
        for name, variable in variables.items()
        if os.environ.get(variable)
    }
    for name, variable in _OTHER_VARIABLES.items():
        if name not in found and (value := os.environ.get(variable)):
            found[name] = (value, variable)
    return found


def _from_file(named: Path | None) -> _Found:
    flag = "--config"
    if named is None and (path := os.environ.get(CONFIG_VARIABLE)):
        named, flag = Path(path), CONFIG_VARIABLE
    if named is not None and not named.is_file():
        raise ConfigurationError(f"{flag}: there is no file {str(named)!r}")
    own = named or Path("flowherd.toml")
    if own.is_file():
        return _check_keys(_read_toml(own), str(own))
    project = Path("pyproject.toml")
    if not project.is_file():
        return {}
    tool = _read_toml(project).get("tool")
    table = tool.get("flowherd", {}) if isinstance(tool, dict) else {}
    return _check_keys(table, f"{project} [tool.flowherd]")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: a TOML file is UTF-8 text") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None


def _check_keys(table: object, place: str) -> _Found:
    """Returns the settings in a table; an unknown key is an error with a suggestion (faults.md S12)."""
    if not isinstance(table, dict):
        raise ConfigurationError(f"{place}: should be a table of settings")
    found: _Found = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name == "client_secret":
            raise ConfigurationError(
                f"{place}: {key}: keep the secret out of files like this: use client_secret_file"
            )
        if name not in Settings.model_fields:
            raise ConfigurationError(f"{place}: {_unknown(key, Settings)}")
        if name in found:
            raise ConfigurationError(f"{place}: {key}: the same setting is there twice, with - and with _")
        found[name] = (value, f"{place}: {key}")
    return found


def _unknown(key: str, model: type[BaseModel]) -> str:
    close = difflib.get_close_matches(key.replace("-", "_"), model.model_fields, 1)
    hint = f"did you mean {close[0]!r}?" if close else "flowherd config schema lists them all"
    return f"unknown key {key!r}: {hint}"


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    """Lists the invalid values, one line each: origin and what is accepted, never the value itself."""
    by_variable = {variable_of(name): name for name in Settings.model_fields}
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        message = plain(problem)
        if not problem["loc"]:
            lines.append(message + _said_by(message, origins))
            continue
        first, *rest = map(str, problem["loc"])
        name = by_variable.get(first, first)
        message += ", or auto" if name in _AUTO and problem["type"] in _NO_NUMBER else ""
        if problem["type"] == "extra_forbidden" and rest:
            inner, message = "".join(f".{part}" for part in rest[:-1]), _unknown(rest[-1], ActivitySettings)
        else:
            inner = "".join(f".{part}" for part in rest) if name == "activities" else ""
        about = Settings.model_fields[name].description
        lines.append(
            f"{origins.get(name, flag_of(name))}{inner}: {message}" + (f" ({about})" if about else "")
        )
    return "\n".join(lines)


def plain(problem: ErrorDetails) -> str:
    """Returns what a value should be, in words for the command line in place of pydantic's."""
    if (words := _WORDS.get(problem["type"])) is not None:
        return words.format_map(problem.get("ctx", {}))
    message = problem["msg"].removeprefix("Value error, ")
    return message.removeprefix("Input ").removeprefix("String ")


def _said_by(message: str, origins: Mapping[str, str]) -> str:
    """Returns a note on the origins of the flags in a message that were not set on the command line."""
    elsewhere = {flag_of(name): origin for name, origin in origins.items() if not origin.startswith("--")}
    words = message.replace(":", " ").replace(",", " ").split()
    parts = [f"{flag} comes from {origin}" for flag, origin in elsewhere.items() if flag in words]
    return f" ({'; '.join(parts)})" if parts else ""
