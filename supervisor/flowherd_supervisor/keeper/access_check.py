"""Access checks: the peer of a unix socket by its user, requests over TCP by Host and Origin."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_CREDENTIALS = struct.Struct("3i")  # unix(7), SO_PEERCRED
_ROOT = 0
# Names that cannot be registered publicly: service names of compose and Kubernetes, and local ones.
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".svc", ".cluster.local")


class Peer(NamedTuple):
    """The process at the other end of a unix socket; `pid` is 0 if it is in a PID namespace that ours does not see."""

    pid: int
    uid: int
    gid: int


def peer_of(sock: socket.socket) -> Peer:
    """Returns the process that connected, or for a client the one that listens, as the kernel noted it then."""
    return Peer(
        *_CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    )


def is_own_user(sock: socket.socket) -> bool:
    """True if the peer of a unix socket is this user or root."""
    return peer_of(sock).uid in {os.geteuid(), _ROOT}


def refusal(
    headers: Mapping[bytes, bytes], own_names: Iterable[str] = (), *, may_be_linked: bool = False
) -> str | None:
    """Returns the reason for refusing a request over TCP, None if it is allowed (faults.md S4).

    A foreign page can make a browser call a loopback address under a foreign name that resolves to it (rebinding), or
    across origins. So Host must be an address or a name that is certainly local, and an Origin must match it. A
    resource with `may_be_linked` contains no data, so other sites may link to it.
    """
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if not _is_ours(_name_in(host), {name.lower() for name in own_names}):
        return "this name is not ours: ask by address, by localhost, or by this host's name"
    if (origin := headers.get(b"origin")) is not None and origin.decode(
        "latin-1"
    ).lower() != f"http://{host}":
        return "requests from pages of another origin are refused"
    if not may_be_linked and headers.get(b"sec-fetch-site", b"none") in {b"cross-site", b"same-site"}:
        return "requests from pages of another site are refused"
    return None


def _name_in(host: str) -> str:
    """Returns the host without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_ours(name: str, own_names: set[str]) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(name) and ("." not in name or name in own_names or name.endswith(_LOCAL_SUFFIXES))
    return True
