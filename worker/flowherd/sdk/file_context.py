"""The file methods of the context, for async and for sync handlers."""

from __future__ import annotations

import asyncio
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, TypeVar

from flowherd.errors import FileError, FileTransferFailed, LeaseLost
from flowherd.sdk.file_names import local_path
from flowherd.sdk.run_state import CancelReason

if TYPE_CHECKING:
    import os
    from concurrent.futures import Future
    from pathlib import Path

    from flowherd.execution.run_environment import Transfers
    from flowherd.sdk.run_state import RunState

T = TypeVar("T")


class AsyncFileContext:
    """File methods for an `async def` handler, on any event loop."""

    __slots__ = ()

    _state: RunState

    async def download_file(self, reference: str) -> Path:
        """Downloads a file into the attempt's private folder, which is removed when the attempt ends.

        Args:
            reference: `postgres://workflow/key/name`, with or without the scheme (protocol.md §9.4).

        Raises:
            FileError: the download failed; its code says why, and whether it is retried.

        """
        return await asyncio.wrap_future(files_of(self._state).download(reference))

    async def upload_file(
        self,
        path: str | os.PathLike[str],
        filename: str | None = None,
        content_type: str | None = None,
    ) -> str:
        """Uploads a regular file and returns its reference, to put into an output.

        Args:
            path: of the file; it must not change during the upload.
            filename: name to store; a second file of that name in the same step replaces the first, also in the next
                iteration of a loop. By default the file's own name with a digest of the activity's id, which
                differs in each iteration and stays the same in each attempt (faults.md F9).
            content_type: of the file; guessed from its name by default.

        Raises:
            FileError: the upload failed; its code says why, and whether it is retried.

        """
        files = files_of(self._state)
        return await asyncio.wrap_future(files.upload(local_path(path), filename, content_type))


class SyncFileContext:
    """The same methods for a plain `def` handler; they block its thread only."""

    __slots__ = ()

    _state: RunState

    def download_file(self, reference: str) -> Path:
        """Does what `ActivityContext.download_file` does, and blocks. When the attempt has to stop, it raises."""
        return result_of(files_of(self._state).download(reference), self._state)

    def upload_file(
        self,
        path: str | os.PathLike[str],
        filename: str | None = None,
        content_type: str | None = None,
    ) -> str:
        """Does what `ActivityContext.upload_file` does, and blocks. When the attempt has to stop, it raises."""
        files = files_of(self._state)
        return result_of(files.upload(local_path(path), filename, content_type), self._state)


def files_of(state: RunState) -> Transfers:
    """The attempt's files; LeaseLost after a lost lease, FileError without an engine."""
    if state.cancel_reason is CancelReason.LEASE_LOST:
        raise LeaseLost(f"activity {state.activity.activity_id} is somebody else's now")
    access = state.environment.files
    if access is None:
        raise FileError("there are no files here: in a test, give run_activity files={}")
    return access.of(state)


def result_of(future: Future[T], state: RunState) -> T:
    """Blocks until the future has a result; raises like `raise_if_cancelled` when the attempt is cancelled."""
    try:
        return future.result()
    except CancelledError:
        reason = state.cancel_reason
        if reason is CancelReason.LEASE_LOST:
            raise LeaseLost(f"activity {state.activity.activity_id} is somebody else's now") from None
        if reason is not None:
            raise asyncio.CancelledError(reason.value) from None
        raise FileTransferFailed("the transfer was ended") from None
