"""Connects a socket to the first address of a host that answers (RFC 8305), on asyncio's loop and on uvloop's.

uvloop's `create_connection` tries one address after the other, each until the kernel gives up after minutes.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from itertools import chain, zip_longest
from typing import TypeAlias

from flowherd.own_tasks import OwnTask

NEXT_AFTER_S = 0.25  # the next address is tried after this delay, as in httpx

Address: TypeAlias = "tuple[int, int, tuple[object, ...]]"  # family, protocol, socket address


async def dial(host: str, port: int) -> socket.socket:
    """Returns a connected socket, to be closed by the caller.

    Raises:
        OSError: the name has no address, or no address accepts the connection.
        UnicodeError: the host is not a valid name.

    """
    waiting = deque(await _addresses(host, port))
    running: set[OwnTask[socket.socket]] = set()
    failures: list[BaseException] = []
    try:
        while waiting or running:
            if waiting:
                running.add(OwnTask(_connected(*waiting.popleft())))
            patience_s = NEXT_AFTER_S if waiting else None
            done, _ = await asyncio.wait(running, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                if (failure := attempt.exception()) is None:
                    running.discard(attempt)
                    return attempt.result()
                failures.append(failure)
            running -= done
    finally:
        for unfinished in running:
            unfinished.end()
        if running:
            await asyncio.wait(running)
        for attempt in running:
            if not attempt.cancelled() and attempt.exception() is None:
                attempt.result().close()
    if len(failures) == 1:
        raise failures[0]
    raise OSError("; ".join(map(str, failures)) or f"{host} has no address")


async def _addresses(host: str, port: int) -> list[Address]:
    """Returns all addresses in the resolver's order, alternating families; a literal address needs no resolver."""
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )
    except socket.gaierror:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families: dict[int, list[Address]] = {}
    for family, _, protocol, _, address in found:
        families.setdefault(family, []).append((family, protocol, address))
    return [one for one in chain.from_iterable(zip_longest(*families.values())) if one is not None]


async def _connected(family: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        sock.settimeout(0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await _connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(sock: socket.socket, address: tuple[object, ...]) -> None:
    """Connects like `loop.sock_connect`, of which uvloop's version starts four threads to resolve a literal address."""
    error = sock.connect_ex(address)
    if error == errno.EINPROGRESS:
        loop = asyncio.get_running_loop()
        decided = asyncio.Event()
        loop.add_writer(sock, decided.set)
        try:
            await decided.wait()
        finally:
            loop.remove_writer(sock)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, f"{os.strerror(error)}: {address[0]}")
