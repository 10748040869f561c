"""Finds threads, sockets and devices of an imported app that do not survive a fork."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowherd.user_code import threads

if TYPE_CHECKING:
    from collections.abc import Iterator

_FDS, _THREADS = Path("/proc/self/fd"), Path("/proc/self/task")
_CUDA_DEVICES = "/dev/nvidia"  # a library that has initialised CUDA keeps one open


def open_sockets() -> dict[str, int]:
    """Maps the kernel's name of each open socket of this process to its descriptor."""
    return {name: fd for name, fd in _descriptors() if name.startswith("socket:")}


def found(sockets_before: dict[str, int]) -> Iterator[str]:
    """Yields a phrase for each hazard; call it after a fork, at which some libraries stop their threads.

    Args:
        sockets_before: the result of `open_sockets` before the app was imported.

    """
    for name in _threads():
        yield f"the thread {name}"
    for name, fd in open_sockets().items():
        if name not in sockets_before:
            yield f"a socket, {_peer(fd)}"
    if _cuda_is_initialised():
        yield "CUDA, which has been initialised"


def _threads() -> list[str]:
    """Returns name and current line of all threads but the main one; threads of C libraries have a kernel's name."""
    pythons = threads()
    names = []
    for task in sorted(_THREADS.iterdir()):
        with contextlib.suppress(OSError):  # it has just ended
            if task.name == str(os.getpid()):
                continue
            kernels = (task / "comm").read_text(encoding="utf-8", errors="replace").strip()
            names.append(pythons.get(int(task.name), kernels))
    return names


def _descriptors() -> Iterator[tuple[str, int]]:
    for entry in list(_FDS.iterdir()):
        with contextlib.suppress(OSError):  # the one that lists the folder
            yield str(entry.readlink()), int(entry.name)


def _peer(fd: int) -> str:
    """Describes the peer of a socket, else its own address."""
    with socket.socket(fileno=os.dup(fd)) as one:
        for way, look in (("connected to", one.getpeername), ("bound to", one.getsockname)):
            with contextlib.suppress(OSError):
                if address := _address(look()):
                    return f"{way} {address}"
    return "not connected"


def _address(raw: Any) -> str:
    if isinstance(raw, tuple):
        host, port = raw[:2]
        return f"{host}:{port}" if port else ""
    return os.fsdecode(raw) if isinstance(raw, str | bytes) else ""


def _cuda_is_initialised() -> bool:
    with contextlib.suppress(Exception):  # a partly imported library
        torch: Any = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            return True
    return any(name.startswith(_CUDA_DEVICES) for name, _ in _descriptors())
