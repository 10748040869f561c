"""The engine as an isolate uses it: files, checkpoints and streams by its own calls, money on the usage page.

Clients are made when a handler first needs one, on the loop of a thread that belongs to no handler.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from flowherd.client.bearer_tokens import LedgerTokens
from flowherd.client.kruxia import connect
from flowherd.client.text_streams import CLOSE_S, EngineStreams
from flowherd.end_forked_copies import is_copy
from flowherd.event_loop import new_loop
from flowherd.files.attempt_files import FileAccess
from flowherd.files.scratch_folders import GivenFolder
from flowherd.files.transfers import EngineFiles
from flowherd.isolates.isolate_protocol import TokenRefused
from flowherd.ledger.states_and_cells import Cell, Life
from flowherd.ledger.usage_page import SUMS_BYTES
from flowherd.stock_sdk.stock_files import SdkFiles

if TYPE_CHECKING:
    from flowherd.execution.run_environment import Outlet
    from flowherd.isolates.channel import Channel
    from flowherd.isolates.isolate_protocol import Begin, UsagePlace
    from flowherd.ledger import Ledger
    from flowherd.settings.worker_config import WorkerConfig

_MOST_TRANSFERS = 2  # each holds a transaction of the engine's database, and there may be many isolates
_MOST_STREAMS = 2  # as above


class IsolateEngine:
    """The engine, for one attempt after the other.

    Args:
        config: its address.
        ledger: holds the host's token.
        channel: to the worker, which is asked for another token.

    Attributes:
        files: `flowherd.execution.run_environment.Files`.
        stock_files: the same for the stock SDK's handlers.

    """

    def __init__(self, config: WorkerConfig, ledger: Ledger, channel: Channel) -> None:
        def refused(version: int) -> None:
            with contextlib.suppress(OSError):  # the worker has gone, and so will this process
                channel.send(TokenRefused(version))

        tokens = LedgerTokens(ledger, refused) if config.client_id else None
        self._config = config
        self._ledger = ledger
        self._tokens = tokens
        self._folder = GivenFolder()
        self.stock_files = SdkFiles(config.api_url, tokens)
        self.files = FileAccess(
            lambda: EngineFiles(config.api_url, tokens, most=_MOST_TRANSFERS),
            new_loop(config.loop),
            max_file_mb=config.max_file_mb,
            scratch=self._folder,
        )
        self._making = threading.Lock()
        self._streams: EngineStreams | None = None

    def begin(self, begin: Begin) -> UsageKeeper:
        """From now on files are those of this attempt; keeps its sums."""
        self._folder.path = Path(begin.folder) if begin.folder else None
        return UsageKeeper(self._ledger, begin.usage)

    def open(self, activity_id: str) -> Outlet:
        """See `flowherd.execution.run_environment.Streams.open`."""
        with self._making:
            if self._streams is None:
                self._streams = self.files.loop.submit(self._open_streams()).result()
        return self._streams.open(activity_id)

    async def _open_streams(self) -> EngineStreams:
        return EngineStreams(connect(self._config, self._tokens, connections=_MOST_STREAMS))

    def close(self) -> None:
        """Sends what streams still hold, as far as that takes no longer than a moment."""
        if self._streams is not None:
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                self.files.loop.submit(self._streams.aclose()).result(2 * CLOSE_S)


class UsageKeeper:
    """`flowherd.sdk.spending.SpendingKeeper` of an attempt in an isolate, until the attempt has ended.

    Args:
        ledger: of the host.
        place: of the page.

    """

    room_for_sums = SUMS_BYTES

    def __init__(self, ledger: Ledger, place: UsagePlace) -> None:
        self._segment = ledger.segments[place.segment]
        self._life = place.life
        self._page = self._segment.usage(place.page, place.sequence)
        self._writing = threading.Lock()
        self._has_ended = False

    def keep_spent(self, sums: bytes) -> None:
        """See `SpendingKeeper.keep_spent`."""
        with self._writing:
            if not self._has_ended and not is_copy() and self._is_ours():
                self._page.keep(sums)

    def note_wait(self, *, waits: bool) -> None:
        """Stores whether the handler waits (`await`): a death by a signal from outside is none of its doing then."""
        if not self._has_ended and not is_copy() and self._is_ours():
            self._page.note_wait(waits=waits)

    def _is_ours(self) -> bool:
        """The segment is still the worker's, which may have been killed a moment ago."""
        return self._segment.life is Life.LIVE and self._segment.get(Cell.STARTED) == self._life

    def end(self) -> None:
        """Whatever goes on in this process writes no more."""
        with self._writing:
            self._has_ended = True
