"""Turns the output of `print` in a worker into log lines, with the names of the activity that printed them."""

from __future__ import annotations

import io
import sys
import threading
from typing import TYPE_CHECKING, Any

import structlog

from flowherd.attempt_ids import working_for
from flowherd.sdk.redaction import masking, secrets_of_process
from flowherd.worker.activity_log import named

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowherd.attempt_ids import AttemptIds
    from flowherd.settings.worker_config import WorkerConfig

LONGEST_LINE = 2000  # characters; a longer line is split, because a log line holds 4 KiB

log = structlog.stdlib.get_logger(__name__)


def log_what_is_printed(config: WorkerConfig) -> None:
    """Replaces `sys.stdout` by a stream to the log; descriptor 1 is not changed."""
    secret = config.client_secret.get_secret_value() if config.client_secret else ""
    hide = masking((secret, *secrets_of_process(config.secret_names)))
    sys.stdout = PrintedLines(sys.stdout, hide)


class _Pending(threading.local):
    """The unfinished line of a thread, and the attempt that printed it."""

    text = ""
    who: AttemptIds | None = None
    is_logging = False


class PrintedLines(io.TextIOBase):
    """A text stream whose lines go to the log.

    Args:
        original: the original stream; receives text that is printed while a line is being logged.
        hide: masks secrets.

    """

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, original: Any, hide: Callable[[str], str] = str) -> None:
        self._original = original
        self._hide = hide
        self._pending = _Pending()

    def __repr__(self) -> str:
        return f"<PrintedLines in place of {self._original!r}>"

    @property
    def buffer(self) -> Any:
        """The byte stream of the original, whose output is not logged."""
        return self._original.buffer

    def fileno(self) -> int:
        """Returns the original's descriptor."""
        return int(self._original.fileno())

    def writable(self) -> bool:
        """Returns True."""
        return True

    def write(self, text: str) -> int:
        """Logs each line that `text` completes."""
        pending = self._pending
        if pending.is_logging:  # a log handler of the app prints
            return int(self._original.write(text))
        who = working_for.get()
        if pending.who is not who:
            self._end_line()
            pending.who = who
        *lines, pending.text = (pending.text + text).split("\n")
        for line in lines:
            self._log(line, who)
        while len(pending.text) > LONGEST_LINE:
            self._log(pending.text[:LONGEST_LINE], who)
            pending.text = pending.text[LONGEST_LINE:]
        return len(text)

    def flush(self) -> None:
        """Logs the unfinished line."""
        self._end_line()
        self._original.flush()

    def _end_line(self) -> None:
        pending = self._pending
        text, pending.text = pending.text, ""
        if text:
            self._log(text, pending.who)

    def _log(self, line: str, who: AttemptIds | None) -> None:
        text = self._hide(line.rstrip("\r"))
        event, ids = ("stdout", {}) if who is None else ("activity_stdout", named(who.fields()))
        self._pending.is_logging = True
        try:
            for begin in range(0, len(text), LONGEST_LINE):
                if (piece := text[begin : begin + LONGEST_LINE]).strip():
                    log.info(event, line=piece, **ids)
        finally:
            self._pending.is_logging = False
