"""`flowherd config`: the effective settings with their origin, and the schema; it never shows a secret."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from flowherd.exits import Exit
from flowherd_supervisor.settings import Settings

if TYPE_CHECKING:
    from flowherd_supervisor.sources import Loaded


def show_config(loaded: Loaded, *, as_json: bool) -> int:
    """Prints every setting, its value and where the value came from."""
    rows = {
        name: {"value": _shown(getattr(loaded.settings, name)), "origin": loaded.origins.get(name, "default")}
        for name in Settings.model_fields
    }
    if as_json:
        sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")
        return Exit.CLEAN
    table = Table("setting", "value", "origin", box=None, pad_edge=False, header_style="bold")
    for name, row in rows.items():
        table.add_row(name, "-" if row["value"] is None else str(row["value"]), str(row["origin"]))
    Console().print(table)
    return Exit.CLEAN


def show_schema() -> int:
    """Prints the JSON schema of `flowherd.toml`."""
    schema = Settings.model_json_schema(by_alias=False)
    schema["properties"].pop("client_secret", None)
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(schema)).decode() + "\n")
    return Exit.CLEAN


def _shown(value: object) -> object:
    if isinstance(value, SecretStr):
        return "********"
    if isinstance(value, dict):
        return {name: options.model_dump(exclude_none=True) for name, options in value.items()}
    return value if isinstance(value, str | int | float | None) else str(value)
