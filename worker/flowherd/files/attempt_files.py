"""The files of an attempt: its transfers, and its private folder."""

from __future__ import annotations

import asyncio
import mimetypes
import re
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flowherd.errors import FileTransferFailed, InvalidFile
from flowherd.files.disk_io import Incoming, Outgoing, storage_errors
from flowherd.files.file_loop import FileLoop
from flowherd.files.scratch_folders import GivenFolder, Scratch, remove
from flowherd.sdk.file_names import default_upload_name, local_name, upload_name
from flowherd.sdk.file_reference import FileReference

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from concurrent.futures import Future

    from flowherd.activities_and_outcomes import Activity
    from flowherd.execution.run_environment import Transfers
    from flowherd.files.transfers import FileStore
    from flowherd.sdk.run_state import RunState

T = TypeVar("T")
CLOSE_S = 1.0  # for removing files at a worker's end; the rest is swept at the next start
_SENDABLE = re.compile(r"[!-~]([ -~]{0,198}[!-~])?")  # a content type that a header can carry
_UNKNOWN_TYPE = "application/octet-stream"


class FileAccess:
    """The file services that all attempts of one worker share.

    Args:
        open_store: opens the store; called on the file loop when a handler first uses a file.
        new_loop: creates the loop for transfers.
        max_file_mb: the largest file in MB, for uploads and downloads.
        scratch: creates the attempts' folders.

    """

    def __init__(
        self,
        open_store: Callable[[], FileStore],
        new_loop: Callable[[], asyncio.AbstractEventLoop],
        *,
        max_file_mb: int,
        scratch: Scratch | GivenFolder | None = None,
    ) -> None:
        self._open_store = open_store
        self._store: FileStore | None = None
        self.limit_bytes = max_file_mb << 20
        self.loop = FileLoop(new_loop)
        self.scratch = scratch or Scratch()
        self._lock = threading.Lock()

    def of(self, state: RunState) -> Transfers:
        """Returns the transfers of one attempt; FileTransferFailed once it has ended."""
        with self._lock:
            if state.has_ended:
                raise FileTransferFailed("no files any more: the attempt has ended")
            if state.files is None:
                state.files = AttemptFiles(state.activity, self)
            return state.files

    def folder_for(self, state: RunState) -> Path:
        """Returns the folder of an attempt whose files another process transfers; removed at the attempt's end.

        Raises:
            StorageFailed: there is no room for it.

        """
        assert isinstance(self.scratch, Scratch), self.scratch
        folder = self.scratch.reserve()
        state.files = AttemptFiles(state.activity, self, folder)
        return folder

    def store(self) -> FileStore:
        """Returns the store; for the file loop only."""
        if self._store is None:
            self._store = self._open_store()
        return self._store

    async def aclose(self) -> None:
        """Removes all folders and closes the store, within `CLOSE_S`."""
        if not self.loop.is_used and not (isinstance(self.scratch, Scratch) and self.scratch.is_used):
            return
        try:
            async with asyncio.timeout(CLOSE_S):
                await asyncio.wrap_future(self.loop.submit(self._end()))
        except TimeoutError:
            return
        finally:
            self.loop.close()

    async def _end(self) -> None:
        await _ended(asyncio.all_tasks() - {asyncio.current_task()})
        if self._store is not None:
            await self._store.aclose()
        self.scratch.close()


class AttemptFiles:
    """The transfers of one attempt; callable from any thread.

    Args:
        activity: the attempt's activity.
        access: the services that all attempts share.
        folder: the folder for files that another process transfers; None to create one when needed.

    """

    def __init__(self, activity: Activity, access: FileAccess, folder: Path | None = None) -> None:
        self._activity = activity
        self._access = access
        self._lock = threading.Lock()
        self._running: set[Future[Any]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._folder = folder
        self._closed = False
        self._cancels = 0

    def download(self, reference: str) -> Future[Path]:
        """Starts a download; the result is the path of the complete file."""
        return self._begin(lambda: self._download(reference))

    def upload(self, path: Path, filename: str | None, content_type: str | None) -> Future[str]:
        """Starts an upload; the result is the reference."""
        return self._begin(lambda: self._upload(path, filename, content_type))

    def save(self, content: bytes, filename: str, content_type: str) -> Future[str]:
        """Starts an upload of `content` under this exact name; the result is the reference."""
        return self._begin(lambda: self._save(content, filename, content_type))

    def cancel(self) -> None:
        """Cancels the transfers under way; their futures raise CancelledError. A signal handler may call this."""
        self._cancels += 1
        for future in list(self._running):
            future.cancel()

    def close(self) -> None:
        """Starts to cancel the transfers and remove the folder of an ended attempt, without waiting for it."""
        with self._lock:
            was_used = not self._closed and (self._access.loop.is_used or self._has_folder())
            self._closed = True
        if was_used:
            try:
                self._access.loop.submit(self._end())
            except RuntimeError:
                return  # the worker has already ended and removed everything

    def _has_folder(self) -> bool:
        return self._folder is not None and self._folder.exists()

    def _begin(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        with self._lock:
            if self._closed:
                raise FileTransferFailed("no files any more: the attempt has ended")
            cancels = self._cancels
            try:
                future = self._access.loop.submit(self._tracked(work))
            except RuntimeError as error:
                raise FileTransferFailed(f"no files any more: {error}") from None
            self._running.add(future)
        if self._cancels != cancels:  # `cancel` was called before the future was added
            future.cancel()
        future.add_done_callback(self._running.discard)
        return future

    async def _tracked(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await work()
        finally:
            self._tasks.discard(task)

    async def _end(self) -> None:
        """Cancels the transfers, then removes the folder they write to."""
        await _ended(self._tasks)
        if self._folder is not None:
            self._access.scratch.remove(self._folder)

    async def _download(self, text: str) -> Path:
        reference = FileReference.parse(text)
        with Incoming.created(self._fresh_path(reference.name), self._access.limit_bytes) as sink:
            await self._access.store().receive(reference, sink)
        return sink.path

    async def _save(self, content: bytes, filename: str, content_type: str) -> str:
        path = self._fresh_path(filename)
        try:
            with storage_errors("writing a file to upload"):
                path.write_bytes(content)
            return await self._upload(path, filename, content_type)
        finally:
            remove(path.parent)

    def _fresh_path(self, name: str) -> Path:
        """Returns a path in a new folder, so that files of one name do not collide."""
        if self._folder is None:
            self._folder = self._access.scratch.folder()
        with storage_errors("making a temporary folder"):
            return Path(tempfile.mkdtemp(dir=self._folder)) / local_name(name)

    async def _upload(self, path: Path, filename: str | None, content_type: str | None) -> str:
        activity = self._activity
        own = default_upload_name(path.name, activity.activity_id)
        name = own if filename is None else upload_name(filename)
        kind = content_type or mimetypes.guess_type(name)[0] or _UNKNOWN_TYPE
        if not _SENDABLE.fullmatch(kind):
            raise InvalidFile("content_type should be one line of ASCII")
        reference = FileReference.parse(str(FileReference(activity.workflow_id, activity.key, name)))
        with Outgoing.opened(path, self._access.limit_bytes) as source:
            await self._access.store().send(reference, source, kind)
        return str(reference)


async def _ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels tasks and returns when they have ended."""
    doomed = list(tasks)
    for task in doomed:
        task.cancel()
    await asyncio.gather(*doomed, return_exceptions=True)
