"""The tree of all exceptions that flowherd raises on purpose.

FlowherdError
├── ConfigurationError         a flag, variable, file or module:attr is wrong: exit code 2
│   └── RegistryError          an activity cannot be registered as it is written
├── AppImportError             the user's module raised while it was imported: exit code 3
│   └── LifespanFailed         the app's lifespan raised before it yielded
├── ActivityError              raised by handlers: chooses code and retryability of the failure
│   ├── InvalidParameters      the parameters do not fit the handler's annotations: terminal
│   ├── InvalidOutput          the output cannot be sent to the engine: terminal
│   └── FileError              a file could not be sent or fetched
│       ├── InvalidFile           no such reference, name or regular file: terminal
│       ├── FileMissing           the engine has no such file: terminal
│       ├── FileTooLarge          see --max-file-mb: terminal
│       ├── FileChanged           while it was uploaded
│       ├── FileTransferFailed    every try failed on the way
│       └── StorageFailed         this host's disk: full, read-only, broken
├── EngineError                a failed call to the engine
│   ├── EngineUnavailable      temporary: refused, reset, timed out, 5xx, 429
│   │   ├── EngineDisconnected    the connection ended before the reply began
│   │   ├── CallTooSlow           the deadline passed while bytes still moved
│   │   ├── ForeignReply          a reply that is not in the engine's words
│   │   ├── NotAcknowledged       the engine answers that it has not taken an outcome or a heartbeat
│   │   └── ReplyTooLarge         the reply was not read to its end
│   ├── EngineUnauthorized     a 401 even with a new token
│   └── EngineMisconfigured    the TLS handshake fails, or the engine refuses to be polled
└── LedgerFull                 no free record in this segment

LeaseLost is no FlowherdError but a CancelledError: a handler that catches `Exception` must not swallow it.
"""

from __future__ import annotations

import asyncio


class FlowherdError(Exception):
    """Anything flowherd raises on purpose."""


class ConfigurationError(FlowherdError):
    """A setting is wrong; the message names the place and the remedy (exit code 2)."""


class RegistryError(ConfigurationError):
    """A function cannot be registered as an activity."""


class AppImportError(FlowherdError):
    """The app's module raised an exception while it was imported (exit code 3).

    `report` is the traceback to print, once.
    """

    def __init__(self, message: str, report: str) -> None:
        super().__init__(message)
        self.report = report


class LifespanFailed(AppImportError):
    """The app's lifespan raised an exception before it yielded (exit code 3)."""


class ActivityError(FlowherdError):
    """Raised by a handler, it fails the activity with a code of your choice.

    Args:
        message: text that the users of the workflow see; keep parameters and secrets out of it.
        code: a non-empty name such as `OUT_OF_STOCK` (protocol.md §7).
        retryable: False ends the activity for good; True lets the engine try again while attempts are left.

    """

    def __init__(self, message: str, *, code: str = "ACTIVITY_ERROR", retryable: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class InvalidParameters(ActivityError):
    """The parameters do not fit the handler's annotations; the message names fields, never values (faults.md A11)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="INVALID_PARAMETERS", retryable=False)


class InvalidOutput(ActivityError):
    """The output has no JSON form; the message names the path (protocol.md §6.5, faults.md A1, A2)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="INVALID_OUTPUT", retryable=False)


class FileError(ActivityError):
    """A file could not be uploaded or downloaded; each subclass has a code, and says if it is retried."""

    _code, _retryable = "FILE_ERROR", True

    def __init__(self, message: str) -> None:
        super().__init__(message, code=self._code, retryable=self._retryable)


class InvalidFile(FileError):
    """The reference, name or path can never be transferred (faults.md F1, F3)."""

    _code, _retryable = "INVALID_FILE", False


class FileMissing(FileError):
    """The engine has no file of that reference."""

    _code, _retryable = "FILE_NOT_FOUND", False


class FileTooLarge(FileError):
    """The file is larger than `--max-file-mb`, or than a proxy before the engine accepts (faults.md F6)."""

    _code, _retryable = "FILE_TOO_LARGE", False


class FileChanged(FileError):
    """The file was written to while it was uploaded; nothing was stored (faults.md F10)."""

    _code = "FILE_CHANGED"


class FileTransferFailed(FileError):
    """The transfer failed several times in a row (faults.md F5, F7)."""

    _code = "FILE_TRANSFER"


class StorageFailed(FileError):
    """The disk of this host is full, read-only or broken (faults.md F4)."""

    _code = "STORAGE"


class EngineError(FlowherdError):
    """A call to the engine ended without a verdict.

    `in_doubt` is True when the call may still have taken effect (protocol.md fact 2); `is_of_the_call`, when the error
    concerns this call alone and not the reachability of the engine; `is_engines`, when the engine itself answered.
    """

    in_doubt = False
    is_of_the_call = False
    is_engines = False


class EngineUnavailable(EngineError):
    """The call may succeed later (protocol.md §1.5, class retry).

    Args:
        reason: one line without secrets.
        retry_after_s: the engine's Retry-After in seconds, 0 for none.
        in_doubt: True when the call may still have taken effect.

    """

    def __init__(self, reason: str, *, retry_after_s: float = 0.0, in_doubt: bool = False) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.in_doubt = in_doubt


class EngineDisconnected(EngineUnavailable):
    """The connection ended before the first byte of the reply; perhaps it was idle for too long (faults.md E4)."""


class CallTooSlow(EngineUnavailable):
    """The deadline passed while bytes still moved (faults.md N8): the link is slow, or the body large."""

    is_of_the_call = True


class ForeignReply(EngineUnavailable):
    """The reply is not in the engine's words, so from something in between: an outage, no verdict (faults.md N7).

    Args:
        reason: one line without secrets.
        is_too_large: True for a 413, which speaks of the body of this call alone.

    """

    is_of_the_call = True

    def __init__(self, reason: str, *, is_too_large: bool = False) -> None:
        super().__init__(reason, in_doubt=True)
        self.is_too_large = is_too_large


class NotAcknowledged(EngineUnavailable):
    """The engine answers that it has not taken an outcome or a heartbeat: `"acknowledged": false`."""

    is_of_the_call = True


class ReplyTooLarge(EngineUnavailable):
    """The reply is larger than the limit for a reply in memory (faults.md E15)."""


class EngineUnauthorized(EngineError):
    """The engine refused the token, and the next one too."""


class EngineMisconfigured(EngineError):
    """The server there is wrong: its TLS certificate is not trusted, or it refuses to be polled."""


class LedgerFull(FlowherdError):
    """Every record of this segment is taken."""


class LeaseLost(asyncio.CancelledError):
    """The engine has given the activity to another worker: the handler should stop, nothing is reported."""
