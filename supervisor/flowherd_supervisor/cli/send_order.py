"""`flowherd ctl`: sends one order to a running supervisor over its unix socket and optionally waits for it."""

from __future__ import annotations

import math
import os
import select
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import msgspec

from flowherd.counted import counted
from flowherd.errors import ConfigurationError
from flowherd.exit_codes import Exit
from flowherd.leases.cancellation import ANSWERED_WITHIN_S
from flowherd.logs import visible
from flowherd_supervisor.cli.ask_supervisor import open_admin
from flowherd_supervisor.keeper.access_check import peer_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_WITHIN_S = {"cancel": ANSWERED_WITHIN_S + 3.0}  # the host asks the engine first
_LOOK_EVERY_S = 0.2
_A_YEAR_S = 365 * 86_400.0
_REFUSED = frozenset({409, 422})  # the supervisor refuses the order


@dataclass(frozen=True, slots=True)
class Where:
    """Selects a supervisor by address or pid; with neither, the only one found."""

    admin: str | None = None
    pid: int | None = None

    def __str__(self) -> str:
        if self.admin is not None:
            return f"--admin {self.admin}"
        return f"--pid {self.pid}" if self.pid is not None else "the host"


def order(where: Where, name: str, **body: Any) -> int:
    """Sends an order, prints the reply and returns the exit code.

    Args:
        where: the supervisor.
        name: `scale`, `reload`, `quiet`, `resume`, `drain`, `stacks`, `cancel` or `keep`.
        body: arguments of the order: `processes` for `scale`, `activity_id` and `requeue` for `cancel`, `activity`
            for `keep`.

    Raises:
        ConfigurationError: there is no such supervisor, or the address is TCP, which takes no orders.

    """
    with open_admin(where.admin, where.pid, to_steer=True) as client:
        return _give(client, where, name, body)


def reload(where: Where, *, wait: bool, timeout_s: float | None) -> int:
    """Orders the replacement of every process; with `wait` returns when it has succeeded or failed.

    The code is then 0, 2 for settings that cannot be applied, 3 for an app that does not boot, 1 after `timeout_s`.
    """
    with open_admin(where.admin, where.pid, to_steer=True) as client:
        give_up_at = _deadline(timeout_s)
        if not wait:
            return _give(client, where, "reload", {})
        wanted = _Reload(client, where, give_up_at)
        if (code := wanted.outcome()) == Exit.CLEAN:
            sys.stdout.write(f"{_replaced(client)}\n")
        return code


class _Reload:
    """A reload that is waited for; it follows the events, also past the end of the process that sends them.

    Args:
        client: for the host.
        where: the host, for messages.
        give_up_at: monotonic seconds, None for never.

    """

    def __init__(self, client: httpx.Client, where: Where, give_up_at: float | None) -> None:
        self._client = client
        self._where = where
        self._give_up_at = give_up_at
        self._ordered_at = time.time()
        self._seen = int(self._ordered_at * 1e6)  # events are numbered by their time
        self._is_ordered = self._has_begun = False

    def outcome(self) -> int:
        """Orders the reload and returns the exit code of its end."""
        while True:
            try:
                with self._client.stream(
                    "GET", "/api/events", headers={"last-event-id": str(self._seen)}
                ) as news:
                    if not news.is_success:
                        return self._fails("too many pages or other clients follow its events")
                    if not self._is_ordered and (code := _give(self._client, self._where, "reload", {})):
                        return code
                    self._is_ordered = True
                    if (found := self.read(news.iter_lines())) is not None:
                        return found
            except httpx.ConnectError:
                return self._fails("it has ended" if self._is_ordered else "nobody answers")
            except httpx.HTTPError as error:
                if not self._is_ordered:
                    return self._fails(f"no answer: {error or type(error).__name__}")
            if self._is_late:
                return self._fails("the processes are not all new yet")
            select.select([], [], [], _LOOK_EVERY_S)  # until another process serves the events

    def read(self, lines: Iterable[str]) -> int | None:
        """Reads events until the reload has ended; None at the end of the lines, and when time is up.

        An earlier reload may end after the order, but not after the `reloading` of this one.
        """
        for line in lines:
            event = msgspec.json.decode(line[6:]) if line.startswith("data: ") else {}
            self._seen = event.get("id", self._seen)
            is_later = event.get("at", 0.0) >= self._ordered_at
            match event.get("event"):
                case "reloading" if is_later:
                    self._has_begun = True
                case "reloaded" if self._has_begun:
                    return Exit.CLEAN
                case "reload_failed" if self._has_begun:
                    return self._fails(f"reload failed: {_reason(event)}", Exit.BOOT_FAILED)
                case "reload_refused" if is_later:
                    return self._fails(f"reload refused: {_reason(event)}", Exit.USAGE)
                case "draining" | "releasing" if is_later:
                    return self._fails("it is stopping, and reloads nothing any more")
            if self._is_late:
                return None
        return None

    @property
    def _is_late(self) -> bool:
        return self._give_up_at is not None and time.monotonic() >= self._give_up_at

    def _fails(self, reason: str, code: Exit = Exit.INTERNAL) -> Exit:
        sys.stderr.write(f"flowherd: {self._where}: {reason}\n")
        return code


def _reason(event: Mapping[str, Any]) -> str:
    return f"{event.get('reason') or event.get('note')}; the log says more"


def _replaced(client: httpx.Client) -> str:
    """Returns the result of a reload: old processes may still finish their activities."""
    try:
        children = client.get("/api/status").json()["children"]
    except httpx.HTTPError:  # the process that answers has just ended
        return "every new activity runs the new version"
    if held := sum(row["in_flight"] for row in children if row["phase"] == "finishing"):
        verb = "runs" if held == 1 else "run"
        return (
            f"every new activity runs the new version; {counted(held, 'activity')} still {verb} the old one"
        )
    return "every process is new"


def drain(where: Where, *, wait: bool, timeout_s: float | None) -> int:
    """Orders a drain; with `wait` returns 0 when the supervisor has ended, or 1 after `timeout_s` seconds."""
    with open_admin(where.admin, where.pid, to_steer=True) as client:
        give_up_at = _deadline(timeout_s)
        pidfd = _pidfd_of(client) if wait else None
        code = _give(client, where, "drain", {})
        if not wait or code != Exit.CLEAN:
            return code
        if _ended(client, pidfd, give_up_at):
            sys.stdout.write("exited; the last line of its log, ended, has the exit code\n")
            return Exit.CLEAN
    sys.stderr.write(f"flowherd: {where}: still draining after {timeout_s:g} s\n")
    return Exit.INTERNAL


def _deadline(timeout_s: float | None) -> float | None:
    """Returns the monotonic time after `timeout_s` seconds, None for never."""
    if timeout_s is None:
        return None
    if not 0.0 <= timeout_s < math.inf:
        raise ConfigurationError(f"--timeout {timeout_s:g}: should be seconds, 0 or more")
    return time.monotonic() + min(timeout_s, _A_YEAR_S)


def _give(client: httpx.Client, where: Where, name: str, body: dict[str, Any]) -> int:
    host = _name_of(client)
    try:
        reply = client.post(f"/api/{name}", json=body, timeout=_WITHIN_S.get(name, client.timeout))
    except httpx.HTTPError as error:
        sys.stderr.write(f"flowherd: {where}: no answer: {error or type(error).__name__}\n")
        return Exit.INTERNAL
    try:
        document: Any = reply.json()
    except ValueError:
        document = None
    if not isinstance(document, dict) or not {"note", "error"} & document.keys():
        sys.stderr.write(
            f"flowherd: {where}: a program that is no flowherd host answers there ({reply.status_code})\n"
        )
        return Exit.INTERNAL
    if reply.is_success:
        sys.stdout.write(f"{host}{document['note']}\n")
        return Exit.CLEAN
    if reply.status_code == httpx.codes.METHOD_NOT_ALLOWED:
        raise ConfigurationError(
            f"{where}: orders are accepted on the unix socket only: use --pid, on the same machine"
        )
    sys.stderr.write(f"flowherd: {host or f'{where}: '}{document['error']}\n")
    return Exit.USAGE if reply.status_code in _REFUSED else Exit.INTERNAL


def _name_of(client: httpx.Client) -> str:
    """Returns the supervisor's app and pid as a prefix; "" if they are unknown."""
    try:
        status = client.get("/api/status").json()
        return f"{visible(status['app'])}, pid {status['pid']}: "
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return ""


def _pidfd_of(client: httpx.Client) -> int | None:
    """Returns a pidfd of the supervisor; None across PID namespaces, where its own pid is another process's."""
    try:
        reply = client.get("/api/status")
        sock = reply.extensions["network_stream"].get_extra_info("socket")
        return os.pidfd_open(peer_of(sock).pid)  # who listens; 0 if it is not of this namespace
    except (httpx.HTTPError, OSError, KeyError):
        return None


def _ended(client: httpx.Client, pidfd: int | None, give_up_at: float | None) -> bool:
    """Waits for the supervisor to end: by its pidfd, or without one until its socket no longer answers."""
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
