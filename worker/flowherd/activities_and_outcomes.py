"""The engine's activities and the handlers' outcomes, as frozen values.

Those made for every activity are structs, because creating a frozen dataclass of ten fields takes ten times as long.
"""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - msgspec reads annotations
from dataclasses import dataclass, field
from typing import Any

import msgspec


class Activity(msgspec.Struct, frozen=True):
    """A claimed attempt of an activity.

    Attributes:
        activity_id: the activity's id, the same for every attempt (protocol.md fact 9); the idempotency key.
        key: the activity's key in its workflow.
        name: the name that selects the handler; may be empty.
        parameters: the parameters as sent; never logged, since they may hold secrets (protocol.md R15). A
            `msgspec.Raw` when they are only passed on to an isolate.
        worker_id: the worker_id of the poll that brought it, the engine's only fencing token (protocol.md fact 8).
        timeout_s: the definition's `timeout_seconds`, None when it sets none (the lease is then 60 s or less).

    """

    activity_id: str
    workflow_id: str
    key: str
    name: str
    worker_type: str
    worker_id: str
    parameters: Any
    timeout_s: float | None = None
    settings: Mapping[str, Any] = {}
    output_definitions: tuple[Mapping[str, Any], ...] = ()
    signal_data: Any = None

    def __repr__(self) -> str:
        return f"<Activity {self.name} {self.activity_id} of {self.worker_id}>"


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums of the tokens and the money spent on one model of one provider (protocol.md §6.1).

    `cost_usd` is a decimal string in US dollars; None lets the engine compute it from the tokens.
    """

    provider: str
    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    cache_storage_token_hours: float = 0.0
    cost_usd: str | None = None


class Completed(msgspec.Struct, frozen=True):
    """The handler returned: `output` is a checked, encoded JSON object of at most 50 MB (protocol.md §6.5)."""

    output: bytes
    cost_usd: str | None = None
    usage: tuple[Usage, ...] = ()

    def __repr__(self) -> str:
        return f"<Completed {len(self.output)} bytes, cost_usd={self.cost_usd}, usage={self.usage}>"


@dataclass(frozen=True, slots=True)
class Raised:
    """The exception behind a failure: its class, message and traceback, without secrets.

    `distinct` is equal for failures of the same classes from the same lines; "" when it is unique.
    """

    kind: str
    message: str
    report: str
    distinct: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised, ran out of time, or was requeued; `message` is clean and at most 8 KiB (§7).

    `raised` and `at`, the user's line where the handler was, are for log and trace only, not for the engine.
    """

    code: str
    message: str
    retryable: bool
    cost_usd: str | None = None
    usage: tuple[Usage, ...] = ()
    raised: Raised | None = field(default=None, compare=False, repr=False)
    at: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Died:
    """The isolate in which the handler ran has died; `how` is reported to the engine, `status` is its wait status."""

    how: str
    status: int = 0


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease is lost: nothing may be reported (protocol.md fact 13)."""

    reason: str


Result = Completed | Failed  # of a handler that was called
Outcome = Result | Died | Lost
