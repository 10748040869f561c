"""The codes of failures that flowherd itself reports to the engine, for the reference; nothing reads them at work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class FailureCode:
    """A code of a failure.

    Attributes:
        retried: "yes" or "no", or the case in which it is retried.
        meaning: the cause.
        remedy: what the reader can do about it.

    """

    retried: str
    meaning: str
    remedy: str


FAILURE_CODES: Mapping[str, FailureCode] = {
    "EXECUTION_ERROR": FailureCode(
        "yes",
        "The handler raised an exception that is not an `ActivityError`.",
        "Read `reason`, `at` and `exception` in the log line. Raise `ActivityError` to choose another code.",
    ),
    "ACTIVITY_ERROR": FailureCode(
        "as the handler says",
        "The handler raised an `ActivityError` without a code of its own.",
        "Give it a code that your workflow can test.",
    ),
    "INVALID_PARAMETERS": FailureCode(
        "no",
        "The parameters do not fit the handler's annotations.",
        "The message names each field. Correct the definition or the input.",
    ),
    "INVALID_OUTPUT": FailureCode(
        "no",
        "The return value has no JSON form, or the engine refused it.",
        "The message names the path, such as `$.rows[2].price`.",
    ),
    "NOT_DELIVERED": FailureCode(
        "yes",
        "For ten minutes something else answered in the engine's place, or the engine did not take the output.",
        "The message has status, URL and words of the answers. Correct what stands before the engine.",
    ),
    "OUTPUT_TOO_LARGE": FailureCode(
        "no",
        "The output is larger than the engine, or a proxy before it, accepts.",
        "Upload a file and return its reference.",
    ),
    "TIMEOUT": FailureCode(
        "yes",
        "The handler ran longer than its limit.",
        "Raise `timeout_seconds` of the step or `timeout_s` of the activity, or save checkpoints.",
    ),
    "CANCELLED": FailureCode(
        "only with `--requeue`",
        "Somebody ran `flowherd ctl cancel`.",
        "None needed.",
    ),
    "TASK_CANCELLED": FailureCode(
        "yes",
        "Code of the app or of a library cancelled the handler's task. It need not be the activity's fault.",
        "The message names the activity whose code cancelled all tasks. Let code cancel only what it has started.",
    ),
    "UNKNOWN_ACTIVITY": FailureCode(
        "yes",
        "The app has no activity of that name.",
        "The message lists the nearest names. Correct the definition, or deploy the app that has it.",
    ),
    "INVALID_ACTIVITY": FailureCode(
        "no",
        "The engine sent an activity that flowherd cannot read.",
        "The message says which part. It is a defect of the engine or of a proxy.",
    ),
    "WORKER_CRASHED": FailureCode(
        "yes",
        "The process that ran the activity died. It need not be the activity's fault.",
        "The message names the cause, what the activity did then, and the activities that ran beside it.",
    ),
    "POISON": FailureCode(
        "no",
        "Too many processes died while they ran this activity: `--poison-after`.",
        "The message lists every death. Correct the handler, then submit the workflow again.",
    ),
    "OUT_OF_MEMORY": FailureCode(
        "only if the isolate had run other activities before",
        "The isolate used more memory than `max_memory_mb`.",
        "Raise the limit, or process the data in parts.",
    ),
    "WORKER_OVERLOADED": FailureCode(
        "yes",
        "The host had no room for the activity: no record, thread, isolate or permit in time.",
        "Look for `activity_not_begun` in the log. Add slots, processes or hosts.",
    ),
    "WORKER_SHUTDOWN": FailureCode(
        "yes",
        "The host stopped before the activity ended.",
        "Raise `--graceful-timeout`, or make the activity shorter.",
    ),
    "FILE_ERROR": FailureCode(
        "yes",
        "A file was asked for where there are none, as in a test without `files=`.",
        "Pass `files={}` to `run_activity`.",
    ),
    "INVALID_FILE": FailureCode(
        "no",
        "The reference, the name or the path can never be transferred.",
        "Pass a regular file, and a reference that an activity returned.",
    ),
    "FILE_NOT_FOUND": FailureCode(
        "no",
        "The engine has no file of that reference.",
        "Check which step uploaded it.",
    ),
    "FILE_TOO_LARGE": FailureCode(
        "no",
        "The file is larger than `--max-file-mb`, or than a proxy lets through.",
        "Raise the limit, or split the file.",
    ),
    "FILE_CHANGED": FailureCode(
        "yes",
        "The file changed while it was uploaded. Nothing was stored.",
        "Close the file before you upload it.",
    ),
    "FILE_TRANSFER": FailureCode(
        "yes",
        "The transfer failed several times in a row.",
        "Check the network between this host and the engine.",
    ),
    "STORAGE": FailureCode(
        "yes",
        "The disk of this host is full, read-only or broken.",
        "Free space in the temporary folder.",
    ),
}
