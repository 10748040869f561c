"""The setups of workers and isolates under one version of the settings."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from flowherd.free_threading import gil_watched
from flowherd.isolates.inside import main as isolate
from flowherd.link.split_over_threads import spread, whose_key
from flowherd.process import threaded_process, worker_process
from flowherd.process.load_app_or_report import load
from flowherd.process.worker_process import ChildSetup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowherd.execution.load_app import LoadedApp
    from flowherd.ledger import Ledger, Segment
    from flowherd.ledger.wakeups import Wakeups
    from flowherd.link.link import Link
    from flowherd.link.messages import BootFailed
    from flowherd.settings.worker_config import WorkerConfig


class WorkerOrder(Protocol):
    """The fields that a Spawn and the Fork message to a zygote have in common."""

    @property
    def index(self) -> int:
        """The index of the process, and of its first worker."""

    @property
    def limit(self) -> int:
        """All slots of the process."""


class IsolateOrder(Protocol):
    """The fields that a SpawnIsolate and the Fork message to a zygote have in common."""

    @property
    def index(self) -> int:
        """The index of its worker's process."""

    @property
    def key(self) -> int:
        """The key by which that process identifies it."""


@dataclass(frozen=True, slots=True)
class Setups:
    """Creates the setups of all workers and isolates of a host.

    Attributes:
        app: `module:attr`.
        app_dir: put first on the import path.
        worker_type: the worker type chosen by the user, None for the app's only one.
        config: configuration of the whole host; that of a worker has its own number of slots.
        activities: options of activities by name.
        most_slots: the host's concurrency.
        threads: True if all workers are threads of one process.
        sizes: cache of worker configurations by number of slots.

    """

    app: str
    app_dir: str
    worker_type: str | None
    config: WorkerConfig
    activities: Mapping[str, Mapping[str, Any]]
    most_slots: int
    ledger: Ledger
    wakeups: Wakeups
    threads: bool = False
    sizes: dict[int, WorkerConfig] = field(default_factory=dict)

    def load(self) -> LoadedApp | BootFailed:
        """Imports the app in this process."""
        with gil_watched() if self.threads else nullcontext():
            return load(self.app, self.app_dir, self.worker_type, self.activities)

    def title_of(self, index: int, key: int = 0) -> str:
        """Returns the title in `ps` of a worker process, or of the isolate that it calls `key`."""
        if not key:
            return f"flowherd: {'threads' if self.threads else f'process {index}'} of {self.app}"
        worker, own = whose_key(key) if self.threads else (index, key)
        return f"flowherd: isolate {own} of process {worker} of {self.app}"

    def isolate(
        self, order: IsolateOrder, processes: int, ends: Sequence[int], loaded: LoadedApp | None = None
    ) -> int:
        """Runs an isolate in this process and returns the exit code.

        Args:
            order: index of its worker's process, and the isolate's key.
            processes: number of workers in the host.
            ends: descriptors of its channel, stdout, stderr and lifeline.
            loaded: the app, if the zygote has imported it.

        """
        app = self.app, self.app_dir, self.worker_type, self.activities
        setup = isolate.IsolateSetup(
            load=partial(load, *app) if loaded is None else lambda: loaded,
            config=self.config,
            index=whose_key(order.key)[0] if self.threads else order.index,
            processes=processes,
            ledger=self.ledger,
        )
        return isolate.main(setup, *ends)

    def work(
        self,
        order: WorkerOrder,
        segments: Sequence[Segment],
        processes: int,
        link: Link,
        loaded: LoadedApp | None = None,
    ) -> int:
        """Runs one worker in this process, or several as threads; returns the exit code.

        Args:
            order: the process's index and slots.
            segments: segment of each worker.
            processes: number of workers in the host.
            link: link to the supervisor.
            loaded: the app, if the zygote has imported it.

        """
        if not self.threads:
            return worker_process.main(
                self._worker(order.index, segments[0], order.limit, processes, loaded), link
            )
        shares = spread(order.limit, len(segments))
        setups = [
            self._worker(order.index + number, segment, share, processes, loaded)
            for number, (segment, share) in enumerate(zip(segments, shares, strict=True))
        ]
        return threaded_process.main(setups, link)

    def rehearse(self, processes: int, loaded: LoadedApp) -> None:
        """Fills the cache of configurations for `processes` workers, so that forked ones find theirs."""
        self.title_of(0)
        for share in set(spread(self.most_slots, processes)):
            self._worker(0, self.ledger.segments[0], share, processes, loaded)

    def _worker(
        self, index: int, segment: Segment, limit: int, processes: int, loaded: LoadedApp | None
    ) -> ChildSetup:
        return ChildSetup(
            app=self.app,
            app_dir=self.app_dir,
            worker_type=self.worker_type,
            config=self.sizes.get(limit) or self._sized(limit, loaded),
            slots=limit,
            most_slots=self.most_slots,
            activities=self.activities,
            index=index,
            processes=processes,
            ledger=self.ledger,
            segment=segment,
            wakeups=self.wakeups,
            loaded=loaded,
        )

    def _sized(self, limit: int, loaded: LoadedApp | None) -> WorkerConfig:
        worker_type = (loaded and loaded.registry.worker_type) or self.config.worker_type
        update = {"concurrency": max(limit, 1), "worker_type": worker_type}
        self.sizes[limit] = config = self.config.model_copy(update=update)
        return config
