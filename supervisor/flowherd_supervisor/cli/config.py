"""`flowherd config`: the effective settings with their origins, secrets masked, and the schema."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import msgspec
from pydantic import SecretStr
from rich.table import Table
from rich.text import Text

from flowherd.exit_codes import Exit
from flowherd.settings.model import Settings
from flowherd_supervisor.print_text import print_text
from flowherd_supervisor.shell.plan_from_settings import plan_of

if TYPE_CHECKING:
    from flowherd.settings.sources import Loaded


_SIZES = frozenset({"processes", "concurrency"})


def show_config(loaded: Loaded, *, as_json: bool) -> int:
    """Prints every setting with its value and its origin."""
    plan = plan_of(loaded.settings)
    values = {name: _shown(getattr(loaded.settings, name)) for name in Settings.model_fields}
    values |= {"processes": plan.workers, "concurrency": plan.concurrency}
    rows = {
        name: {"value": value, "origin": loaded.origins.get(name, "default")}
        for name, value in values.items()
    }
    if as_json:
        sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")
        return Exit.CLEAN
    table = Table("setting", "value", "origin", box=None, pad_edge=False, header_style="bold")
    for name, row in rows.items():
        automatic = " (auto)" if name in _SIZES and getattr(loaded.settings, name) is None else ""
        value = "-" if row["value"] is None else f"{row['value']}{automatic}"
        table.add_row(name, Text(value), Text(str(row["origin"])))
    print_text(table)
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
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, str | int | float | None) else str(value)
