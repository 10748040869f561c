"""Parsers for the values of settings: counts, `auto`, durations, transports, addresses and names."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

DEFAULT_ADDRESS = "127.0.0.1:9464"
_HIGHEST_PORT = 65535
_HOST = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*\.?", re.ASCII)
_LONGEST_HOST = 253
_UNITS_S = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*(ms|s|m|h|)\s*", re.ASCII)


def _duration(value: object) -> object:
    """Parses `60`, `60s`, `500ms` and `2m`, like the engine's own variables (protocol.md §7)."""
    _no_bool(value)
    if not isinstance(value, str):
        return value
    found = _DURATION.fullmatch(value)
    if found is None:
        raise ValueError("should be seconds, or a number with ms, s, m or h such as 500ms or 2m")
    return float(found[1]) * _UNITS_S[found[2]]


def _count(value: object) -> object:
    _no_bool(value)
    return value


def _count_or_auto(value: object) -> object:
    return None if value == "auto" else _count(value)


def _no_bool(value: object) -> None:
    """Raises ValueError for a bool, which pydantic would otherwise accept as 0 or 1."""
    if isinstance(value, bool):
        raise ValueError("should be a number")  # noqa: TRY004 - pydantic reports a ValueError


def _known_transport(name: object) -> object:
    if name == "httpx-pool":
        raise ValueError("httpx-pool is gone: use direct, the default, or httpx, behind a proxy")
    return name


def is_host(name: str) -> bool:
    """True if a host can have this name or address; httpx and the resolver raise UnicodeError at others."""
    try:
        if ":" in name:
            ipaddress.ip_address(name.partition("%")[0])
        else:
            name.encode("ascii").decode("idna")
    except ValueError:
        return False
    return ":" in name or (len(name) <= _LONGEST_HOST and _HOST.fullmatch(name) is not None)


@dataclass(frozen=True, slots=True)
class Tcp:
    """A host and a port; port 0 means any free one."""

    host: str
    port: int


def parse_address(text: str) -> Tcp | Path | None:
    """Parses `--admin`: `HOST:PORT`, `unix:PATH`, or `off`, for which it returns None.

    Raises:
        ValueError: the text is none of these.

    """
    if text == "off":
        return None
    if text.startswith("unix:") and text != "unix:":
        return Path(text.removeprefix("unix:"))
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > _HIGHEST_PORT:
        raise ValueError(f"should be HOST:PORT, unix:PATH or off; such as {DEFAULT_ADDRESS}")
    return Tcp(host.removeprefix("[").removesuffix("]"), int(port))


def _address(text: str) -> str:
    parse_address(text)
    return text


def _names(value: object) -> object:
    """Parses names from a list (in a file) or a text with commas (in a variable)."""
    names = value.split(",") if isinstance(value, str) else value
    if isinstance(names, list | tuple) and not all(
        isinstance(one, str) and one.strip(" -_") for one in names
    ):
        raise ValueError("should be names such as pin, card_number")
    return tuple(one.strip() for one in names) if isinstance(names, list | tuple) else names


Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_duration)]
PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_duration)]
Count = Annotated[int, BeforeValidator(_count)]
CountOrAuto = Annotated[int | None, BeforeValidator(_count_or_auto)]
TransportName = Annotated[Literal["direct", "httpx"], BeforeValidator(_known_transport)]
Address = Annotated[str, AfterValidator(_address)]
SecretNames = Annotated[tuple[str, ...], BeforeValidator(_names)]
