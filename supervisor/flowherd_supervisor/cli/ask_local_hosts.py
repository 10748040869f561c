"""Asks the hosts of this machine for the parameters of their activities, and when they polled."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, TypeVar

import httpx
import msgspec

from flowherd.errors import ConfigurationError
from flowherd.sdk.parameter_binding import INJECTED
from flowherd_supervisor.shell.admin_socket import find_sockets

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_GLANCE_S = 1.0
_Document = TypeVar("_Document")


class Served(msgspec.Struct, frozen=True):
    """The `/api/activities` of a host; `activities` has the parameters of each, None for any."""

    pid: int
    app: str
    engine: str
    worker: str | None
    polled_s_ago: float | None
    free_slots: int
    activities: dict[str, list[str] | None]

    def __str__(self) -> str:
        return f"{self.app}, pid {self.pid}"

    def serves(self, engine: str, worker: str) -> bool:
        """True if it works for this engine and type; an address of this machine has several names."""
        return (origin(self.engine), self.worker) == (origin(engine), worker)


def served_here() -> list[Served]:
    """All hosts of this user that answer."""
    return asked_here("/api/activities", Served)


def asked_here(page: str, shape: type[_Document], within_s: float = _GLANCE_S) -> list[_Document]:
    """The answers to `page` of all hosts of this user; those that do not answer so, and in time, are left out."""
    try:
        sockets = find_sockets()
    except ConfigurationError:
        return []  # the folder is not ours: nobody in it is asked
    found = []
    for _, path in sorted(sockets.items()):
        transport = httpx.HTTPTransport(uds=str(path))
        try:
            with httpx.Client(transport=transport, timeout=within_s, trust_env=False) as client:
                reply = client.get(f"http://flowherd{page}")
                found.append(msgspec.json.decode(reply.content, type=shape))
        except (httpx.HTTPError, msgspec.DecodeError):
            continue
    return found


def not_taken(activity: str, given: Iterable[str], hosts: Sequence[Served]) -> str:
    """The complaint about a parameter that an activity does not take; "" if any host takes all or none knows it."""
    said = ""
    for host in hosts:
        if activity not in host.activities:
            continue
        taken = host.activities[activity]
        unknown = [] if taken is None else sorted(set(given) - set(taken))
        if not unknown:
            return ""
        known = [name for name in taken or () if name not in INJECTED]
        close = difflib.get_close_matches(unknown[0], known, 1)
        meant = f"did you mean {close[0]!r}? " if close else ""
        said = f"{activity} takes no parameter {unknown[0]!r}: {meant}it takes {', '.join(known) or 'none'} ({host})"
    return said


def origin(url: str) -> str:
    """A URL of an engine, the same for the names that this machine has for itself."""
    return url.replace("://localhost", "://127.0.0.1").rstrip("/")
