"""The context for handlers of the stock SDK: an instance of that SDK's class."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import PrivateAttr

if TYPE_CHECKING:
    from types import ModuleType

    from flowherd.sdk.context import ActivityContext

_EPOCH = datetime.fromtimestamp(0, UTC)


def make_context(sdk: ModuleType, ctx: ActivityContext) -> Any:
    """Returns an instance of a subclass of `kruxiaflow.worker.ActivityContext` for one attempt."""
    fields = {
        "workflow_id": _workflow_id(ctx.workflow_id),
        "activity_id": _uuid(ctx.activity_id),
        "activity_key": ctx.activity_key,
        "signal": ctx.signal,
    }
    kind, private = _blank(sdk)
    made = kind.__new__(kind)
    put = object.__setattr__  # like `model_construct`, but faster: without a look at each field
    put(made, "__dict__", fields)
    put(made, "__pydantic_fields_set__", set(fields))
    put(made, "__pydantic_extra__", None)
    put(made, "__pydantic_private__", {**private, "_flowherd": ctx})
    return made


@cache
def _blank(sdk: ModuleType) -> tuple[Any, dict[str, Any]]:
    """Returns the class of all contexts, and the initial values of their private attributes."""
    kind = context_class(sdk)
    blank = kind.model_construct(workflow_id=None, activity_id=None, activity_key="", signal=None)
    return kind, dict(blank.__pydantic_private__)


@lru_cache(maxsize=256)
def _workflow_id(text: str) -> UUID:
    """Returns the UUID, cached because many activities belong to the same workflow."""
    return UUID(text)


def _uuid(text: str) -> UUID:
    """Returns the UUID; built from 16 bytes, which takes half the time."""
    try:
        return UUID(bytes=bytes.fromhex(text.replace("-", "")))
    except ValueError:
        return UUID(text)


def has_files(context: Any) -> bool:
    """True when the attempt has a temporary directory; pydantic's access to a private attribute would be slow."""
    return context.__pydantic_private__["_file_executor"] is not None


@cache
def context_class(sdk: ModuleType) -> Any:
    """Returns the subclass, created after the app has imported the SDK."""

    class HostedContext(sdk.ActivityContext):  # type: ignore[misc, name-defined]
        """The stock context with the same ids, logger and file methods; the keeper sends the heartbeats."""

        _flowherd: Any = PrivateAttr(default=None)

        @property
        def limit_s(self) -> float:
            """Seconds that the attempt may run."""
            return float(self._flowherd.limit_s)

        _file_executor: Any = PrivateAttr(default=None)

        async def heartbeat(self) -> None:
            """Yields to other tasks; raises LeaseLost when the lease is lost."""
            await self._flowherd.heartbeat()

        async def download_file(self, storage_path: str) -> str:
            """Works like the stock context; the file exists until the attempt ends."""
            self._open_files()
            _check_file_name(storage_path.partition("://")[2].partition("/")[2].partition("/")[2])
            return str(await super().download_file(storage_path))

        async def upload_file(self, local_path: str, filename: str) -> str:
            """Works like the stock context, but checks the name before the upload instead of after it."""
            self._open_files()
            _check_metadata(sdk, self, filename)
            return str(await super().upload_file(local_path, filename))

        async def close_files(self) -> None:
            """Removes the attempt's temporary directory."""
            await self._file_executor.cleanup()

        def _open_files(self) -> None:
            files = self._flowherd.stock_files
            if self._file_executor is None and files is not None:
                client = files.client()
                self._file_executor = sdk.FileExecutor(self.workflow_id, self.activity_key, client)

    HostedContext.__name__ = HostedContext.__qualname__ = "ActivityContext"
    return HostedContext


def _check_metadata(sdk: ModuleType, ctx: Any, name: str) -> None:
    """Raises for an invalid name the error that the SDK raises only after the upload."""
    sdk.storage.FileMetadata(
        workflow_id=ctx.workflow_id,
        activity_key=ctx.activity_key,
        filename=name,
        size=0,
        content_type=None,
        created_at=_EPOCH,
    )
    _check_file_name(name)


def _check_file_name(name: str) -> None:
    """Raises ValueError for a path, which could lead out of the private directory or to another route of the engine.

    The SDK's pattern lets `a/../../x` pass, and the engine has no route for `a/x` (protocol.md §9.3).
    """
    if "/" in name:
        raise ValueError("a file's name is one name, without a slash")
