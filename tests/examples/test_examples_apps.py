"""The examples of whole apps: a database, a stock worker, a definition with fan-out, failures in Sentry."""

from __future__ import annotations

import gzip
import json
import runpy
import sqlite3
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from examples_kit import EXAMPLES
from harness import eventually
from scripted_http import Reply, scripted_server

from flowherd.testing import run_activity

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from examples_kit import Example
    from scripted_http import ScriptedServer

pytestmark = pytest.mark.timeout(150)  # several programs, one after the other


def test_parts_are_counted_side_by_side_and_merged(run_example: Callable[..., Example]) -> None:
    output = run_example("fan_out").submit()["output"]
    assert output["merge"] == {"words": {"to": 2, "be": 2}}
    assert output["split"]["parts"] == ["to not", "be to", "or be"]
    assert output["count_3"]["counts"] == {"or": 1, "be": 1}


def test_orders_of_two_processes_are_counted(run_example: Callable[..., Example]) -> None:
    example = run_example("sqlalchemy_app", DATABASE_URL="sqlite+aiosqlite:///shop.db")
    first, second = example.start(item="nail", cents=5), example.start(item="hammer", cents=900)
    for workflow in (first, second):
        assert example.engine.ended(workflow)["status"] == "completed"
    last = example.submit()["output"]
    assert last["turnover"] == {"orders": 3, "cents": 910}
    with sqlite3.connect(example.folder / "shop.db") as database:
        rows = database.execute("select key, item, cents from orders where item = 'nail'").fetchall()
    assert (last["place"]["order"], "nail", 5) in rows


async def test_an_order_whose_report_was_lost_is_not_placed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second attempt has the id of the first, which has committed; another activity has another id."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}")
    app = runpy.run_path(str(EXAMPLES / "sqlalchemy_app" / "shop.py"))
    async with app["lifespan"]() as sessions:
        async with sessions.kw["bind"].begin() as connection:
            await connection.run_sync(app["Base"].metadata.create_all)
        for number in (1, 1, 2):
            order = {"item": "nail", "cents": 5}
            assert (await run_activity(app["place_order"], order, state=sessions, number=number)).output
        assert (await run_activity(app["turnover"], state=sessions)).output == {"orders": 2, "cents": 10}


def test_a_stock_worker_runs_as_it_is(run_example: Callable[..., Example]) -> None:
    example = run_example("stock_worker")
    assert example.submit(below=30)["output"]["count"] == {"primes": 10}


def events(server: ScriptedServer) -> list[dict[str, Any]]:
    """The events in the envelopes that have come: each follows a line that names its type."""
    found = []
    for request in server.seen:
        packed = request.headers.get("content-encoding") == "gzip"
        lines = (gzip.decompress(request.body) if packed else request.body).splitlines()
        for head, body in pairwise(lines):
            if json.loads(head).get("type") == "event":
                found.append(json.loads(body))
    return found


def test_sentry_hears_of_a_failure_once_with_the_ids_of_its_workflow(
    run_example: Callable[..., Example],
) -> None:
    with scripted_server({"/api/1/envelope/": Reply(body="{}")}) as server:
        dsn = server.url.replace("http://", "http://public@") + "/1"
        example = run_example("sentry", SENTRY_DSN=dsn)
        failed = example.submit()
        eventually(lambda: events(server), "an event")
        example.host.stop()
    [event] = events(server)
    assert failed["error"] == "float division by zero"
    assert event["tags"] == {"workflow_id": failed["id"], "activity_name": "divide"}
    [raised] = event["exception"]["values"]
    assert raised["type"] == "ZeroDivisionError"
    assert raised["stacktrace"]["frames"][-1]["function"] == "divide"
    assert "vars" not in raised["stacktrace"]["frames"][-1]
