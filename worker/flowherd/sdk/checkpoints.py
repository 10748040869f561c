"""The progress of an attempt, kept with the engine as a file for the next one; it decides nothing about attempts.

One name is reserved for each activity. It holds the activity's id, which is another one in each iteration of a loop and
the same in each attempt; the engine replaces the file as a whole or not at all (protocol.md §9.1). It has no call that
removes a file: what a completed activity has kept is never asked for again, and ends with its workflow.
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
    """Checkpoints for an `async def` handler, on whatever loop it runs."""

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
    """The same names for a plain `def` handler: they block its thread, and nothing else."""

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
    """The place of an activity's checkpoint."""
    name = f"flowherd-checkpoint-{activity.activity_id}.json"
    return FileReference(activity.workflow_id, activity.key, name)


def encoded(value: Any) -> bytes:
    """The file's content; InvalidOutput for what is no JSON."""
    return encode_output({_KEY: value})


def decoded(content: bytes) -> Any:
    """The value in a file's content; ValueError if it is no checkpoint."""
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
    with contextlib.suppress(OSError):  # it would end with the attempt
        path.unlink()
    try:
        return decoded(content)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        import structlog  # noqa: PLC0415 - 70 ms for every app that imports flowherd

        log = structlog.stdlib.get_logger(__name__)
        log.warning("checkpoint_ignored", reason=str(error), **state.ids)
        return None
