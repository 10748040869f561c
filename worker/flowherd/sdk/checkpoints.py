"""Checkpoints: the progress of an activity, stored in the engine as a file for its next attempt.

Each activity has one file name, made from its id, which differs between iterations of a loop and is the same for all
attempts. The engine replaces the file as a whole or not at all (protocol.md §9.1). The engine has no call that deletes
a file: the checkpoint of a completed activity is never read again and is deleted with its workflow.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from flowherd.errors import FileMissing
from flowherd.sdk.file_context import files_of, result_of
from flowherd.sdk.file_reference import FileReference
from flowherd.sdk.output import encode_output

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    from flowherd.activities_and_outcomes import Activity
    from flowherd.sdk.run_state import RunState

_KEY = "checkpoint"


class AsyncCheckpoints:
    """Checkpoints for an `async def` handler, on any event loop."""

    __slots__ = ()

    _state: RunState

    async def checkpoint(self, value: Any) -> None:
        """Stores `value` for the next attempt, in place of the previous one; returns when the engine has it.

        Args:
            value: anything JSON can hold.

        Raises:
            InvalidOutput: the value has no JSON form; the message names the path.
            FileError: the engine did not store it; the previous value is still there.

        """
        await asyncio.wrap_future(_keep(self._state, value))

    async def resume(self) -> Any:
        """Returns the value this activity stored last, in this attempt or an earlier one; None if there is none.

        Raises:
            FileError: the engine could not be asked.

        """
        try:
            path = await asyncio.wrap_future(_fetch(self._state))
        except FileMissing:
            return None
        return _read(path, self._state)


class SyncCheckpoints:
    """The same methods for a plain `def` handler; they block its thread only."""

    __slots__ = ()

    _state: RunState

    def checkpoint(self, value: Any) -> None:
        """Does what `ActivityContext.checkpoint` does, and blocks."""
        result_of(_keep(self._state, value), self._state)

    def resume(self) -> Any:
        """Does what `ActivityContext.resume` does, and blocks."""
        try:
            path = result_of(_fetch(self._state), self._state)
        except FileMissing:
            return None
        return _read(path, self._state)


def reference_of(activity: Activity) -> FileReference:
    """Returns the file reference of an activity's checkpoint."""
    name = f"flowherd-checkpoint-{activity.activity_id}.json"
    return FileReference(activity.workflow_id, activity.key, name)


def encoded(value: Any) -> bytes:
    """Returns the content of the checkpoint file; InvalidOutput when the value is not JSON."""
    return encode_output({_KEY: value})


def decoded(content: bytes) -> Any:
    """Returns the value in a checkpoint file; ValueError when the file is not a checkpoint."""
    document = msgspec.json.decode(content)
    if not isinstance(document, dict) or _KEY not in document:
        raise ValueError("no checkpoint")
    return document[_KEY]


def _keep(state: RunState, value: Any) -> Future[str]:
    return files_of(state).save(encoded(value), reference_of(state.activity).name, "application/json")


def _fetch(state: RunState) -> Future[Path]:
    return files_of(state).download(str(reference_of(state.activity)))


def _read(path: Path, state: RunState) -> Any:
    content = path.read_bytes()
    with contextlib.suppress(OSError):  # the attempt's folder is deleted at its end anyway
        path.unlink()
    try:
        return decoded(content)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        import structlog  # noqa: PLC0415 - 70 ms for every app that imports flowherd

        log = structlog.stdlib.get_logger(__name__)
        log.warning("checkpoint_ignored", reason=str(error), **state.ids)
        return None
