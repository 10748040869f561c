"""Private folders for downloaded files: created when needed, removed, and swept after a crash.

    <temp dir>/flowherd-files-<uid>/    mode 0700; its flock is held while folders in it are created or removed
    └── <pid>-<random>/                 one per process, which holds a flock on it for as long as it lives
        └── <random>/                   one per attempt

The kernel releases the lock of a killed process, so a folder whose lock is free has no owner (faults.md F8).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import shutil
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flowherd.background import start_thread
from flowherd.errors import StorageFailed
from flowherd.files.disk_io import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def default_base() -> Path:
    """Returns the user's folder in the temporary directory (`TMPDIR`)."""
    return Path(_default_path())


def _default_path() -> str:
    return f"{tempfile.gettempdir()}/flowherd-files-{os.getuid()}"


class Scratch:
    """The folder of one process, created at first use; callable from any thread.

    Args:
        base: the folder that all processes of this user share.

    """

    def __init__(self, base: Path | None = None) -> None:
        self._base = base
        self._own: Path | None = None
        self._lock_held = -1
        self._making = threading.Lock()
        self._reserved = itertools.count(1)

    @property
    def is_used(self) -> bool:
        """True when this process has a folder."""
        return self._own is not None

    def folder(self) -> Path:
        """Creates a private folder; StorageFailed when there is no room for it."""
        with storage_errors("making a temporary folder"):
            return Path(tempfile.mkdtemp(dir=self._folder_of_process()))

    def reserve(self) -> Path:
        """Returns the path of a private folder for another process to create; StorageFailed as for `folder`."""
        with storage_errors("making a temporary folder"):
            return self._folder_of_process() / f"isolate-{next(self._reserved)}"

    def remove(self, folder: Path) -> None:
        """Removes one of these folders."""
        remove(folder)

    def _folder_of_process(self) -> Path:
        with self._making:
            if self._own is None:
                self._base = self._base or default_base()
                with _locked(self._base):
                    own = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=self._base))
                    self._lock_held = os.open(own, _FOLDER)
                    fcntl.flock(self._lock_held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._own = own
            return self._own

    def close(self) -> None:
        """Removes all folders of this process."""
        if self._own is None or self._base is None:
            return
        remove(self._own)
        self._own = None
        os.close(self._lock_held)
        # The base is not empty while others use it; if it cannot be locked, an empty folder stays.
        with contextlib.suppress(OSError), _locked(self._base):
            self._base.rmdir()


class GivenFolder:
    """In an isolate: the folder of its current attempt, which the worker reserves and removes."""

    def __init__(self) -> None:
        self.path: Path | None = None

    def folder(self) -> Path:
        """Creates the folder; StorageFailed when that is not possible."""
        if self.path is None:
            raise StorageFailed("making a temporary folder: the worker has none")
        with storage_errors("making a temporary folder"):
            self.path.mkdir(mode=0o700)
        return self.path

    def remove(self, folder: Path) -> None:
        """Does nothing: the worker removes it."""

    def close(self) -> None:
        """Does nothing, like `remove`."""


def remove(folder: Path) -> None:
    """Removes a folder and its contents, ignoring errors."""
    shutil.rmtree(folder, ignore_errors=True)


def begin_sweep(base: Path | None = None) -> threading.Thread | None:
    """Sweeps in a thread, so that a worker's first poll does not wait; returns None when there is nothing to sweep."""
    path = base or _default_path()
    if not os.path.isdir(path):  # noqa: PTH112 - a Path would cost each process more memory
        return None
    return start_thread("sweep", partial(sweep, Path(path)))


def sweep(base: Path) -> None:
    """Removes the folders of processes that ended without removing theirs."""
    with contextlib.suppress(OSError):  # owned by another user, or removed meanwhile
        with _locked(base):
            ownerless = [Path(entry.path) for entry in os.scandir(base) if _is_ownerless(entry)]
        for folder in ownerless:
            remove(folder)
        with _locked(base):
            base.rmdir()


def _is_ownerless(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):  # BlockingIOError: its owner lives
        descriptor = os.open(entry.path, _FOLDER)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
        return True
    return False


@contextlib.contextmanager
def _locked(base: Path) -> Iterator[None]:
    """Creates `base` if necessary and holds its lock; OSError when other users could access it."""
    while True:  # its last user may remove it between two steps
        with contextlib.suppress(FileExistsError):
            base.mkdir(mode=0o700)
        try:
            descriptor = os.open(base, _FOLDER)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(base, descriptor):
                found = os.fstat(descriptor)
                if found.st_uid != os.getuid() or found.st_mode & 0o077:
                    raise PermissionError(errno.EPERM, f"{base} is not private to this user")
                yield
                return
        finally:
            os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
