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
        """Downloads a file of any activity into this attempt's private folder, which is deleted when the attempt ends.

        Args:
            reference: `postgres://workflow/key/name`, with or without the scheme (protocol.md §9.4).

        Raises:
            FileError: its class gives the code and whether to retry; an incomplete file is never returned.

        """
        return await asyncio.wrap_future(files_of(self._state).download(reference))

    async def upload_file(
        self,
        path: str | os.PathLike[str],
        filename: str | None = None,
        content_type: str | None = None,
    ) -> str:
        """Uploads a regular file to the engine and returns its reference, for an output or a later activity.

        Args:
            path: the local file; it must not change during the upload.
            filename: its name in the engine, used unchanged. The same name under the same activity key is overwritten,
                also by the next iteration of a loop. The default is the file's own name with a digest of the activity's
                id, which differs between iterations and is the same for all attempts (faults.md F9).
            content_type: the media type; guessed from the name by default.

        Raises:
            FileError: its class gives the code and whether to retry.

        """
        files = files_of(self._state)
        return await asyncio.wrap_future(files.upload(local_path(path), filename, content_type))


class SyncFileContext:
    """The same methods for a plain `def` handler; they block its thread only."""

    __slots__ = ()

    _state: RunState

    def download_file(self, reference: str) -> Path:
        """See `ActivityContext.download_file`; raises like `raise_if_cancelled` when the attempt is cancelled."""
        return result_of(files_of(self._state).download(reference), self._state)

    def upload_file(
        self,
        path: str | os.PathLike[str],
        filename: str | None = None,
        content_type: str | None = None,
    ) -> str:
        """See `ActivityContext.upload_file`; raises like `raise_if_cancelled` when the attempt is cancelled."""
        files = files_of(self._state)
        return result_of(files.upload(local_path(path), filename, content_type), self._state)


def files_of(state: RunState) -> Transfers:
    """Returns the attempt's transfers; LeaseLost when its lease is lost, FileError without an engine."""
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
