"""Chooses what carries the calls of one engine client; it sends nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowherd.client.tokens import BearerAuth
from flowherd.transport.direct_transport import DirectTransport
from flowherd.transport.transport import HttpxTransport, new_client

if TYPE_CHECKING:
    from flowherd.client.tokens import TokenSource
    from flowherd.settings.worker_config import WorkerConfig
    from flowherd.transport.transport import Transport


def new_transport(config: WorkerConfig, tokens: TokenSource | None, *, connections: int) -> Transport:
    """The transport that `config.transport` names, for `config.api_url`; without `tokens` it sends no token (§2.2).

    A proxy, or a client of the user's own, needs httpx: hand its client to `HttpxTransport`.
    """
    if config.transport == "direct":
        return DirectTransport(config.api_url, tokens, connections=connections)
    auth = BearerAuth(tokens, config.api_url) if tokens is not None else None
    client = new_client(config.api_url, auth, connections=connections + 1, is_bounded=True)
    return HttpxTransport(client, connections=connections)
