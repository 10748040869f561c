"""Builds one worker with its client, files and meters."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from flowherd.client.bearer_tokens import LedgerTokens, ask_keeper
from flowherd.client.kruxia import connect
from flowherd.client.text_streams import EngineStreams
from flowherd.event_loop import new_loop
from flowherd.execution.activity_costs import ActivityProfiles
from flowherd.execution.blocked_loop import Watchdog
from flowherd.execution.busy_share import BusyShareMeter
from flowherd.execution.gil_probe import GilProbe
from flowherd.execution.loop_lag import LagProbe
from flowherd.execution.loop_meter import LoopMeter
from flowherd.execution.moved import MovedActivities
from flowherd.execution.run_environment import RunEnvironment
from flowherd.files.attempt_files import FileAccess
from flowherd.files.scratch_folders import begin_sweep
from flowherd.files.transfers import EngineFiles
from flowherd.isolates.isolate import IsolateRules
from flowherd.isolates.isolate_pool import Isolates
from flowherd.leases.lease_scan import ends_the_rest
from flowherd.leases.poll_hold import PollHold
from flowherd.leases.record_ids import ids_of
from flowherd.ledger import Cell, Clock, Ledger, RecordWriter, Segment
from flowherd.ledger.activity_cost_table import Where
from flowherd.ledger.host_permits import HostPermits, RecordLocks
from flowherd.sdk.activity_definition import Mode
from flowherd.sdk.redaction import secrets_of_process
from flowherd.stock_sdk.stock_files import SdkFiles
from flowherd.worker.adopter import Offers
from flowherd.worker.sibling_processes import Siblings
from flowherd.worker.worker import SharedHost, Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from flowherd.client.kruxia import KruxiaEngine
    from flowherd.execution.run_environment import Tracing
    from flowherd.ledger.wakeups import Wakeups
    from flowherd.link.link import Link
    from flowherd.sdk.registry import Registry
    from flowherd.settings.worker_config import WorkerConfig

MOST_CONNECTIONS = 64
_PLACES = {Mode.LOOP: Where.LOOP, Mode.THREAD: Where.THREAD, Mode.PROCESS: Where.PROCESS}


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """The position of a worker on its host, and what it shares with its process.

    Attributes:
        process: its number among its siblings, from 0.
        state: what the app's lifespan yielded.
        link: to whoever makes isolates, None where nobody does.
        isolate_keys: by which they are asked for, None where nobody else asks.
        locks: hold the permits of all workers of its process, None for one that has a process to itself.
        tracing: of its process, None where none is asked for.

    """

    index: int
    state: Any = None
    link: Link | None = None
    isolate_keys: Iterator[int] | None = None
    locks: RecordLocks | None = None
    tracing: Tracing | None = None


class BuiltWorker:
    """A worker with its client and its wakeup; must be created on the loop that runs it. It starts no thread yet.

    Args:
        place: its position on the host.
        most_slots: the most slots that it may ever have; limits the connections.

    """

    def __init__(
        self,
        config: WorkerConfig,
        registry: Registry,
        *,
        ledger: Ledger,
        segment: Segment,
        wakeups: Wakeups,
        place: WorkerPlace,
        most_slots: int,
    ) -> None:
        tokens = LedgerTokens(ledger, ask_keeper(segment, wakeups.wake_keeper)) if config.client_id else None
        undecoded = {found.name for found in registry if found.mode is Mode.PROCESS}
        self._engine = _engine_for(config, tokens, most_slots, undecoded)
        self._sdk_files = SdkFiles(config.api_url, tokens)
        self._files = _files(config, tokens)
        self._ledger = ledger
        self._hold = PollHold(ledger)
        self._wakeups = wakeups
        self._segment = segment
        locks = place.locks or RecordLocks(wakeups.permits)
        secret = config.client_secret.get_secret_value() if config.client_secret else ""
        writer = RecordWriter(segment)
        link = place.link if config.reports_blockers else None
        parts = _measuring(registry, ledger, segment, link=link, cpus=config.cpus, undecoded=undecoded)
        meter, moved, self._load, self._watchdog = parts
        self._streams = EngineStreams(self._engine)
        environment = RunEnvironment(
            process_index=place.index,
            state=place.state,
            secrets=(secret,) if secret else (),
            secret_names=config.secret_names,
            stock_files=self._sdk_files,
            files=self._files,
            streams=self._streams,
            permits=HostPermits(locks, wakeups, ledger.segments, segment, time.monotonic),
            meter=meter,
            tracing=place.tracing,
        )
        siblings = Siblings(ledger.segments, segment, wakeups)
        isolates = _isolates(config, place, environment, segment, ask_keeper(segment, wakeups.wake_keeper))
        seen = ledger.seen.of(segment.number)
        calls = self._rouse_keeper, self._polls_wait
        offers = Offers(ledger, segment, wakeups.wake_keeper)
        host = SharedHost(
            ledger.segments, ledger.crash_history, seen, offers, siblings, isolates, moved, *calls
        )
        self.worker = Worker(config, registry, self._engine, writer, environment, host)
        asyncio.get_running_loop().add_reader(wakeups.of(segment.number), self._heed_wakeup)
        segment.set_clock(Clock.READY_AT, time.monotonic())

    def start_threads(self) -> None:
        """Starts the watchdog of the loop, and the removal of files that ended processes have left."""
        self._watchdog.start()
        begin_sweep()

    def _heed_wakeup(self) -> None:
        self._wakeups.clear(self._wakeups.of(self._segment.number))
        self.worker.heed_verdicts()
        self.worker.called()

    def _rouse_keeper(self, shortest_lease_s: float) -> None:
        if ends_the_rest(self._ledger, self._segment, shortest_lease_s, time.monotonic()):
            self._wakeups.wake_keeper()

    def _polls_wait(self) -> bool:
        return self._hold.holds(time.monotonic())

    async def aclose(self) -> None:
        """Stops receiving wakeups and closes all connections."""
        self._load.publish()
        asyncio.get_running_loop().remove_reader(self._wakeups.of(self._segment.number))
        await self._streams.aclose()
        await self._files.aclose()
        await self._sdk_files.aclose()
        await self._engine.aclose()
        await self.worker.aclose()


def _files(config: WorkerConfig, tokens: LedgerTokens | None) -> FileAccess:
    """Returns the files of attempts, moved by clients that are made when one is first needed."""
    return FileAccess(
        lambda: EngineFiles(config.api_url, tokens), new_loop(config.loop), max_file_mb=config.max_file_mb
    )


def _engine_for(
    config: WorkerConfig, tokens: LedgerTokens | None, most_slots: int, undecoded: Collection[str]
) -> KruxiaEngine:
    """Returns a client with connections for all slots; parameters for isolates stay encoded."""
    return connect(config, tokens, connections=min(most_slots, MOST_CONNECTIONS) + 2, undecoded=undecoded)


def _isolates(
    config: WorkerConfig,
    place: WorkerPlace,
    environment: RunEnvironment,
    segment: Segment,
    refused: Callable[[int], None],
) -> Isolates | None:
    if place.link is None:
        return None
    secrets = (*environment.secrets, *secrets_of_process(config.secret_names))
    rules = IsolateRules(
        config.isolate_max_tasks, config.boot_timeout_s, secrets=secrets, token_refused=refused
    )
    return Isolates(place.link, place.isolate_keys or count(1), rules, config.concurrency, segment)


def _measuring(
    registry: Registry,
    ledger: Ledger,
    segment: Segment,
    *,
    link: Link | None,
    cpus: int,
    undecoded: set[str],
) -> tuple[LoopMeter, MovedActivities, BusyShareMeter, Watchdog]:
    """Returns a meter of the running loop, what moves by its figures, their publisher, and a watchdog.

    Args:
        registry: the hosted activities.
        ledger: counts how often the host has claimed an activity.
        segment: a segment that is already open, since opening clears it.
        link: to the supervisor, which moves what blocks; None where nothing moves.
        cpus: the host's CPUs.
        undecoded: see `MovedActivities`.

    """
    profiles = ActivityProfiles({found.name: _PLACES[found.mode] for found in registry}, segment.work)
    meter = LoopMeter(segment.writer_of(Cell.ON_LOOP), profiles.by_name)
    moved = MovedActivities(
        registry, cpus=cpus, link=link, meter=meter, profiles=profiles, undecoded=undecoded
    )
    load = BusyShareMeter(segment, meter, profiles)
    meter.on_busy = LagProbe(meter.stepping.is_set, load).start
    meter.on_long_step = lambda step_s: segment.add(Cell.BLOCKED_US, int(step_s * 1e6))
    probe = GilProbe(meter, profiles.by_name)
    ids = partial(_ids_on_loop, ledger, segment)
    return meter, moved, load, Watchdog(meter, segment.note_block, probe, ids=ids, occupied=moved.occupied)


def _ids_on_loop(ledger: Ledger, segment: Segment) -> dict[str, Any]:
    """Returns the names of the attempt whose handler is on the loop; empty when there is none."""
    place = segment.get(Cell.ON_LOOP)
    record = segment.record(place - 1) if place else None
    return {} if record is None else ids_of(ledger, segment, record)
