"""Binds the admin sockets before anything is forked, so that the keeper inherits them."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import structlog

from flowherd.errors import ConfigurationError
from flowherd.settings.parsing import DEFAULT_ADDRESS, Tcp, parse_address

_ROOT = 0
_BINDS_WITHIN_S = 60.0  # until then a socket that refuses may be one whose supervisor is starting
_OTHER_FOLDER = "set XDG_RUNTIME_DIR to a folder of yours"
SERVICES = Path("/run")  # where a unit's RuntimeDirectory lies: a service has no XDG_RUNTIME_DIR but that

log = structlog.stdlib.get_logger("flowherd")


def admin_folder() -> Path:
    """Returns `$XDG_RUNTIME_DIR/flowherd`, else the user's own folder in the temporary directory."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "flowherd"
    return Path(tempfile.gettempdir()) / f"flowherd-{os.getuid()}"


def _private_folder() -> Path:
    folder = admin_folder()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{folder}: {error.strerror}; {_OTHER_FOLDER}") from None
    _check_private(folder)
    return folder


def _check_private(folder: Path) -> None:
    """Refuses a folder in which another user could replace our socket (faults.md N16)."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigurationError(
            f"{folder} is not a private folder of yours: remove it, or set XDG_RUNTIME_DIR"
        )


def check_own(path: Path) -> None:
    """Refuses a socket that another user has bound, or whose folder another user can write to.

    Raises:
        ConfigurationError: the message names the owner or the remedy.

    """
    try:
        folder, own = path.parent.stat(), path.lstat()
    except OSError:
        return  # nothing there: connecting reports the error
    if folder.st_uid not in {os.getuid(), _ROOT} or own.st_uid != os.getuid():
        owner = own.st_uid if own.st_uid != os.getuid() else folder.st_uid
        raise ConfigurationError(f"{path} belongs to user {owner}: only the user who runs a host controls it")
    if folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX:
        raise ConfigurationError(f"{path.parent} can be written to by others: chmod go-w {path.parent}")


class AdminSocket:
    """The unix socket `<pid>.sock` of this supervisor, mode 0600, and the address that was asked for.

    Args:
        address: `HOST:PORT`, `unix:PATH` or `off`, as `--admin` takes it.

    Raises:
        ConfigurationError: an address cannot be bound; only a default port in use is skipped with a warning.

    """

    def __init__(self, address: str) -> None:
        folder = _private_folder()
        _remove_left_behind(folder)
        self.path = folder / f"{os.getpid()}.sock"
        self.sockets = [_bind_unix(self.path, _OTHER_FOLDER)]
        self._paths = [self.path]
        self._shown = ""
        try:
            self._bind(address)
        except BaseException:
            self.close()
            raise

    def _bind(self, address: str) -> None:
        match parse_address(address):
            case Tcp() as tcp:
                self._bind_tcp(tcp, address)
            case Path() as path:
                self.sockets.append(_bind_unix(path, "choose another --admin, or off"))
                self._paths.append(path)
                self._shown = address
            case None:
                return

    def _bind_tcp(self, tcp: Tcp, address: str) -> None:
        try:
            sock = _bind_tcp(tcp)
        except OSError as error:
            if address != DEFAULT_ADDRESS:
                raise ConfigurationError(
                    f"--admin {address}: {error.strerror}; choose another, or off"
                ) from None
            log.warning("admin_port_taken", address=address, note="status is served on the unix socket alone")
            return
        self.sockets.append(sock)
        self._shown = f"{address.rpartition(':')[0]}:{sock.getsockname()[1]}"

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors that the keeper keeps open."""
        return tuple(sock.fileno() for sock in self.sockets)

    @property
    def description(self) -> str:
        """The addresses, for the banner."""
        return f"{self._shown} and {self.path}" if self._shown else str(self.path)

    def close(self) -> None:
        """Closes the sockets and removes their files."""
        for sock in self.sockets:
            sock.close()
        for path in self._paths:
            path.unlink(missing_ok=True)


def _remove_left_behind(folder: Path) -> None:
    """Removes the sockets of supervisors that were killed (faults.md P21)."""
    for path in _sockets_in(folder):
        with suppress(FileNotFoundError):  # its host has just ended
            is_old = time.time() - path.stat().st_mtime > _BINDS_WITHIN_S
            if is_old and isinstance(_error_at(path), ConnectionRefusedError):
                path.unlink()


def _bind_unix(path: Path, remedy: str) -> socket.socket:
    """Binds a private socket."""
    _clear(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        sock.bind(str(path))
    except OSError as error:
        sock.close()
        raise ConfigurationError(f"cannot bind {path}: {error.strerror or error}; {remedy}") from None
    finally:
        os.umask(before)
    return _listen(sock)


def _clear(path: Path) -> None:
    """Removes a stale socket; refuses one that answers and anything that is not a socket."""
    try:
        found = path.lstat()
    except OSError:
        return  # nothing there, or binding reports what is wrong with the folder
    if not stat.S_ISSOCK(found.st_mode):
        raise ConfigurationError(f"cannot bind {path}: there is something else than a socket")
    if _answers(path):
        raise ConfigurationError(f"cannot bind {path}: another program serves there")
    path.unlink(missing_ok=True)


def _bind_tcp(tcp: Tcp) -> socket.socket:
    family = socket.AF_INET6 if ":" in tcp.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((tcp.host, tcp.port))
    except BaseException:
        sock.close()
        raise
    return _listen(sock)


def _listen(sock: socket.socket) -> socket.socket:
    sock.listen(64)
    sock.settimeout(0)
    return sock


def find_sockets() -> dict[int, Path]:
    """Returns the sockets of this user's running supervisors by pid; sockets that do not answer are skipped.

    Those of this user's services are found too, wherever the unit has a RuntimeDirectory.

    Raises:
        ConfigurationError: the folder is not private to this user.

    """
    folder, folders = admin_folder(), _folders_of_services()
    if folder.is_symlink() or folder.exists():
        _check_private(folder)
        folders.append(folder)
    return {
        int(path.stem): path
        for place in folders
        for path in _sockets_in(place)
        if _is_own(path) and _answers(path)
    }


def _sockets_in(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.sock") if path.stem.isdigit()]


def _is_own(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.getuid()
    except FileNotFoundError:  # its host has just ended
        return False


def _folders_of_services() -> list[Path]:
    """Returns the private folders of this user below the runtime directories of services."""
    found = []
    for folder in SERVICES.glob("*/flowherd"):
        with suppress(OSError, ConfigurationError):
            _check_private(folder)
            found.append(folder)
    return found


def _answers(path: Path) -> bool:
    return _error_at(path) is None


def _error_at(path: Path) -> OSError | None:
    """Connects; a socket without a listener refuses, one whose host is frozen is only late."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError as error:
            return error
    return None
