"""What runs inside httpx's own test run: our connections in place of httpx's; it tests nothing itself.

`test_httpx_suite.py` copies it beside httpx's tests as their outermost conftest.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import types
from typing import Any

import httpx
import pytest

from flowherd.transport.httpx_face import PoolTransport

SKIPS = json.loads(os.environ["HTTPX_SKIPS"])


class ClientOnOurPool(httpx.AsyncClient):
    """Takes what httpx's client takes; of the transport's options the pool has one, the number of connections."""

    def __init__(self, *, http2: bool = False, **options: Any) -> None:
        del http2  # the tests that ask for it expect HTTP/1.1 of a server that knows nothing else
        limits = options.get("limits") or httpx.Limits(max_connections=100)
        if options.get("transport") is None:
            options["transport"] = PoolTransport(connections=limits.max_connections)
        super().__init__(**options)


httpx.AsyncClient = ClientOnOurPool  # type: ignore[misc]

# Their helper asks which async library it runs under; only asyncio comes into question here.
sys.modules["tests.concurrency"] = types.ModuleType("tests.concurrency")
sys.modules["tests.concurrency"].sleep = asyncio.sleep  # type: ignore[attr-defined]


@pytest.fixture(
    params=[("asyncio", {"use_uvloop": False}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        reason = SKIPS.get(item.nodeid.partition("[")[0])
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
