"""The live view of `flowherd top`, on textual: draws what its feed tells and passes keys on as orders; no more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Footer, RichLog, Static

from flowherd.logs import visible
from flowherd_supervisor.cli.status import COLUMNS, cells, headline
from flowherd_supervisor.cli.top_feed import Feed, Happened, Silent, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

_STYLES = {"error": "bold red", "warning": "yellow"}
_NOT_SHOWN = frozenset({"id", "at", "level", "event", "status"})


class TopApp(App[None]):
    """Processes above, events below; `+` and `-` scale, `p` pauses polling, `r` reloads, `q` leaves.

    Args:
        feed: where the news come from and the orders go.

    """

    TITLE = "flowherd"
    CSS = """
    #headline { height: auto; padding: 0 1; }
    #processes { height: 1fr; min-height: 5; }
    #events { height: 12; border-top: solid $secondary; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "leave"),
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
        """The parts, from top to bottom."""
        yield Static("looking …", id="headline")
        yield DataTable[Text](id="processes", cursor_type="none", zebra_stripes=True)
        yield RichLog(id="events", wrap=False, max_lines=500)
        yield Footer()

    def on_mount(self) -> None:
        """Starts to listen."""
        self._table.add_columns(*COLUMNS)
        self._listen()

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one("#processes", DataTable)

    @work(exclusive=True)
    async def _listen(self) -> None:
        async for news in self._feed.news():
            match news:
                case Status(document):
                    self._show(document)
                case Happened(event):
                    self.query_one("#events", RichLog).write(line_of(event))
                case Silent(reason):
                    self.query_one("#headline", Static).update(
                        Text(f"nobody answers: {reason}; trying again", style="bold red")
                    )

    def _show(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self.query_one("#headline", Static).update(Text("\n".join(headline(document))))
        table = self._table
        table.clear()
        for row in document["children"]:
            style = "" if row["phase"] == "running" else "yellow"
            table.add_row(*(Text(cell, style=style, justify="right") for cell in cells(row)))

    # Keys

    async def action_order(self, name: str) -> None:
        """Gives an order that needs nothing else."""
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
    """An event on one line: time of day, name, and what is known of it; nothing in it is taken for markup."""
    known = "  ".join(
        f"{name}={visible(str(value))}" for name, value in event.items() if name not in _NOT_SHOWN
    )
    when = time.strftime("%H:%M:%S", time.localtime(event["at"]))
    return Text(
        f"{when}  {visible(event['event']):<24} {known}", style=_STYLES.get(event["level"], ""), end=""
    )
