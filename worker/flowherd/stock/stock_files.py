"""Files for handlers of the kruxiaflow SDK, by its own client; it must not import that SDK."""

from __future__ import annotations

import asyncio
import sys
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from types import ModuleType

    from flowherd.client.tokens import Token, TokenSource


class SdkFiles:
    """Makes one API client per event loop, when a handler first touches a file.

    Args:
        api_url: the engine's origin.
        tokens: the host's token, None for an engine that asks for none.

    """

    def __init__(self, api_url: str, tokens: TokenSource | None) -> None:
        self._api_url = api_url
        self._tokens = tokens
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()

    def client(self) -> Any:
        """The running loop's client."""
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
        """The stock client with the host's token instead of one of its own."""

        def __init__(self, api_url: str, tokens: TokenSource | None) -> None:
            super().__init__(api_url, "", "")
            self._tokens = tokens
            self._shown: Token | None = None
            if tokens is None:  # an engine in development mode checks a token that is sent (protocol.md §2.2)
                self._http.event_hooks = {"request": [_without_token]}

        async def _get_token(self) -> str:
            if self._tokens is None:
                return ""
            self._shown = await self._tokens.current()
            return "" if self._shown is None else self._shown.value

        async def _clear_token(self) -> None:
            if self._tokens is not None and self._shown is not None:
                await self._tokens.renewed(self._shown)

    return HostedClient


async def _without_token(request: Any) -> None:
    request.headers.pop("Authorization", None)
