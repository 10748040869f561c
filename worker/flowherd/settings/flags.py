"""The command-line flags of both programs, generated from the settings model."""

from __future__ import annotations

from dataclasses import field, fields, make_dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from cyclopts import Parameter

from flowherd.settings.model import Settings
from flowherd.settings.sources import CONFIG_VARIABLE, flag_of, variable_of

if TYPE_CHECKING:
    from collections.abc import Collection

_SHORT = {"processes": "-p", "concurrency": "-c"}
_NO_FLAG = frozenset({"client_secret", "secret_names", "activities"})
_VALUE = {
    "processes": "N|auto",
    "concurrency": "N|auto",
    "api_url": "URL",
    "admin": "ADDRESS",
    "worker": "TYPE",
}
_VALUE_OF_TYPE = {int: "N", float: "SECONDS", Path: "FILE", str: "ID"}

EVERY_FLAG = Parameter(name="*")
AppName = Annotated[
    str,
    Parameter(
        name="APP", help="module:attr: a registry, a list or module of activities, or a stock worker's main"
    ),
]
AppDir = Annotated[str, Parameter(help="goes first on the import path")]
ConfigFile = Annotated[
    Path | None,
    Parameter(
        help=f"settings file [default: flowherd.toml] [env: {CONFIG_VARIABLE}]",
        metavar="FILE",
        show_default=False,
    ),
]


def _value(name: str) -> str:
    """Returns the placeholder for the value in the help text."""
    hint = Settings.model_fields[name].annotation
    for part in (hint, *get_args(hint)):
        inner = get_args(part)[0] if get_origin(part) is Annotated else part
        if get_origin(inner) is Literal:
            return "|".join(get_args(inner))
        if inner in _VALUE_OF_TYPE and inner is not NoneType:
            return _VALUE.get(name, _VALUE_OF_TYPE[inner])
    return _VALUE[name]


def _flag(name: str) -> tuple[str, Any, Any]:
    info = Settings.model_fields[name]
    if info.annotation == bool | None:
        switch = Parameter(
            name=flag_of(name),
            negative=f"--no-{flag_of(name).removeprefix('--')}",
            help=f"{info.description} [env: {variable_of(name)}]",
            show_default=False,
        )
        return name, Annotated[bool | None, switch], field(default=None)
    default = "auto" if name in _SHORT else info.default
    shown = f"{default:g}" if isinstance(default, float) else default
    suffix = "" if default is None else f" [default: {shown}]"
    parameter = Parameter(
        name=[flag_of(name), *([_SHORT[name]] if name in _SHORT else [])],
        help=f"{info.description}{suffix} [env: {variable_of(name)}]",
        metavar=_value(name),
        show_default=False,
    )
    return name, Annotated[str | None, parameter], field(default=None)


def flags_but(ignored: Collection[str] = ()) -> Any:
    """Returns a dataclass with a flag for each setting, except the ignored ones and those without a flag.

    A flag's value is the text on the command line, a switch's a bool, and None when not given: the model parses them.
    """
    names = [name for name in Settings.model_fields if name not in _NO_FLAG and name not in ignored]
    return make_dataclass(
        "Flags",
        [_flag(name) for name in names],
        frozen=True,
        namespace={"__module__": __name__},  # cyclopts takes a class of the module `types` for a built-in one
    )


def given(flags: Any) -> dict[str, str | bool | None]:
    """Returns the flags by field name."""
    return {item.name: getattr(flags, item.name) for item in fields(flags)}
