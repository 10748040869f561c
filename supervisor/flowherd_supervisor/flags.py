"""The flags of `run`, made from the settings model, so that a setting is described in one place; it parses nothing."""

from __future__ import annotations

from dataclasses import field, fields, make_dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from flowherd_supervisor.settings import Settings, flag_of, variable_of

_SHORT = {"processes": "-p", "concurrency": "-c"}
_NO_FLAG = frozenset({"client_secret", "activities"})


def _flag(name: str) -> tuple[str, Any, Any]:
    info = Settings.model_fields[name]
    default = "auto" if name in _SHORT else info.default
    shown = "" if default is None else f" [default: {default:g}]" if isinstance(default, float) else f" [default: {default}]"
    names = [flag_of(name), *([_SHORT[name]] if name in _SHORT else [])]
    help_text = f"{info.description}{shown} [env: {variable_of(name)}]"
    return name, Annotated[str | None, Parameter(name=names, help=help_text, show_default=False)], field(default=None)


RunFlags: Any = make_dataclass(
    "RunFlags",
    [_flag(name) for name in Settings.model_fields if name not in _NO_FLAG],
    frozen=True,
    namespace={"__module__": __name__},  # cyclopts takes a class of the module `types` for a built-in one
)
"""Every flag as the text that was given, None where it was not: the settings model parses them all alike."""


def given(flags: Any) -> dict[str, str | None]:
    """The flags by field name."""
    return {item.name: getattr(flags, item.name) for item in fields(flags)}
