"""The file methods of contexts, for handlers that await and for those that block; it must not transfer anything."""

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
    """Files for an `async def` handler, on whatever loop it runs."""

    __slots__ = ()

    _state: RunState

    async def download_file(self, reference: str) -> Path:
        """Fetches a file of any activity into this attempt's private folder, which is removed when it ends.

        Args:
            reference: `postgres://workflow/key/name`, with or without the scheme (protocol.md §9.4).

        Raises:
            FileError: with a code and whether to retry; the path of a file that is not whole is never returned.

        """
        return await asyncio.wrap_future(files_of(self._state).download(reference))

    async def upload_file(
        self,
        path: str | os.PathLike[str],
        filename: str | None = None,
        content_type: str | None = None,
    ) -> str:
        """Sends a regular file to the engine and returns its reference, for an output or a later activity.

        Args:
            path: of the file; it must not change meanwhile.
            filename: kept as it is; the same name in the same activity key is overwritten, also by the next
                iteration of a loop. By default the file's own name with a digest of the activity's id, which is
                another one in each iteration and the same in each attempt (faults.md F9).
            content_type: guessed from the name by default.

        Raises:
            FileError: with a code and whether to retry.

        """
        files = files_of(self._state)
        return await asyncio.wrap_future(files.upload(local_path(path), filename, content_type))


class SyncFileContext:
    """The same names for a plain `def` handler: they block its thread, and nothing else."""

    __slots__ = ()

    _state: RunState

    def download_file(self, reference: str) -> Path:
        """See `ActivityContext.download_file`; ends with the attempt, as by `raise_if_cancelled`."""
        return result_of(files_of(self._state).download(reference), self._state)

    def upload_file(
        self,
        path: str | os.PathLike[str],
        filename: str | None = None,
        content_type: str | None = None,
    ) -> str:
        """See `ActivityContext.upload_file`; ends with the attempt, as by `raise_if_cancelled`."""
        files = files_of(self._state)
        return result_of(files.upload(local_path(path), filename, content_type), self._state)


def files_of(state: RunState) -> Transfers:
    """The attempt's files; LeaseLost once the activity is somebody else's, FileError without an engine."""
    if state.cancel_reason is CancelReason.LEASE_LOST:
        raise LeaseLost(f"activity {state.activity.activity_id} is somebody else's now")
    access = state.environment.files
    if access is None:
        raise FileError("there are no files here: in a test, give run_activity files={}")
    return access.of(state)


def result_of(future: Future[T], state: RunState) -> T:
    """Blocks until there is one; ends with the attempt, as by `raise_if_cancelled`."""
    try:
        return future.result()
    except CancelledError:
        reason = state.cancel_reason
        if reason is CancelReason.LEASE_LOST:
            raise LeaseLost(f"activity {state.activity.activity_id} is somebody else's now") from None
        if reason is not None:
            raise asyncio.CancelledError(reason.value) from None
        raise FileTransferFailed("the transfer was ended") from None
