"""The engine without HTTP: one database, one clock, and the parts that work on them."""

import asyncio
import logging
import sqlite3
from typing import Self

from .auth import Authority
from .clock import Clock
from .database import Database, open_database
from .deployed_definitions import DeployedDefinitions
from .queue import Queue
from .scheduling import Scheduler
from .settings import EngineSettings
from .submit_and_signal import Workflows

_log = logging.getLogger(__name__)


class Engine:
    """A database and the parts that work on it; while `draining`, protected routes reply 503 (protocol.md §1.4 C)."""

    clock_type: type[Clock] = Clock
    queue_type: type[Queue] = Queue

    def __init__(self, settings: EngineSettings, database: Database) -> None:
        self.settings = settings
        self.database = database
        self.clock = self.clock_type()
        self.authority = Authority(settings, self.clock)
        self.catalog = DeployedDefinitions()
        scheduler = Scheduler(self.catalog)
        self.queue = self.queue_type(self.clock, self.catalog, scheduler, settings.workflow_timeout_s)
        self.workflows = Workflows(
            self.clock, self.catalog, scheduler, settings.default_lease_s, settings.default_max_retries
        )
        self.draining = False

    @classmethod
    async def open(cls, settings: EngineSettings) -> Self:
        """Opens the database and returns a working engine; `close` it afterwards.

        Raises:
            DatabaseUnusable: see `open_database`.

        """
        return cls(settings, await open_database(settings.db))

    async def close(self) -> None:
        """Closes the database."""
        await self.database.close()

    async def sweep(self) -> None:
        """Processes everything that is due."""
        await self.database.transact(self.queue.sweep)

    async def sweep_forever(self) -> None:
        """Sweeps every `sweep_interval_s` seconds until cancelled."""
        while True:
            await asyncio.sleep(self.settings.sweep_interval_s)
            try:
                await self.sweep()
            except sqlite3.OperationalError as error:
                _log.warning("the sweep waits for its next turn: %s", error)
