"""Files over the wire: against the embedded engine, a network that cuts, and servers that lie (F5, F6, F7)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from typing import TYPE_CHECKING

import pytest
from files_kit import WORKFLOW, cutting, engine_here, files_at
from scripted_engine import Play, envelope, scripted_engine

from flowherd.client.bearer_tokens import Token
from flowherd.errors import (
    FileChanged,
    FileMissing,
    FileTooLarge,
    FileTransferFailed,
    InvalidFile,
    StorageFailed,
)
from flowherd.files.transfers import MOST_TRANSFERS, TRIES

if TYPE_CHECKING:
    from pathlib import Path

REFERENCE = f"postgres://{WORKFLOW}/step/report.csv"
CONTENT = bytes(range(256)) * 2500  # ten chunks


@pytest.fixture
async def url():
    async with engine_here() as found:
        yield found


@pytest.fixture
async def server():
    async with scripted_engine() as found:
        yield found


@pytest.fixture
async def files(url, tmp_path):
    async with files_at(url, tmp_path / "temp") as found:
        yield found


@pytest.fixture
async def scripted(server, tmp_path):
    """Files whose engine plays a script; the route is the file's name."""
    async with files_at(server.url, tmp_path / "temp", stall_s=0.3) as found:
        yield found


def write(tmp_path: Path, content: bytes = CONTENT, name: str = "report.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def stored(size: int) -> Play:
    return Play(201, {"size": size})


@pytest.mark.parametrize("content", [CONTENT, b"", b"x", b"y" * 65_536])
async def test_a_file_goes_up_and_comes_down_byte_for_byte(files, tmp_path, content):
    reference = await files.context().upload_file(write(tmp_path, content), "report.csv")
    assert reference == REFERENCE
    for text in (reference, reference.removeprefix("postgres://")):
        got = await files.context(2).download_file(text)
        assert (got.name, got.read_bytes()) == ("report.csv", content)


@pytest.mark.parametrize(
    "name", ["../x", "a\\b", "n" * 300, "CON", "-rf", "trailing.", "é.txt", "a%2Fb", "a?b#c"]
)
async def test_f1_a_file_of_any_name_at_the_engine_is_stored_here_under_a_plain_one(files, url, name):
    """protocol.md §9.3: others name their files as they like; nothing is written outside the private folder."""
    import httpx

    from flowherd.sdk.file_reference import FileReference

    async with httpx.AsyncClient(base_url=url) as http:
        sent = FileReference(WORKFLOW, "other", name)
        assert (await http.post(sent.route, content=b"theirs")).status_code == 201
    ctx = files.context()
    if "/" in name:
        with pytest.raises(InvalidFile):
            await ctx.download_file(str(sent))
        assert files.on_disk() == []
        return
    got = await ctx.download_file(str(sent))
    assert got.read_bytes() == b"theirs"
    assert files.on_disk() == [got]


async def test_two_downloads_of_one_name_do_not_meet(files, tmp_path):
    ctx = files.context()
    reference = await ctx.upload_file(write(tmp_path), "report.csv")
    one, two = await asyncio.gather(ctx.download_file(reference), ctx.download_file(reference))
    assert one != two
    assert one.read_bytes() == two.read_bytes() == CONTENT


async def test_f9_two_iterations_keep_both_files_and_an_attempt_replaces_its_own(files, tmp_path):
    """The engine's key is the same in each iteration of a loop; only activity_id differs."""
    references = []
    for number, content in ((1, b"first"), (2, b"second"), (2, b"second again")):
        references.append(await files.context(number).upload_file(write(tmp_path, content)))
    assert references[0] != references[1] == references[2]
    reader = files.context(3)
    contents = [(await reader.download_file(reference)).read_bytes() for reference in references[:2]]
    assert contents == [b"first", b"second again"]


async def test_the_type_is_guessed_from_the_name_unless_it_is_given(server, scripted, tmp_path):
    ctx = scripted.context()
    for name, given in (("a.csv", None), ("a.unknown-kind", None), ("a.csv", "text/x-mine; charset=utf-8")):
        server.script(name, stored(len(CONTENT)))
        await ctx.upload_file(write(tmp_path), name, given)
    assert [request.headers["content-type"] for request in server.requests] == [
        "text/csv",
        "application/octet-stream",
        "text/x-mine; charset=utf-8",
    ]
    assert {request.headers["content-length"] for request in server.requests} == {str(len(CONTENT))}
    with pytest.raises(InvalidFile):
        await ctx.upload_file(write(tmp_path), "a.csv", "text/csv\r\nx-evil: 1")


@pytest.mark.parametrize("close_after", [90, 300, 100_000])
async def test_f5_a_truncated_download_is_fetched_again_from_the_start(server, scripted, close_after):
    """protocol.md §9.2: an error of the engine after its headers truncates the body."""
    server.script("report.csv", *[Play(200, CONTENT, close_after=close_after)] * 2, Play(200, CONTENT))
    got = await scripted.context().download_file(REFERENCE)
    assert got.read_bytes() == CONTENT
    assert len(server.of("report.csv")) == 3


@pytest.mark.parametrize(
    "play",
    [
        Play(200, CONTENT, close_after=100_000),
        Play(200, CONTENT, reset_after=100_000),
        Play(200, CONTENT, {"content-length": "700000"}, close=True),
        Play(raw=b"HTTP/1.1 200 OK\r\n\r\nno length", close=True),
        Play(raw=b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"),
        Play(200, b"\x1f\x8b", {"content-encoding": "gzip"}),
        Play(raw=b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n", close=True),
        Play(503, {}),
        Play(500, b"oops"),
        Play(401, {}),
    ],
)
async def test_f5_what_never_comes_whole_is_a_retryable_failure_without_a_file(server, scripted, play):
    server.always("report.csv", play)
    with pytest.raises(FileTransferFailed, match=f"download failed after {TRIES} tries") as caught:
        await scripted.context().download_file(REFERENCE)
    assert (caught.value.code, caught.value.retryable) == ("FILE_TRANSFER", True)
    # a try on a connection that the server has just closed is one that it never sees
    assert TRIES - 1 <= len(server.of("report.csv")) <= TRIES
    assert scripted.on_disk() == []


async def test_f5_bytes_beyond_the_announced_length_are_not_taken(server, scripted):
    server.script("report.csv", Play(200, b"right, and more", {"content-length": "5"}, close=True))
    assert (await scripted.context().download_file(REFERENCE)).read_bytes() == b"right"


@pytest.mark.parametrize(
    "receipt", [stored(3), Play(201, {}), Play(200, b"<html>"), Play(200, {"size": "x"}), Play(503, {})]
)
async def test_an_upload_counts_only_when_the_engine_has_stored_its_whole_length(
    server, scripted, tmp_path, receipt
):
    server.script("a.csv", receipt, stored(len(CONTENT)))
    await scripted.context().upload_file(write(tmp_path), "a.csv")
    assert [request.body for request in server.of("a.csv")] == [CONTENT, CONTENT]


@pytest.mark.parametrize("cuts", [(1,), (40_000,), (200_000, 600_000), (300_000, 1, 300_000)])
async def test_f7_an_upload_whose_connection_dies_is_sent_again_from_the_start(url, tmp_path, cuts):
    """The engine's upload is one transaction: a broken one leaves nothing, the same name overwrites."""
    async with cutting(url, *cuts) as way, files_at(way, tmp_path / "temp") as files:
        reference = await files.context().upload_file(write(tmp_path), "report.csv")
        got = await files.context().download_file(reference)
        assert hashlib.sha256(got.read_bytes()).digest() == hashlib.sha256(CONTENT).digest()


async def test_f7_an_engine_that_stays_away_ends_in_a_retryable_failure(tmp_path):
    async with files_at("http://127.0.0.1:1", tmp_path / "temp") as files:
        with pytest.raises(FileTransferFailed, match=f"upload failed after {TRIES} tries: ConnectError"):
            await files.context().upload_file(write(tmp_path), "a.csv")


@pytest.mark.parametrize(
    ("play", "error"),
    [
        (envelope(404, "NOT_FOUND", "Not found: File 'report.csv' not found"), FileMissing),
        (envelope(400, "VALIDATION_ERROR", "bad"), InvalidFile),
        (Play(413, b"Failed to buffer the request body: length limit exceeded"), FileTooLarge),
        (Play(200, b"x", {"content-length": str(65 << 20)}, close=True), FileTooLarge),
    ],
)
async def test_what_does_not_pass_by_itself_is_not_tried_again(server, scripted, play, error):
    """F6, protocol.md R12: neither a redirect nor a huge answer is followed."""
    server.always("report.csv", play)
    with pytest.raises(error):
        await scripted.context().download_file(REFERENCE)
    assert len(server.of("report.csv")) == 1
    assert scripted.on_disk() == []


@pytest.mark.parametrize("status", [302, 400, 403, 404, 405, 409, 413, 415, 422, 451])
async def test_a_proxys_answer_about_a_file_is_no_verdict(server, scripted, status):
    """N7: a proxy's 404 is no FILE_NOT_FOUND, whatever it echoes."""
    foreign = Play(status, b"<html>Not found: File 'report.csv' not found</html>")
    server.script("report.csv", *[foreign] * (TRIES - 1), Play(200, CONTENT))
    assert (await scripted.context().download_file(REFERENCE)).read_bytes() == CONTENT
    server.always("report.csv", foreign)
    error = FileTooLarge if status == 413 else FileTransferFailed
    with pytest.raises(error, match=f"status {status}"):
        await scripted.context().download_file(REFERENCE)
    assert len(server.of("report.csv")) == 2 * TRIES


async def test_a_page_in_the_place_of_a_file_is_no_file(server, scripted):
    """N22: a login page has a length too; the engine sends every file as an attachment (protocol.md §9.2)."""
    page = {"content-type": "text/html; charset=utf-8"}
    file = {**page, "content-disposition": 'attachment; filename="report.csv"'}
    server.script(
        "report.csv", Play(200, b"<html>log in</html>", page), Play(200, b"<html>a file</html>", file)
    )
    assert (await scripted.context().download_file(REFERENCE)).read_bytes() == b"<html>a file</html>"
    server.always("report.csv", Play(200, b"<html>log in</html>", page))
    with pytest.raises(FileTransferFailed, match="status 200: <html>log in") as raised:
        await scripted.context().download_file(REFERENCE)
    assert raised.value.retryable


async def test_a_download_that_stalls_fails_its_try(server, scripted):
    hold = asyncio.Event()
    server.script("report.csv", Play(200, CONTENT, hold=hold), Play(200, CONTENT))
    got = await scripted.context().download_file(REFERENCE)
    hold.set()
    assert got.read_bytes() == CONTENT
    assert len(server.of("report.csv")) == 2


@contextlib.asynccontextmanager
async def dripping(*downloads: tuple[int, int], every_s: float = 0.05):
    """A server whose n-th download comes in the given number and size of drops; yields URL and connections."""
    waiting, connections = list(downloads), []

    async def serve(reader, writer):
        connections.append(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):  # the client gave up
                while True:
                    await reader.readuntil(b"\r\n\r\n")
                    drops, size = waiting.pop(0)
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (drops * size))
                    for _ in range(drops):
                        await asyncio.sleep(every_s)
                        writer.write(b"x" * size)
                        await writer.drain()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections
    finally:
        server.close()


async def test_a_download_whose_bytes_move_may_take_longer_than_a_stall(tmp_path):
    """The deadline follows the bytes, so that a limit of size needs no limit of time."""
    async with dripping((20, 8192)) as (url, connections), files_at(url, tmp_path, stall_s=0.5) as files:
        got = await files.context().download_file(REFERENCE)
        assert got.stat().st_size == 163_840
        assert len(connections) == 1


async def test_a_download_slower_than_the_least_rate_fails_its_try(tmp_path):
    """Otherwise a peer that sends a byte now and then would hold a transfer and a transaction indefinitely."""
    async with dripping((60, 1), (1, 5)) as (url, _), files_at(url, tmp_path, stall_s=0.5) as files:
        got = await files.context().download_file(REFERENCE)
        assert got.stat().st_size == 5


async def test_waiting_for_a_turn_is_no_stall(tmp_path, caplog):
    """More transfers than may be under way at once, each longer than a stall: nothing fails, nothing is repeated."""
    many = [(12, 8192)] * (2 * MOST_TRANSFERS)
    with caplog.at_level(logging.INFO):
        async with dripping(*many) as (url, _), files_at(url, tmp_path, stall_s=0.4) as files:
            ctx = files.context()
            await asyncio.gather(*(ctx.download_file(REFERENCE) for _ in many))
    assert "file_transfer_failed" not in caplog.text


async def test_no_more_than_a_few_transfers_are_under_way_at_once(server, tmp_path):
    """protocol.md §9.1: each holds a transaction of the engine's database."""
    hold = asyncio.Event()
    server.always("report.csv", Play(200, b"x", hold=hold))
    async with files_at(server.url, tmp_path / "temp") as files:
        ctx = files.context()
        running = [asyncio.create_task(ctx.download_file(REFERENCE)) for _ in range(3 * MOST_TRANSFERS)]
        await server.asked("report.csv", MOST_TRANSFERS)
        asked_at_once = len(server.of("report.csv"))
        hold.set()
        await asyncio.gather(*running)
    assert (asked_at_once, server.connections) == (MOST_TRANSFERS, MOST_TRANSFERS)


class _Tokens:
    """Two tokens; after a refusal of the first comes the second."""

    async def current(self):
        return Token(1, "old")

    async def renewed(self, refused):
        return Token(refused.version + 1, "new")


async def test_a_refused_token_is_renewed_and_the_whole_body_sent_again(server, tmp_path):
    """protocol.md §1.5: 401 means renew and replay once, also for an upload that has been read already."""
    server.script("a.csv", Play(401, {}), stored(len(CONTENT)))
    async with files_at(server.url, tmp_path / "temp", _Tokens()) as files:
        await files.context().upload_file(write(tmp_path), "a.csv")
    sent = [(request.headers["authorization"], request.body) for request in server.of("a.csv")]
    assert sent == [("Bearer old", CONTENT), ("Bearer new", CONTENT)]


async def test_f10_a_file_that_is_written_to_meanwhile_is_not_stored(url, tmp_path):
    """The old file stays: the engine sees a broken body, never a mixture."""
    path = write(tmp_path, b"x" * (8 << 20))
    async with files_at(url, tmp_path / "temp") as files:
        old = await files.context().upload_file(write(tmp_path, b"old", "old.csv"), "report.csv")
        sending = asyncio.create_task(files.context().upload_file(path, "report.csv"))
        while not sending.done():
            with path.open("ab") as file:
                file.write(b"more")
            await asyncio.sleep(0)
        with pytest.raises(FileChanged):
            await sending
        assert (await files.context().download_file(old)).read_bytes() == b"old"


async def test_f4_a_temp_dir_that_cannot_be_used_fails_the_download_alone(url, tmp_path):
    blocked = write(tmp_path, name="blocked")
    async with files_at(url, blocked) as files:
        ctx = files.context()
        reference = await ctx.upload_file(write(tmp_path), "report.csv")
        with pytest.raises(StorageFailed) as caught:
            await ctx.download_file(reference)
    assert (caught.value.code, caught.value.retryable) == ("STORAGE", True)
