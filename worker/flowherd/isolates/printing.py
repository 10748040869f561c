"""Puts into the worker's log what an isolate has logged or printed; it decides nothing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from flowherd.isolates.lines import Lines
from flowherd.isolates.reading import Reading, Share
from flowherd.sdk.redaction import mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flowherd.isolates.isolate_protocol import Logged

_log = logging.getLogger(__name__)
_OWN_NAMES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def replay(record: Logged, ids: Mapping[str, Any], secrets: Iterable[str]) -> None:
    """Logs a record as if its isolate's handler ran here; ids of the activity are added where it has none."""
    logger = logging.getLogger(record.logger)
    if logger.isEnabledFor(record.level):
        extra = {
            name: mask(value, secrets) if isinstance(value, str) else value
            for name, value in record.fields.items()
            if name not in _OWN_NAMES
        }
        logger.log(record.level, "%s", mask(record.message, secrets), extra={**ids, **extra})


class Printing:
    """What one isolate writes to its stdout and stderr, line by line.

    Args:
        stdout: the pipe's reading end; does not block.
        stderr: the same.
        secrets: must not appear in the log.

    Attributes:
        ids: what each line is logged with.

    """

    def __init__(self, stdout: int, stderr: int, secrets: Iterable[str]) -> None:
        self.ids: dict[str, Any] = {}
        self._secrets = tuple(secrets)
        share = Share()
        self._pipes = (
            Lines(stdout, share, lambda line: self._log(logging.INFO, "activity_stdout", line)),
            Lines(stderr, share, lambda line: self._log(logging.WARNING, "activity_stderr", line)),
        )
        ends = zip((stdout, stderr), self._pipes, strict=True)
        self._readings = [Reading(end, pipe.turn) for end, pipe in ends]

    def is_settled(self) -> bool:
        """Logs what has been printed until now; False when there is more than may be logged at once."""
        settled = [pipe.settle() for pipe in self._pipes]
        return all(settled)

    def stop(self) -> None:
        """Reads no more."""
        for reading in self._readings:
            reading.stop()

    def _log(self, level: int, event: str, line: str) -> None:
        _log.log(level, event, extra={**self.ids, "line": mask(line, self._secrets)})
