"""Asks a running supervisor for one of its documents; it shows nothing but what went wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from flowherd.errors import ConfigurationError
from flowherd_supervisor.shell.admin_socket import admin_folder, check_own, find_sockets

if TYPE_CHECKING:
    from collections.abc import Mapping

WIDTH_OF_A_PIPE = 200  # nothing is cut for grep
_TIMEOUT_S = 5.0


def ask(page: str, key: str, *, admin: str | None, pid: int | None) -> tuple[str, dict[str, Any]] | None:
    """The document at `page` as text and as an object; None, after a line on stderr, when there is no answer.

    Args:
        page: such as `/api/status`.
        key: what the document holds, if a supervisor of this kind has written it.
        admin: where the supervisor listens; without it, and without `pid`, the only one found is asked.
        pid: the supervisor's.

    Raises:
        ConfigurationError: there is none, several and none chosen, or `admin` is no address.

    """
    where = (
        f"--admin {admin}" if admin is not None else f"--pid {pid}" if pid is not None else "the supervisor"
    )
    with open_admin(admin, pid) as client:
        try:
            reply = client.get(page)
            document = reply.json() if reply.is_success else {}
        except httpx.HTTPError as error:
            sys.stderr.write(f"flowherd: {where}: no answer: {error or type(error).__name__}\n")
            return None
        except ValueError:
            document = {}
    if not isinstance(document, dict) or key not in document:
        sys.stderr.write(
            f"flowherd: {where}: what answers there ({reply.status_code}) is no flowherd supervisor\n"
        )
        return None
    return reply.text, document


def open_admin(admin: str | None, pid: int | None) -> httpx.Client:
    """A client for a supervisor's admin pages.

    Raises:
        ConfigurationError: as `ask`.

    """
    base_url, path = endpoint(admin, pid)
    transport = httpx.HTTPTransport(uds=path)
    return httpx.Client(transport=transport, base_url=base_url, timeout=_TIMEOUT_S, trust_env=False)


def endpoint(admin: str | None, pid: int | None) -> tuple[str, str | None]:
    """The base URL of a supervisor's admin pages, and the unix socket that leads there, None over TCP.

    Raises:
        ConfigurationError: as `ask`.

    """
    if admin is None:
        return "http://flowherd", str(_choose(pid))
    if admin.startswith("unix:"):
        path = Path(admin.removeprefix("unix:"))
        check_own(path)
        return "http://flowherd", str(path)
    host, _, port = admin.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigurationError(f"--admin {admin}: should be HOST:PORT or unix:PATH")
    return f"http://{admin}", None


def _choose(pid: int | None) -> Path:
    found = find_sockets()
    if pid is not None:
        if pid not in found:
            listed = _listed(found)
            raise ConfigurationError(f"--pid {pid}: no supervisor of yours answers there; running: {listed}")
        return found[pid]
    if not found:
        raise ConfigurationError(
            f"no running supervisor found in {admin_folder()}; start one: flowherd run APP"
        )
    if len(found) > 1:
        raise ConfigurationError(f"several supervisors are running: choose one with --pid: {_listed(found)}")
    return next(iter(found.values()))


def _listed(found: Mapping[int, Path]) -> str:
    return ", ".join(map(str, sorted(found))) or "none"
