"""Checks for request targets and headers, origins, and the errors of an exchange. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from urllib.parse import quote, urlsplit

_TARGET = re.compile(rb"/[\x21-\x7e]*\Z")
_HOST = re.compile(r"[A-Za-z0-9_.:%-]+\Z")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*\Z")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class WireError(Exception):
    """An exchange failed; `DirectTransport` translates it."""


class ConnectError(WireError):
    """No connection could be opened: nothing was sent."""


class Disconnected(WireError):
    """The connection ended before the reply did.

    Args:
        has_begun: True when a byte of the reply had arrived.

    """

    def __init__(self, reason: str, *, has_begun: bool) -> None:
        super().__init__(reason)
        self.has_begun = has_begun


class MalformedReply(WireError):
    """The reply is not valid HTTP/1.1, or not one that was requested."""


class OversizedReply(WireError):
    """The body is longer than allowed."""


class Overdue(WireError):
    """The deadline passed during the exchange.

    Args:
        has_stalled: True when no byte had moved in either direction for the time of a stall.

    """

    def __init__(self, reason: str, *, has_stalled: bool) -> None:
        super().__init__(reason)
        self.has_stalled = has_stalled


@dataclass(frozen=True)
class Origin:
    """The scheme, host and port to connect to; host names are ASCII, IPv6 addresses have no brackets."""

    scheme: str
    host: str
    port: int

    @classmethod
    @lru_cache(maxsize=8)  # one per engine, usually filled before the fork
    def of(cls, url: str) -> Origin:
        """The origin of an absolute URL.

        Raises:
            ValueError: the URL has none.

        """
        parts = urlsplit(url)
        host = parts.hostname or ""
        if not host.isascii():
            host = host.encode("idna").decode()
        if parts.scheme not in _DEFAULT_PORTS or not _HOST.match(host):
            raise ValueError(f"no http or https origin: {url[:80]!r}")
        port = parts.port
        return cls(parts.scheme, host, _DEFAULT_PORTS[parts.scheme] if port is None else port)

    @property
    def is_secure(self) -> bool:
        """True when the origin uses TLS."""
        return self.scheme == "https"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority.decode()}"

    @cached_property
    def authority(self) -> bytes:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}").encode()


@lru_cache(maxsize=8)
def base_path_of(url: str) -> str:
    """Returns the path of a URL, percent-encoded, without a trailing slash."""
    return quote(urlsplit(url).path, safe="/%:@!$&'()*+,;=~").rstrip("/")


def checked_target(target: bytes) -> bytes:
    """Returns the request target when it is safe in a request line.

    Raises:
        ValueError: it is not an absolute path, or has characters that could end the line.

    """
    if _TARGET.match(target) is None:
        raise ValueError(f"no request target: {target[:80]!r}")
    return target


def header_line(name: bytes, value: bytes) -> bytes:
    """Returns one header line.

    Raises:
        ValueError: the name or value has characters that could begin another line.

    """
    if _NAME.match(name) is None or _VALUE.match(value) is None:
        raise ValueError(f"no header can carry what was given for {name[:40]!r}")  # never the value: S7
    return name + b": " + value + b"\r\n"
