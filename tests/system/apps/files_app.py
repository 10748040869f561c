"""Activities that get and send files, for system tests."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from flowherd import ActivityContext, Registry, SyncActivityContext

registry = Registry()


@registry.activity
async def send(ctx: ActivityContext, folder: str, size: int) -> str:
    """Uploads so many bytes."""
    return await ctx.upload_file(_file_of(folder, size))


def _file_of(folder: str, size: int) -> Path:
    path = Path(folder, "sent.bin")
    path.write_bytes(b"x" * size)
    return path


@registry.activity
def hold(ctx: SyncActivityContext, reference: str, mark: str) -> int:
    """Downloads a file, reports its path, and holds it indefinitely in the first process that gets it."""
    got = ctx.download_file(reference)
    try:
        descriptor = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return got.stat().st_size
    os.write(descriptor, f"{os.getpid()} {got}".encode())
    os.close(descriptor)
    threading.Event().wait()
    return 0
