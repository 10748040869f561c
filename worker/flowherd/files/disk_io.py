"""Files on this host's disk that are uploaded or downloaded, in bounded chunks."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from flowherd.errors import EngineUnavailable, FileChanged, FileTooLarge, InvalidFile, StorageFailed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHUNK_BYTES = 64 * 1024  # the most that a transfer holds in memory (faults.md F6)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: opening a fifo would hang
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turns errors of a full, read-only or broken disk into a retryable `STORAGE` failure (faults.md F4)."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"{doing}: {error.strerror or type(error).__name__}") from error


class Outgoing:
    """A file to upload: regular, opened once, and unchanged from the first byte to the last (faults.md F3, F10).

    Attributes:
        size: its size in bytes when it was opened.

    """

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name
        self._version = self._look()
        self.size = self._version[0]

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path, limit_bytes: int) -> Iterator[Outgoing]:
        """Opens `path`.

        Raises:
            InvalidFile: it does not exist, or is not a regular file, such as a symlink.
            FileTooLarge: it has more than `limit_bytes`.

        """
        try:
            descriptor = os.open(path, _READ)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = getattr(error, "strerror", None) or "no path"
            raise InvalidFile(f"cannot upload {path.name[:255]!r}: {reason}") from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidFile(f"cannot upload {path.name!r}: only regular files can be uploaded")
            source = cls(descriptor, path.name)
            check_size(source.size, limit_bytes)
            yield source
        finally:
            os.close(descriptor)

    def chunks(self) -> Iterator[bytes]:
        """Yields all bytes from the start; checks that the file is unchanged before the last chunk.

        So a file that changes during the upload fails the transfer instead of being stored half old, half new.

        Raises:
            FileChanged: its size or its modification time has changed.
            StorageFailed: it cannot be read.

        """
        position = 0
        while position < self.size:
            with storage_errors(f"reading {self._name!r}"):
                chunk = os.pread(self._descriptor, min(CHUNK_BYTES, self.size - position), position)
            position += len(chunk)
            if not chunk or (position == self.size and self._look() != self._version):
                raise self._changed()
            yield chunk
        if self._look() != self._version:
            raise self._changed()

    def _look(self) -> tuple[int, int]:
        with storage_errors(f"reading {self._name!r}"):
            now = os.fstat(self._descriptor)
        return now.st_size, now.st_mtime_ns

    def _changed(self) -> FileChanged:
        return FileChanged(f"{self._name!r} changed while it was uploaded")


class Incoming:
    """A new file that a download fills; it is complete, or it does not exist (faults.md F2, F5)."""

    def __init__(self, descriptor: int, path: Path, limit_bytes: int) -> None:
        self._descriptor = descriptor
        self._limit_bytes = limit_bytes
        self._size = self._received = 0
        self.path = path

    @classmethod
    @contextlib.contextmanager
    def created(cls, path: Path, limit_bytes: int) -> Iterator[Incoming]:
        """Creates `path`, which must not exist, and removes it if the block raises."""
        doing = f"storing {path.name!r}"
        with storage_errors(doing):
            descriptor = os.open(path, _CREATE, 0o600)
        try:
            yield cls(descriptor, path, limit_bytes)
            with storage_errors(doing):
                os.close(descriptor)  # some file systems report a full disk only here
        except BaseException:
            with contextlib.suppress(OSError):  # already closed
                os.close(descriptor)
            path.unlink(missing_ok=True)
            raise

    def begin(self, size: int) -> None:
        """Begins a try: drops the bytes of the previous one; FileTooLarge before any byte is stored."""
        check_size(size, self._limit_bytes)
        self._size, self._received = size, 0
        with storage_errors(f"storing {self.path.name!r}"):
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)

    def write(self, chunk: bytes) -> None:
        """Appends a chunk; EngineUnavailable when there are more bytes than announced."""
        self._received += len(chunk)
        if self._received > self._size:
            raise EngineUnavailable(f"more than the {self._size} bytes that were announced")
        rest = memoryview(chunk)
        with storage_errors(f"storing {self.path.name!r}"):
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def finish(self) -> None:
        """Raises EngineUnavailable unless all announced bytes have arrived (protocol.md §9.2)."""
        if self._received != self._size:
            raise EngineUnavailable(f"the download ended after {self._received} of {self._size} bytes")


def check_size(size: int, limit_bytes: int) -> None:
    """Raises FileTooLarge above the limit (faults.md F6)."""
    if size > limit_bytes:
        raise FileTooLarge(f"{size} bytes are more than {limit_bytes >> 20} MB: see --max-file-mb")
