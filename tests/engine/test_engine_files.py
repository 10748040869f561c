"""Files: protocol.md §9, C13."""

from __future__ import annotations

import pytest

WORKFLOW = "01930000-0000-7000-8000-000000000000"
BASE = f"/api/v1/workflows/{WORKFLOW}/activities/resize/files"


async def test_an_upload_is_raw_and_comes_back_whole(api):
    content = bytes(range(256)) * 3000  # three chunks
    sent = await api.http.post(f"{BASE}/t.png", content=content, headers={"content-type": "image/png"})
    assert sent.status_code == 201
    assert sent.json() == {
        "workflow_id": WORKFLOW,
        "activity_key": "resize",
        "filename": "t.png",
        "size": len(content),
        "content_type": "image/png",
        "created_at": sent.json()["created_at"],
    }
    got = await api.http.get(f"{BASE}/t.png")
    assert (got.status_code, got.content) == (200, content)
    assert got.headers["content-length"] == str(len(content))
    assert got.headers["content-type"] == "image/png"
    assert got.headers["content-disposition"] == 'attachment; filename="t.png"'


async def test_an_empty_file_without_a_type_is_a_file(api):
    sent = await api.http.post(f"{BASE}/e")
    assert (sent.status_code, sent.json()["content_type"], sent.json()["size"]) == (201, None, 0)
    got = await api.http.get(f"{BASE}/e")
    assert (got.content, got.headers["content-type"]) == (b"", "application/octet-stream")


async def test_the_same_name_overwrites_and_leaves_nothing_behind(api):
    await api.http.post(f"{BASE}/f", content=b"old" * 200_000)
    await api.http.post(f"{BASE}/f", content=b"new")
    assert (await api.http.get(f"{BASE}/f")).content == b"new"
    count = await api.engine.database.transact(
        lambda connection: connection.execute("SELECT count(*) FROM file_chunks").fetchone()
    )
    assert count == (1,)


async def test_an_unknown_file_is_a_404_in_the_servers_words(api):
    reply = await api.http.get(f"{BASE}/none.txt")
    assert (reply.status_code, reply.json()["error"]["message"]) == (
        404,
        "Not found: File 'none.txt' not found",
    )


@pytest.mark.parametrize(
    "name", ["a%2Fb", "..%2F..%2Fetc", "%2E%2E", "%5C", "-rf", "n" * 300, "%C3%A9", "%0Ax"]
)
async def test_hostile_names_are_only_names(api, name):
    """protocol.md §9.3: a name is one decoded segment, whatever it says."""
    assert (await api.http.post(f"{BASE}/{name}", content=b"x")).status_code == 201
    got = await api.http.get(f"{BASE}/{name}")
    assert (got.status_code, got.content) == (200, b"x")
    assert "\n" not in got.headers["content-disposition"]


async def test_a_broken_upload_leaves_the_old_file(api):
    """protocol.md §9.1: atomic."""
    await api.http.post(f"{BASE}/f", content=b"old")

    async def breaking():
        yield b"new" * 200_000
        raise ConnectionResetError

    assert (await api.http.post(f"{BASE}/f", content=breaking())).status_code == 500
    assert (await api.http.get(f"{BASE}/f")).content == b"old"
    count = await api.engine.database.transact(
        lambda connection: connection.execute("SELECT count(*) FROM files").fetchone()
    )
    assert count == (1,)


async def test_the_activitys_output_lists_its_files(api, step):
    workflow_id = await api.run(step())
    await api.http.post(f"/api/v1/workflows/{workflow_id}/activities/a/files/b c", content=b"x")
    await api.complete(await api.claim())
    found = (await api.http.get(f"/api/v1/workflows/{workflow_id}/activities/a/output")).json()["files"]
    url = f"/api/v1/workflows/{workflow_id}/activities/a/files/b%20c"
    assert found == [{"filename": "b c", "size": 1, "content_type": None, "download_url": url}]
