"""The context of an attempt, as its handler sees it."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING, Any

from flowherd.activities_and_outcomes import Usage
from flowherd.attempt_ids import HANDLERS
from flowherd.errors import LeaseLost
from flowherd.sdk.checkpoints import AsyncCheckpoints, SyncCheckpoints
from flowherd.sdk.file_context import AsyncFileContext, SyncFileContext
from flowherd.sdk.masked_lines import masked_line
from flowherd.sdk.run_state import CancelReason, RunState
from flowherd.sdk.spending import Money, checked_cost
from flowherd.sdk.streams import SyncTokenStream, TokenStream

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from flowherd.execution.run_environment import StockFiles

YIELD_EVERY_S = 0.0002  # between two yields to other tasks, when heartbeat() is called in a tight loop

__all__ = ["ActivityContext", "BaseContext", "CancelReason", "RunState", "SyncActivityContext"]

_handler_log = logging.getLogger(HANDLERS)


class _ActivityLogger(logging.LoggerAdapter[logging.Logger]):
    """Adds the attempt's ids to every record, keeps the caller's own `extra`, and masks secrets in failures."""

    def __init__(self, state: RunState, ids: Mapping[str, object]) -> None:
        super().__init__(_handler_log, ids)
        self._state = state

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        """Logs a line; in warnings, errors and exceptions the attempt's secrets are masked."""
        if not self.isEnabledFor(level):
            return
        if level >= logging.WARNING or kwargs.get("exc_info"):
            msg, args, kwargs = masked_line(self._state, msg, args, kwargs)
        msg, options = self.process(msg, kwargs)
        options["stacklevel"] = options.get("stacklevel", 1) + 1
        self.logger.log(level, msg, *args, **options)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs


class BaseContext:
    """The properties and methods that async and sync handlers share."""

    __slots__ = ("_state",)

    def __init__(self, state: RunState) -> None:
        self._state = state

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.activity_name} {self.activity_id}>"

    @property
    def activity_id(self) -> str:
        """Id of the activity. Every attempt of it has the same id."""
        return self._state.activity.activity_id

    @property
    def workflow_id(self) -> str:
        """Id of the workflow that the activity belongs to."""
        return self._state.activity.workflow_id

    @property
    def activity_key(self) -> str:
        """Key of the step in its definition."""
        return self._state.activity.key

    @property
    def activity_name(self) -> str:
        """Name of the activity, by which the handler was chosen."""
        return self._state.activity.name

    @property
    def worker(self) -> str:
        """Worker type (queue) the activity came from, such as `py-std`."""
        return self._state.activity.worker_type

    @property
    def idempotency_key(self) -> str:
        """Key to pass to any call that must not happen twice; the same in every attempt (protocol.md R17)."""
        return self._state.activity.activity_id

    @property
    def signal(self) -> Any:
        """Data of the signal that the activity waited for; None if it waited for none."""
        return self._state.activity.signal_data

    @property
    def settings(self) -> Mapping[str, Any]:
        """The `settings` of the step in its definition (protocol.md §8.1)."""
        return self._state.activity.settings

    @property
    def state(self) -> Any:
        """The value that the app's lifespan yielded; all handlers of the process share it."""
        return self._state.environment.state

    @property
    def process_index(self) -> int:
        """Number of the worker process, from 0."""
        return self._state.environment.process_index

    @property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A standard logger that adds the ids of activity and workflow to every line."""
        logger = self._state.logger
        if logger is None:
            logger = self._state.logger = _ActivityLogger(self._state, self._state.ids)
        return logger

    @property
    def limit_s(self) -> float:
        """Seconds this attempt may take, from its first step."""
        return self._state.limit_s

    @property
    def stock_files(self) -> StockFiles | None:
        """File access for handlers written for the kruxiaflow SDK."""
        return self._state.environment.stock_files

    @property
    def cancelled(self) -> bool:
        """True when the attempt has to stop: its outcome is decided, and its return value is dropped."""
        return self._state.cancel_reason is not None

    @property
    def cancel_reason(self) -> CancelReason | None:
        """The reason for `cancelled`; None while it is False."""
        return self._state.cancel_reason

    def raise_if_cancelled(self) -> None:
        """Raises if `cancelled` is True: LeaseLost for a lost lease, CancelledError for any other reason."""
        reason = self._state.cancel_reason
        if reason is None:
            return
        self._state.is_told = True
        if reason is CancelReason.LEASE_LOST:
            raise LeaseLost(f"activity {self.activity_id} is somebody else's now")
        raise asyncio.CancelledError(reason.value)

    @property
    def shutdown_requested(self) -> bool:
        """True while the host drains: finish, or save a checkpoint and raise a retryable ActivityError."""
        return self._state.environment.shutdown.requested

    def record_usage(
        self,
        provider: str,
        model: str,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cache_read_tokens: int = 0,
        cache_creation_tokens: int = 0,
        cache_storage_token_hours: float = 0.0,
        cost_usd: Money | None = None,
    ) -> None:
        """Adds the tokens of one paid call to the sums of this attempt; call it as each paid call returns.

        The sums are reported with the outcome, also when the attempt fails or its process dies.

        Args:
            provider: name of the provider, such as `anthropic`.
            model: the provider's name of the model.
            input_tokens: tokens the model read; counts are whole numbers of 0 or more.
            output_tokens: tokens the model wrote.
            cache_read_tokens: input tokens read from the provider's cache.
            cache_creation_tokens: input tokens written to it.
            cache_storage_token_hours: tokens times hours they stayed there.
            cost_usd: cost in US dollars; None lets the engine compute it from the tokens.

        Raises:
            ValueError: the engine would refuse one of the values (protocol.md §6.1).

        """
        usage = Usage(
            provider=provider,
            model=model,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cache_read_tokens=cache_read_tokens,
            cache_creation_tokens=cache_creation_tokens,
            cache_storage_token_hours=cache_storage_token_hours,
            cost_usd=None if cost_usd is None else format(checked_cost(cost_usd), "f"),
        )
        self._state.open_costs().add_usage(usage)
        self._note_if_late(usage.provider, usage.model)

    def record_cost(self, usd: Money) -> None:
        """Adds a cost in US dollars that belongs to no model. ValueError unless 0 ≤ usd ≤ 10¹²."""
        self._state.open_costs().add_cost(usd)
        self._note_if_late(str(usd))

    def _note_if_late(self, *what: str) -> None:
        """Warns about spending after the outcome, such as by a task left running: it is not reported."""
        if self._state.is_decided:
            log = self.logger
            log.warning("spent_after_the_outcome", extra={"spent": what})

    def _progressed(self) -> float:
        """Marks progress and returns the seconds since the last mark."""
        state = self._state
        if state.cancel_reason is CancelReason.LEASE_LOST:
            self.raise_if_cancelled()
        now = monotonic()
        since = now - state.heartbeat_at
        if since >= YIELD_EVERY_S:
            state.heartbeat_at = now
        return since


class ActivityContext(AsyncFileContext, AsyncCheckpoints, BaseContext):
    """The context of an `async def` handler."""

    __slots__ = ()

    async def heartbeat(self, *_details: object) -> None:
        """Lets other tasks run and checks for a lost lease. You need not call it: flowherd extends the lease itself.

        Details are accepted and dropped, since the engine stores none: use `checkpoint` (faults.md A19).

        Raises:
            LeaseLost: the engine has given the activity to another worker.

        """
        if self._progressed() >= YIELD_EVERY_S:
            await asyncio.sleep(0)
            if self._state.cancel_reason is CancelReason.LEASE_LOST:
                self.raise_if_cancelled()

    def stream(self) -> TokenStream:
        """Streams text while the handler runs: `async with ctx.stream() as s: await s.send(text)`.

        Text may be dropped, and nothing waits for it. The output is still the return value (protocol.md §10).
        """
        return TokenStream(self._state)

    async def wait_for_shutdown(self) -> None:
        """Returns when the host begins to drain."""
        await self._state.environment.shutdown.wait()


class SyncActivityContext(SyncFileContext, SyncCheckpoints, BaseContext):
    """The context of a plain `def` handler: the same methods without `await`."""

    __slots__ = ()

    def heartbeat(self, *_details: object) -> None:
        """Checks for a lost lease. You need not call it: flowherd extends the lease itself.

        Raises:
            LeaseLost: the engine has given the activity to another worker.

        """
        self._progressed()

    def stream(self) -> SyncTokenStream:
        """Streams text while the handler runs: `with ctx.stream() as s: s.send(text)`."""
        return SyncTokenStream(self._state)

    def wait_for_shutdown(self, timeout_s: float | None = None) -> bool:
        """Blocks until the host begins to drain; False if `timeout_s` seconds passed first."""
        return self._state.environment.shutdown.wait_in_thread(timeout_s)
