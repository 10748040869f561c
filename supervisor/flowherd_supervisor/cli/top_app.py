"""The live view of `flowherd top`, on textual: draws the news of its feed and sends keys as orders."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import DataTable, Footer, RichLog, Static, TabbedContent, TabPane

from flowherd.logs import visible
from flowherd_supervisor.cli.status import COLUMNS, cells, headline
from flowherd_supervisor.cli.status_tables import ACTIVITY_COLUMNS, activity_cells, failure_lines, now_lines
from flowherd_supervisor.cli.top_feed import Failures, Feed, Happened, Silent, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

TABS = ("activities", "processes", "now", "failures")
_MOST_NOW = 100
_STYLES = {"error": "bold red", "warning": "yellow"}
_NOT_SHOWN = frozenset({"id", "at", "level", "event", "status"})


class TopApp(App[None]):
    """Tables above, events below; `+` and `-` scale, `p` pauses polling, `r` reloads, `q` leaves.

    The keys 1 to 4 show activities, processes, running and waiting attempts, and failures.

    Args:
        feed: source of news and receiver of orders.

    """

    TITLE = "flowherd"
    CSS = """
    #headline { height: auto; padding: 0 1; }
    #tables { height: 1fr; min-height: 7; }
    #tables DataTable { height: 1fr; }
    #tables TabPane { padding: 0; }
    #now, #failures { height: auto; padding: 0 1; }
    #events { height: 25%; min-height: 4; border-top: solid $secondary; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "leave"),
        *(Binding(str(n), f"show('{name}')", name, show=False) for n, name in enumerate(TABS, 1)),
        Binding("plus", "scale(1)", "one more", key_display="+"),
        Binding("minus", "scale(-1)", "one fewer", key_display="-"),
        Binding("p", "polling", "pause or resume"),
        Binding("r", "order('reload')", "reload"),
        Binding("s", "order('stacks')", "stacks to log"),
    ]

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self._feed = feed
        self._document: Mapping[str, Any] = {}

    def compose(self) -> ComposeResult:
        """Yields the widgets from top to bottom."""
        yield Static("looking …", id="headline")
        with TabbedContent(id="tables", initial="tab-activities"):
            with TabPane("1 activities", id="tab-activities"):
                yield DataTable[Text](id="activities", cursor_type="none", zebra_stripes=True)
            with TabPane("2 processes", id="tab-processes"):
                yield DataTable[Text](id="processes", cursor_type="none", zebra_stripes=True)
            with TabPane("3 now", id="tab-now"), VerticalScroll():
                yield Static("nothing runs", id="now")
            with TabPane("4 failures", id="tab-failures"), VerticalScroll():
                yield Static("nothing has failed", id="failures")
        yield RichLog(id="events", wrap=False, max_lines=500)
        yield Footer()

    def on_mount(self) -> None:
        """Sets up the tables and starts to read the feed."""
        self._table("#processes").add_columns(*COLUMNS)
        self._table("#activities").add_columns(*ACTIVITY_COLUMNS)
        self._listen()

    def _table(self, name: str) -> DataTable[Text]:
        return self.query_one(name, DataTable)

    @work(exclusive=True)
    async def _listen(self) -> None:
        async for news in self._feed.news():
            match news:
                case Status(document):
                    self._show(document)
                case Happened(event):
                    self.query_one("#events", RichLog).write(line_of(event))
                case Failures(failures):
                    self.query_one("#failures", Static).update(Text("\n".join(failure_lines(failures))))
                case Silent(reason):
                    self.query_one("#headline", Static).update(
                        Text(f"no answer: {reason}; trying again", style="bold red")
                    )

    def _show(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self.query_one("#headline", Static).update(Text("\n".join(headline(document))))
        self.query_one("#now", Static).update(Text("\n".join(now_lines(document, _MOST_NOW))))
        activities = self._table("#activities")
        activities.clear()
        for row in document.get("by_activity", ()):
            style = "yellow" if row["change"] else ""
            name, *figures = activity_cells(row)
            activities.add_row(Text(name, style), *(Text(cell, style, justify="right") for cell in figures))
        table = self._table("#processes")
        table.clear()
        for row in document["children"]:
            style = "" if row["phase"] == "running" else "yellow"
            table.add_row(*(Text(cell, style=style, justify="right") for cell in cells(row)))

    # Keys

    def action_show(self, name: str) -> None:
        """Brings one of the tables to the front."""
        self.query_one(TabbedContent).active = f"tab-{name}"

    async def action_order(self, name: str) -> None:
        """Sends an order without arguments."""
        self.notify(await self._feed.order(name))

    async def action_polling(self) -> None:
        """Pauses polling, or resumes it."""
        await self.action_order("quiet" if self._document.get("polling", True) else "resume")

    async def action_scale(self, step: int) -> None:
        """Asks for one process more or fewer."""
        if self._document:
            wanted = self._document["processes"]["wanted"] + step
            self.notify(await self._feed.order("scale", wanted))


def line_of(event: Mapping[str, Any]) -> Text:
    """Formats an event as one line of time, name and fields; its text is never read as markup."""
    known = "  ".join(
        f"{name}={visible(str(value))}" for name, value in event.items() if name not in _NOT_SHOWN
    )
    when = time.strftime("%H:%M:%S", time.localtime(event["at"]))
    return Text(
        f"{when}  {visible(event['event']):<24} {known}", style=_STYLES.get(event["level"], ""), end=""
    )
