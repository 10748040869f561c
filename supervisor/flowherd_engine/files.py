"""Files of activities: raw upload, streamed download (protocol.md §9); the content is in the database."""

import sqlite3
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from . import request_bodies
from .clock import iso
from .engine import Engine
from .replies import json_reply, not_found

CHUNK = 262_144


class FilesApi:
    """Upload and download; an upload becomes visible in one transaction at its end, a broken one leaves nothing."""

    def __init__(self, engine: Engine) -> None:
        self._database = engine.database
        self._clock = engine.clock

    async def upload(self, request: Request) -> Response:
        """Stores the raw body under its name, replacing an earlier file (protocol.md §9.1)."""
        workflow_id, key, filename = _address(request)
        content_type = request.headers.get("content-type")
        now_s = self._clock.now_s()
        seq = await self._database.transact(_begin, (workflow_id, key, filename), content_type, now_s)
        try:
            size = await self._receive(request, seq)
        except BaseException:
            await self._database.transact(_drop, seq)
            raise
        await self._database.transact(_finish, seq, size)
        document = {
            "workflow_id": workflow_id,
            "activity_key": key,
            "filename": filename,
            "size": size,
            "content_type": content_type,
            "created_at": iso(now_s),
        }
        return json_reply(document, 201)

    async def _receive(self, request: Request, seq: int) -> int:
        size, n, pending = 0, 0, bytearray()
        more = True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            pending += message.get("body", b"")
            more = message.get("more_body", False)
            if pending and (len(pending) >= CHUNK or not more):
                await self._database.transact(_append, seq, n, bytes(pending))
                size, n = size + len(pending), n + 1
                pending.clear()
        return size

    async def download(self, request: Request) -> Response:
        """Streams a file with its length (protocol.md §9.2).

        Raises:
            ApiError: 404.

        """
        workflow_id, key, filename = _address(request)
        found = await self._database.transact(_find, workflow_id, key, filename)
        if found is None:
            raise not_found(f"File '{filename}' not found")
        seq, size, content_type = found
        headers = {
            "content-type": content_type or "application/octet-stream",
            "content-length": str(size),
            "content-disposition": _disposition(filename),
        }
        return StreamingResponse(self._chunks(seq), headers=headers)

    async def _chunks(self, seq: int) -> AsyncIterator[bytes]:
        n = 0
        while True:
            chunk = await self._database.transact(_chunk, seq, n)
            if (
                chunk is None
            ):  # the end, or overwritten, which the client sees by the length (protocol.md §9.2)
                return
            yield chunk
            n += 1


def listing(connection: sqlite3.Connection, workflow_id: str, key: str) -> list[dict[str, Any]]:
    """Returns the files of one activity in the form of its output."""
    rows = connection.execute(
        "SELECT filename, size, content_type FROM files"
        " WHERE workflow_id = ? AND activity_key = ? AND complete = 1 ORDER BY filename",
        (workflow_id, key),
    )
    base = f"/api/v1/workflows/{workflow_id}/activities/{key}/files"
    return [
        {
            "filename": filename,
            "size": size,
            "content_type": content_type,
            "download_url": f"{base}/{quote(filename, safe='')}",
        }
        for filename, size, content_type in rows
    ]


def _address(request: Request) -> tuple[str, str, str]:
    """Returns the three names in the path; an encoded slash in the file name becomes a slash (protocol.md §9.3)."""
    workflow_id = request_bodies.path_uuid(request, "workflow_id")
    raw: bytes = request.scope["raw_path"]
    filename = unquote(raw.rsplit(b"/", 1)[-1].decode("ascii", "replace"))
    return workflow_id, request.path_params["activity_key"], filename


def _disposition(filename: str) -> str:
    if filename.isascii() and filename.isprintable() and '"' not in filename:
        return f'attachment; filename="{filename}"'
    return f"attachment; filename*=UTF-8''{quote(filename, safe='')}"


def _begin(
    connection: sqlite3.Connection, address: tuple[str, str, str], content_type: str | None, now_s: float
) -> int:
    cursor = connection.execute(
        "INSERT INTO files (workflow_id, activity_key, filename, content_type, created_s)"
        " VALUES (?, ?, ?, ?, ?)",
        (*address, content_type, now_s),
    )
    return cursor.lastrowid or 0


def _append(connection: sqlite3.Connection, seq: int, n: int, data: bytes) -> None:
    connection.execute("INSERT INTO file_chunks VALUES (?, ?, ?)", (seq, n, data))


def _finish(connection: sqlite3.Connection, seq: int, size: int) -> None:
    older = connection.execute(
        "SELECT old.seq FROM files old JOIN files new USING (workflow_id, activity_key, filename)"
        " WHERE new.seq = ? AND old.complete = 1",
        (seq,),
    ).fetchall()
    for (old,) in older:
        _drop(connection, old)
    connection.execute("UPDATE files SET complete = 1, size = ? WHERE seq = ?", (size, seq))


def _drop(connection: sqlite3.Connection, seq: int) -> None:
    connection.execute("DELETE FROM file_chunks WHERE file_seq = ?", (seq,))
    connection.execute("DELETE FROM files WHERE seq = ?", (seq,))


def _find(
    connection: sqlite3.Connection, workflow_id: str, key: str, filename: str
) -> tuple[int, int, str | None] | None:
    row: tuple[int, int, str | None] | None = connection.execute(
        "SELECT seq, size, content_type FROM files"
        " WHERE workflow_id = ? AND activity_key = ? AND filename = ? AND complete = 1",
        (workflow_id, key, filename),
    ).fetchone()
    return row


def _chunk(connection: sqlite3.Connection, seq: int, n: int) -> bytes | None:
    row = connection.execute("SELECT data FROM file_chunks WHERE file_seq = ? AND n = ?", (seq, n)).fetchone()
    return None if row is None else row[0]
