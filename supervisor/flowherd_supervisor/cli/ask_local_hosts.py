"""Queries the hosts on this machine for their activities, their parameters and the time of their last poll."""

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
_MOST_NAMES = 12  # in a warning
_Document = TypeVar("_Document")


class Served(msgspec.Struct, frozen=True):
    """The reply of a host's `/api/activities`; `activities` maps each name to its parameters, None if it takes any."""

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
        """True if the host serves this engine and worker type; `localhost` equals `127.0.0.1`."""
        return (origin(self.engine), self.worker) == (origin(engine), worker)


def served_here() -> list[Served]:
    """Returns the activities of all hosts of this user that answer."""
    return asked_here("/api/activities", Served)


def asked_here(page: str, shape: type[_Document], within_s: float = _GLANCE_S) -> list[_Document]:
    """Returns the replies of all of this user's hosts to `page`, without those that are late or of another shape."""
    try:
        sockets = find_sockets()
    except ConfigurationError:
        return []  # the folder belongs to another user
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
    """Returns the message for an unknown parameter; "" if a host takes all of them or no host has the activity."""
    complaint = ""
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
        takes = f"it takes {', '.join(known) or 'none'}"
        complaint = f"{activity} takes no parameter {unknown[0]!r}: {meant}{takes} ({host})"
    return complaint


def unknown_name(activity: str, hosts: Sequence[Served]) -> str:
    """Returns the warning that none of these hosts has the activity, with the names that they have."""
    known = sorted({name for host in hosts for name in host.activities})
    close = difflib.get_close_matches(activity, known, 1)
    meant = f": did you mean {close[0]!r}?" if close else "."
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    return (
        f"no host on this machine has an activity {activity!r}{meant} Known: {', '.join(known[:_MOST_NAMES])}{more} "
        f"({'; '.join(map(str, hosts))}). Unless a host elsewhere takes it, its attempts fail as UNKNOWN_ACTIVITY"
    )


def origin(url: str) -> str:
    """Returns an engine's URL with `localhost` as `127.0.0.1` and no trailing slash, for comparison."""
    return url.replace("://localhost", "://127.0.0.1").rstrip("/")
