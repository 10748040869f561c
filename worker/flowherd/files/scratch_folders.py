"""Private folders for downloaded files: made when needed, removed, swept after a crash; it knows no network.

    <temp dir>/flowherd-files-<uid>/    mode 0700; its flock is held while folders in it come and go
    └── <pid>-<random>/                 one a process, which holds a flock on it for as long as it lives
        └── <random>/                   one an attempt

The kernel drops the lock of a process that was killed, so a folder whose lock is free has no owner (faults.md F8).
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
    """The user's folder in the temp dir (`TMPDIR`)."""
    return Path(_default_path())


def _default_path() -> str:
    return f"{tempfile.gettempdir()}/flowherd-files-{os.getuid()}"


class Scratch:
    """The folder of one process; nothing exists before it is asked for. Its methods may be called from any thread.

    Args:
        base: what all processes of this user share.

    """

    def __init__(self, base: Path | None = None) -> None:
        self._base = base
        self._own: Path | None = None
        self._lock_held = -1
        self._making = threading.Lock()
        self._reserved = itertools.count(1)

    @property
    def is_used(self) -> bool:
        """There is a folder of this process."""
        return self._own is not None

    def folder(self) -> Path:
        """Makes a fresh private folder; StorageFailed when there is no room for it."""
        with storage_errors("making a temporary folder"):
            return Path(tempfile.mkdtemp(dir=self._folder_of_process()))

    def reserve(self) -> Path:
        """The path of a private folder that does not exist yet, for another process to make; StorageFailed as above."""
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
        """Removes everything of this process."""
        if self._own is None or self._base is None:
            return
        remove(self._own)
        self._own = None
        os.close(self._lock_held)
        # It is not empty while others use it, and if it cannot be locked, then an empty folder is left.
        with contextlib.suppress(OSError), _locked(self._base):
            self._base.rmdir()


class GivenFolder:
    """In an isolate: the folder of its present attempt, which the worker has reserved and removes."""

    def __init__(self) -> None:
        self.path: Path | None = None

    def folder(self) -> Path:
        """Makes the folder; StorageFailed when that is not possible."""
        if self.path is None:
            raise StorageFailed("making a temporary folder: the worker has none")
        with storage_errors("making a temporary folder"):
            self.path.mkdir(mode=0o700)
        return self.path

    def remove(self, folder: Path) -> None:
        """The worker does."""

    def close(self) -> None:
        """As above."""


def remove(folder: Path) -> None:
    """Removes a folder with all that a handler put into it, as far as it lets itself be removed."""
    shutil.rmtree(folder, ignore_errors=True)


def begin_sweep(base: Path | None = None) -> threading.Thread | None:
    """Sweeps in a thread, so that a worker's first poll does not wait; None where there is nothing to sweep."""
    path = base or _default_path()
    if not os.path.isdir(path):  # noqa: PTH112 - each process asks once: a Path costs it more memory than the answer
        return None
    return start_thread("sweep", partial(sweep, Path(path)))


def sweep(base: Path) -> None:
    """Removes the folders of processes that have ended without doing so."""
    with contextlib.suppress(OSError):  # not ours, or gone meanwhile: nothing can be left of us
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
    """Makes `base` if need be and holds its lock; OSError if another user could write into it."""
    while True:  # until it is not removed by its last user between two steps
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
