"""Fetches a document from a running supervisor; errors go to stderr."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from flowherd.errors import ConfigurationError
from flowherd.settings.parsing import Tcp, parse_address
from flowherd_supervisor.shell.admin_socket import admin_folder, check_own, find_sockets

_TIMEOUT_S = 5.0
_GLANCE_S = 1.0  # for each of several hosts


@dataclass(frozen=True, slots=True)
class Found:
    """A running supervisor of this user on this machine; `app` and `folder` are "" if it did not report them."""

    pid: int
    socket: Path
    app: str = ""
    folder: str = ""

    def __str__(self) -> str:
        place = f" {self.app} in {self.folder}" if self.app else ""
        return f"{self.pid}{place}"

    def is_at(self, folder: Path) -> bool:
        """True if its app or its working directory is this folder, or if it reported no folder."""
        try:
            own = Path(f"/proc/{self.pid}/cwd").readlink()
        except OSError:  # it is in another PID namespace, or has just ended
            own = folder
        return str(folder) in {self.folder, str(own)} or not self.folder


def ask(page: str, key: str, *, admin: str | None, pid: int | None) -> tuple[str, dict[str, Any]] | None:
    """Returns the document at `page` as text and as an object; None, after a line on stderr, if there is no answer.

    Args:
        page: such as `/api/status`.
        key: a key that the document must have to be one of a flowherd supervisor.
        admin: the supervisor's address; without it and without `pid`, the only supervisor found is used.
        pid: the supervisor's pid.

    Raises:
        ConfigurationError: no supervisor runs, several run and none is chosen, or `admin` is not an address.

    """
    where = (
        f"--admin {admin}" if admin is not None else f"--pid {pid}" if pid is not None else "the supervisor"
    )
    with open_admin(admin, pid) as client:
        try:
            reply = client.get(page)
        except (httpx.HTTPError, ValueError) as error:  # ValueError: a name that no host can have
            sys.stderr.write(f"flowherd: {where}: no answer: {error or type(error).__name__}\n")
            return None
        try:
            document = reply.json() if reply.is_success else {}
        except ValueError:
            document = {}
    if not isinstance(document, dict) or key not in document:
        sys.stderr.write(
            f"flowherd: {where}: a program that is no flowherd host answers there ({reply.status_code})\n"
        )
        return None
    return reply.text, document


def open_admin(admin: str | None, pid: int | None, *, to_steer: bool = False) -> httpx.Client:
    """Opens a client for a supervisor's admin API.

    Args:
        admin: as for `ask`.
        pid: as for `ask`.
        to_steer: the client will send orders, so without `admin` and `pid` the supervisor must belong to this folder.

    Raises:
        ConfigurationError: as `ask`.

    """
    if to_steer and admin is None and pid is None:
        pid = _here().pid
    base_url, path = endpoint(admin, pid)
    transport = httpx.HTTPTransport(uds=path)
    return httpx.Client(transport=transport, base_url=base_url, timeout=_TIMEOUT_S, trust_env=False)


def endpoint(admin: str | None, pid: int | None) -> tuple[str, str | None]:
    """Returns the base URL of a supervisor's admin API and the path of its unix socket, None over TCP.

    Raises:
        ConfigurationError: as `ask`.

    """
    if admin is None:
        return "http://flowherd", str(_choose(pid))
    try:
        address = parse_address(admin)
    except ValueError:
        address = None
    match address:
        case Path() as path:
            check_own(path)
            return "http://flowherd", str(path)
        case Tcp(host, port) if _is_url(
            url := f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        ):
            return url, None
        case _:
            raise ConfigurationError(f"--admin {admin}: should be HOST:PORT or unix:PATH")


def _is_url(text: str) -> bool:
    try:
        httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError):
        return False
    return True


def find_hosts() -> list[Found]:
    """Returns this user's running supervisors, each with its app and folder."""
    return [_glance(pid, path) for pid, path in sorted(find_sockets().items())]


def _glance(pid: int, path: Path) -> Found:
    transport = httpx.HTTPTransport(uds=str(path))
    try:
        with httpx.Client(transport=transport, timeout=_GLANCE_S, trust_env=False) as client:
            status = client.get("http://flowherd/api/status").json()
            return Found(pid, path, str(status.get("app", "")), str(status.get("folder", "")))
    except (httpx.HTTPError, ValueError, AttributeError):
        return Found(pid, path)


def _here() -> Found:
    """Returns the only running supervisor, provided that it belongs to the working directory."""
    only = _only(find_hosts())
    if not only.is_at(Path.cwd()):
        raise ConfigurationError(
            f"the only host found is {only}, which is not this folder: if it is meant, say --pid {only.pid}"
        )
    return only


def _choose(pid: int | None) -> Path:
    if pid is None:
        found = find_sockets()
        return next(iter(found.values())) if len(found) == 1 else _only(find_hosts()).socket
    found = find_sockets()
    if pid not in found:
        listed = ", ".join(map(str, find_hosts())) or "none"
        raise ConfigurationError(f"--pid {pid}: no host of yours answers there; running: {listed}")
    return found[pid]


def _only(found: list[Found]) -> Found:
    if not found:
        raise ConfigurationError(f"no running host found in {admin_folder()}; start one: flowherd run APP")
    if len(found) > 1:
        listed = "".join(f"\n  --pid {host}" for host in found)
        raise ConfigurationError(f"several hosts are running, choose one:{listed}")
    return found[0]
