"""Files for handlers of the kruxiaflow SDK, through that SDK's own client."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType
    from typing import IO

    from flowherd.client.bearer_tokens import Token, TokenSource

CHUNK_BYTES = 64 << 10  # sent at a time
TURN_BYTES = 1 << 20  # copied between two yields to other tasks
MEMORY_BYTES = 1 << 20  # of one upload held in memory; a longer one goes to a temporary file
_UNAUTHORIZED = 401


class SdkFiles:
    """Creates one API client per event loop, when a handler first uses a file.

    Args:
        api_url: the engine's origin.
        tokens: the host's token, None for an engine that requires none.

    """

    def __init__(self, api_url: str, tokens: TokenSource | None) -> None:
        self._api_url = api_url
        self._tokens = tokens
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()

    def client(self) -> Any:
        """Returns the running loop's client."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            sdk = sys.modules["kruxiaflow.worker"]
            client = self._clients[loop] = _client_class(sdk)(self._api_url, self._tokens)
        return client

    async def aclose(self) -> None:
        """Closes the running loop's client."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()


@cache
def _client_class(sdk: ModuleType) -> Any:
    class HostedClient(sdk.WorkerApiClient):  # type: ignore[misc, name-defined]
        """The stock client, with the host's token instead of its own."""

        def __init__(self, api_url: str, tokens: TokenSource | None) -> None:
            super().__init__(api_url, "", "")
            self._tokens = tokens
            self._shown: Token | None = None
            if tokens is None:  # a development engine still checks a token that is sent (protocol.md §2.2)
                self._http.event_hooks = {"request": [_without_token]}

        async def _get_token(self) -> str:
            if self._tokens is None:
                return ""
            self._shown = await self._tokens.current()
            return "" if self._shown is None else self._shown.value

        async def _clear_token(self) -> None:
            if self._tokens is not None and self._shown is not None:
                await self._tokens.renewed(self._shown)

        async def upload_file(
            self,
            workflow_id: Any,
            activity_key: str,
            filename: str,
            data: AsyncIterator[bytes],
            content_type: str | None = None,
        ) -> Any:
            """Works like the stock client, which would join all pieces in memory; its downloads are streamed anyway."""
            url = f"{self._api_url}/api/v1/workflows/{workflow_id}/activities/{activity_key}/files/{filename}"
            response, size = await _uploaded(self, url, data, content_type)
            return sdk.storage.FileMetadata(
                workflow_id=workflow_id,
                activity_key=activity_key,
                filename=filename,
                size=response.json().get("size", size),
                content_type=content_type,
                created_at=datetime.now(UTC),
            )

    return HostedClient


async def _uploaded(
    client: Any, url: str, data: AsyncIterator[bytes], content_type: str | None
) -> tuple[Any, int]:
    """Sends all pieces, again after a 401; returns the successful reply and the size."""
    headers = {"Content-Type": content_type} if content_type else {}
    with tempfile.SpooledTemporaryFile(MEMORY_BYTES, prefix="flowherd-") as copy:
        size = await _copied(data, copy)
        headers["Content-Length"] = str(size)
        for may_repeat in (True, False):
            headers["Authorization"] = f"Bearer {await client._get_token()}"  # noqa: SLF001 - the SDK's client
            response = await client._http.post(url, headers=headers, content=_pieces(copy))  # noqa: SLF001
            if response.status_code != _UNAUTHORIZED or not may_repeat:
                break
            await client._clear_token()  # noqa: SLF001
    response.raise_for_status()
    return response, size


async def _copied(data: AsyncIterator[bytes], copy: IO[bytes]) -> int:
    """Copies all pieces, since a request refused with 401 is sent again; returns their size."""
    size, turn_at = 0, TURN_BYTES
    async for piece in data:
        copy.write(piece)
        size += len(piece)
        if size >= turn_at:
            turn_at = size + TURN_BYTES
            await asyncio.sleep(0)
    return size


async def _pieces(copy: IO[bytes]) -> AsyncIterator[bytes]:
    copy.seek(0)
    while piece := copy.read(CHUNK_BYTES):
        yield piece


async def _without_token(request: Any) -> None:
    request.headers.pop("Authorization", None)
