"""Binds the sockets that `status` reads, before anything is forked, so that the keeper inherits them."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from pathlib import Path

import structlog

from flowherd.errors import ConfigurationError

DEFAULT_ADDRESS = "127.0.0.1:9464"

log = structlog.stdlib.get_logger("flowherd")


def admin_folder() -> Path:
    """`$XDG_RUNTIME_DIR/flowherd`, else a private folder of this user under the temp dir (interface.md, Admin)."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "flowherd"
    return Path(tempfile.gettempdir()) / f"flowherd-{os.getuid()}"


def _private_folder() -> Path:
    folder = admin_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigurationError(f"{folder} is not a private folder of yours: remove it, or set XDG_RUNTIME_DIR")
    return folder


class AdminSocket:
    """The unix socket `<pid>.sock` of this supervisor, mode 0600, and the TCP address that was asked for.

    Args:
        address: `HOST:PORT`, `unix:PATH` or `off`, as `--admin` takes it.
    """

    def __init__(self, address: str) -> None:
        self.path = _private_folder() / f"{os.getpid()}.sock"
        self.sockets = [_bind_unix(self.path)]
        self._paths = [self.path]
        self._address = address
        try:
            self._bind(address)
        except BaseException:
            self.close()
            raise

    def _bind(self, address: str) -> None:
        if address == "off":
            return
        if address.startswith("unix:"):
            path = Path(address.removeprefix("unix:"))
            self.sockets.append(_bind_unix(path))
            self._paths.append(path)
            return
        try:
            self.sockets.append(_bind_tcp(address))
        except OSError as error:
            if address != DEFAULT_ADDRESS:
                raise ConfigurationError(f"--admin {address}: {error.strerror}; choose another, or --admin off") from None
            log.warning("admin_port_taken", address=address, note="status is served on the unix socket alone")
            self._address = "off"

    @property
    def fds(self) -> tuple[int, ...]:
        """What the keeper must not close."""
        return tuple(sock.fileno() for sock in self.sockets)

    @property
    def description(self) -> str:
        """Where to look, for the banner."""
        return str(self.path) if self._address == "off" else f"{self._address} and {self.path}"

    def close(self) -> None:
        """Closes the sockets and removes their files."""
        for sock in self.sockets:
            sock.close()
        for path in self._paths:
            path.unlink(missing_ok=True)


def _bind_unix(path: Path) -> socket.socket:
    """Binds a private socket; the file may be left over from a killed supervisor whose pid we have now."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(str(path))
    except OSError as error:
        raise ConfigurationError(f"cannot bind {path}: {error.strerror or error}; set XDG_RUNTIME_DIR") from None
    finally:
        os.umask(before)
    return _listen(sock)


def _bind_tcp(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigurationError(f"--admin {address}: expected HOST:PORT, unix:PATH or off")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host.strip("[]"), int(port)))
    except BaseException:
        sock.close()
        raise
    return _listen(sock)


def _listen(sock: socket.socket) -> socket.socket:
    sock.listen(64)
    sock.setblocking(False)
    return sock


def find_sockets() -> dict[int, Path]:
    """The sockets of supervisors that are alive, by pid; those of dead ones are passed over."""
    found = {}
    for path in admin_folder().glob("*.sock"):
        if path.stem.isdigit() and _answers(path):
            found[int(path.stem)] = path
    return found


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
