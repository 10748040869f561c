"""`flowherd ctl`: gives a running supervisor one order over its unix socket, and waits where asked to; no more."""

from __future__ import annotations

import os
import select
import sys
import time
from dataclasses import dataclass
from typing import Any

import httpx

from flowherd.errors import ConfigurationError
from flowherd.exits import Exit
from flowherd_supervisor.views.ask import open_admin

_LOOK_EVERY_S = 0.2
_REFUSED = frozenset({409, 422})  # what the supervisor will not do, as against what cannot be asked


@dataclass(frozen=True, slots=True)
class Where:
    """Which supervisor: its address, its pid, or the only one that is found."""

    admin: str | None = None
    pid: int | None = None

    def __str__(self) -> str:
        if self.admin is not None:
            return f"--admin {self.admin}"
        return f"--pid {self.pid}" if self.pid is not None else "the supervisor"


def order(where: Where, name: str, processes: int | None = None) -> int:
    """Gives one order, prints what is said to it, and returns the exit code.

    Args:
        where: which supervisor.
        name: `scale`, `restart`, `quiet`, `resume`, `drain` or `stacks`.
        processes: for `scale`.

    Raises:
        ConfigurationError: there is no such supervisor, or it is asked over TCP, where nobody steers.

    """
    with open_admin(where.admin, where.pid) as client:
        return _give(client, where, name, processes)


def drain(where: Where, *, wait: bool, timeout_s: float | None) -> int:
    """Lets the supervisor drain; with `wait` returns when it has ended, or 1 after `timeout_s` seconds."""
    with open_admin(where.admin, where.pid) as client:
        pidfd = _pidfd_of(client) if wait else None
        code = _give(client, where, "drain", None)
        if not wait or code != Exit.CLEAN:
            return code
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        if _ended(client, pidfd, give_up_at):
            sys.stdout.write("it has ended\n")
            return Exit.CLEAN
    sys.stderr.write(f"flowherd: {where}: still draining after {timeout_s:g} s\n")
    return Exit.INTERNAL


def _give(client: httpx.Client, where: Where, name: str, processes: int | None) -> int:
    body = {} if processes is None else {"processes": processes}
    try:
        reply = client.post(f"/api/{name}", json=body)
        said: Any = reply.json()
    except httpx.HTTPError as error:
        sys.stderr.write(f"flowherd: {where}: no answer: {error or type(error).__name__}\n")
        return Exit.INTERNAL
    except ValueError:
        said = None
    if not isinstance(said, dict) or not {"note", "error"} & said.keys():
        sys.stderr.write(
            f"flowherd: {where}: what answers there ({reply.status_code}) is no flowherd supervisor\n"
        )
        return Exit.INTERNAL
    if reply.is_success:
        sys.stdout.write(f"{said['note']}\n")
        return Exit.CLEAN
    if reply.status_code == httpx.codes.METHOD_NOT_ALLOWED:
        raise ConfigurationError(
            f"{where}: orders are taken on the unix socket alone: use --pid, on its host"
        )
    sys.stderr.write(f"flowherd: {where}: {said['error']}\n")
    return Exit.USAGE if reply.status_code in _REFUSED else Exit.INTERNAL


def _pidfd_of(client: httpx.Client) -> int | None:
    """Something that becomes readable when the supervisor ends; None across PID namespaces."""
    try:
        return os.pidfd_open(int(client.get("/api/status").json()["pid"]))
    except (httpx.HTTPError, OSError, ValueError, KeyError, TypeError):
        return None


def _ended(client: httpx.Client, pidfd: int | None, give_up_at: float | None) -> bool:
    """Waits for the end: by the process itself, or until nobody answers on the socket any more."""
    if pidfd is not None:
        try:
            left_s = None if give_up_at is None else max(give_up_at - time.monotonic(), 0.0)
            return bool(select.select([pidfd], [], [], left_s)[0])
        finally:
            os.close(pidfd)
    while give_up_at is None or time.monotonic() < give_up_at:
        try:
            client.get("/livez")
        except httpx.TransportError:
            return True
        select.select([], [], [], _LOOK_EVERY_S)
    return False
