"""What workers and isolates are born with under one version of the settings; it makes no process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowherd.process import isolate
from flowherd.process.boot import load
from flowherd.process.child import ChildSetup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowherd.config import WorkerConfig
    from flowherd.core.messages import BootFailed
    from flowherd.ledger import Berth, Ledger
    from flowherd.sdk.loading import LoadedApp
    from flowherd.shared.bells import Bells


@dataclass(frozen=True, slots=True)
class Setups:
    """Shared by all workers and isolates of a host, whoever forks them.

    Attributes:
        app: `module:attr`.
        app_dir: goes first on the import path.
        worker_type: what the user has chosen, None for the app's only type.
        config: for the whole host; a worker's has its own number of slots.
        activities: options of activities by name.
        most_slots: the host's concurrency.

    """

    app: str
    app_dir: str
    worker_type: str | None
    config: WorkerConfig
    activities: Mapping[str, Mapping[str, Any]]
    most_slots: int
    ledger: Ledger
    bells: Bells

    def load(self) -> LoadedApp | BootFailed:
        """Imports the app here."""
        return load(self.app, self.app_dir, self.worker_type, self.activities)

    def title_of(self, seat: int, key: int = 0) -> str:
        """What `ps` shows of a worker, or of its isolate that it calls `key`."""
        return f"flowherd: {f'isolate {key} of ' if key else ''}process {seat} of {self.app}"

    def isolate(self, seat: int, processes: int, ends: Sequence[int], loaded: LoadedApp | None = None) -> int:
        """Works as an isolate and returns the exit code.

        Args:
            seat: its worker's number among `processes`.
            processes: how many workers there are.
            ends: its channel, its stdout and its stderr.
            loaded: the app, where the process it was forked from has imported it.

        """
        setup = isolate.IsolateSetup(
            app=self.app,
            app_dir=self.app_dir,
            worker_type=self.worker_type,
            config=self.config,
            activities=self.activities,
            seat=seat,
            processes=processes,
            loaded=loaded,
        )
        channel, stdout, stderr = ends
        return isolate.main(setup, channel, stdout, stderr)

    def worker(
        self, seat: int, berth: Berth, limit: int, processes: int, loaded: LoadedApp | None = None
    ) -> ChildSetup:
        """One worker's.

        Args:
            seat: its number among `processes`.
            berth: its part of the ledger.
            limit: its slots.
            processes: how many there are.
            loaded: the app, where the process that forks has imported it.

        """
        return ChildSetup(
            app=self.app,
            app_dir=self.app_dir,
            worker_type=self.worker_type,
            config=self.config.model_copy(update={"concurrency": max(limit, 1)}),
            slots=limit,
            most_slots=self.most_slots,
            activities=self.activities,
            seat=seat,
            processes=processes,
            ledger=self.ledger,
            berth=berth,
            bells=self.bells,
            loaded=loaded,
        )
