"""`flowherd top`: its display of news, the orders of its keys, and its output without a terminal."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("textual", reason="the live view is an extra: pip install 'flowherd[top]'")

from status_kit import CHILD, DOCUMENT, FAILURE, FLOW
from textual.widgets import DataTable, RichLog, Static, TabbedContent

from flowherd.errors import ConfigurationError
from flowherd_supervisor.cli.top import top
from flowherd_supervisor.cli.top_app import TopApp, line_of
from flowherd_supervisor.cli.top_feed import Failures, Happened, News, Silent, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DIED = {
    "id": 7,
    "at": 1.0,
    "level": "warning",
    "event": "process_died",
    "process": 1,
    "how": "was killed by SIGKILL",
}


class Told:
    """A feed with the news that a test gives it."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[News] = asyncio.Queue()
        self.orders: list[tuple[str, int | None]] = []

    async def news(self) -> AsyncIterator[News]:
        while True:
            yield await self.queue.get()
            self.queue.task_done()

    async def order(self, name: str, processes: int | None = None) -> str:
        self.orders.append((name, processes))
        return "accepted"

    async def tell(self, *news: News) -> None:
        for one in news:
            self.queue.put_nowait(one)
        async with asyncio.timeout(10):
            await self.queue.join()


def shown(app: TopApp, name: str) -> str:
    return str(app.query_one(name, Static).render())


async def test_it_shows_every_process_and_every_event_as_it_comes() -> None:
    """A killed process is visible, with its cause named."""
    feed = Told()
    app = TopApp(feed)
    async with app.run_test(size=(120, 40)) as pilot:
        await feed.tell(Status(DOCUMENT | {"children": [CHILD, CHILD | {"process": 1, "phase": "starting"}]}))
        await feed.tell(Happened(DIED))
        await pilot.pause()
        table = app.query_one("#processes", DataTable)
        assert table.row_count == 2
        assert str(table.get_row_at(1)[2]) == "starting"
        events = "\n".join(line.text for line in app.query_one("#events", RichLog).lines)
        assert "process_died" in events
        assert "process=1  how=was killed by SIGKILL" in events
        assert "processes ready" in shown(app, "#headline")
        await feed.tell(Status(DOCUMENT | {"children": [CHILD]}))
        await pilot.pause()
        assert table.row_count == 1


async def test_its_tables_come_with_a_key_each_and_fit_80_columns() -> None:
    """Activities first; then processes, what runs and waits, what failed."""
    feed = Told()
    app = TopApp(feed)
    async with app.run_test(size=(80, 24)) as pilot:
        await feed.tell(Status(DOCUMENT), Failures([FAILURE, FAILURE | {"message": "[bold]x"}]))
        await pilot.pause()
        tabs = app.query_one(TabbedContent)
        assert tabs.active == "tab-activities"
        assert [str(cell) for cell in app.query_one("#activities", DataTable).get_row_at(0)][:4] == [
            "resize", "2", "0", "17",
        ]  # fmt: skip
        for key, name in (("2", "processes"), ("3", "now"), ("4", "failures"), ("1", "activities")):
            await pilot.press(key)
            await pilot.pause()
            assert tabs.active == f"tab-{name}"
        assert "waits for a slot" in shown(app, "#now")
        assert FLOW in shown(app, "#now")
        assert "ValueError: no such size" in shown(app, "#failures")
        assert "ValueError: [bold]x" in shown(app, "#failures")
        assert "app shop:registry on host worker-3" in shown(app, "#headline")
        for table in ("#activities", "#processes"):
            assert app.query_one(table, DataTable).virtual_size.width <= 80, table


async def test_a_missing_answer_is_shown_until_the_next_one_comes() -> None:
    """The process that serves it is replaced now and then."""
    feed = Told()
    app = TopApp(feed)
    async with app.run_test(size=(120, 40)) as pilot:
        await feed.tell(Silent("connection refused"))
        await pilot.pause()
        assert "no answer: connection refused" in shown(app, "#headline")
        await feed.tell(Status(DOCUMENT))
        await pilot.pause()
        assert "nobody" not in shown(app, "#headline")


async def test_keys_are_orders() -> None:
    """One more or fewer than the wanted number, not than the running one."""
    feed = Told()
    app = TopApp(feed)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press("plus")  # no order before the first status
        await feed.tell(Status(DOCUMENT | {"processes": {"wanted": 4, "ready": 2}, "polling": True}))
        await pilot.press("plus", "minus", "p", "r", "s")
        await feed.tell(Status(DOCUMENT | {"polling": False}))
        await pilot.press("p", "q")
    assert feed.orders == [
        ("scale", 5), ("scale", 3), ("quiet", None), ("reload", None), ("stacks", None), ("resume", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\x1b[31mred", r"name=a\x1b[31mred"),
        ("[bold]x[/]", "name=[bold]x[/]"),
        ("one\ntwo", r"name=one\ntwo"),
    ],
)
def test_s6_no_name_reaches_the_terminal_as_more_than_text(value: str, text: str) -> None:
    """Faults S6: the names of activities come from users."""
    line = line_of(DIED | {"name": value})
    assert text in line.plain
    assert line.spans == []


class Terminal:
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_without_its_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing extra must not cause a traceback."""
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.delitem(sys.modules, "flowherd_supervisor.cli.top_app", raising=False)
    monkeypatch.setitem(sys.modules, "textual", None)
    with pytest.raises(
        ConfigurationError, match=r"pip install 'flowherd\[top\]', or use flowherd top --once"
    ):
        top(admin="127.0.0.1:1", pid=None, once=False)
