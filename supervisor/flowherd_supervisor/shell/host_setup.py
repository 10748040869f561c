"""Builds a host for `flowherd run`: ledger, wakeups, sockets and the setup of each process."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from setproctitle import setproctitle

from flowherd import __version__, logs
from flowherd.errors import ConfigurationError
from flowherd.ledger import Ledger, Segment, records_needed
from flowherd.ledger.wakeups import Wakeups
from flowherd.process.rehearsal import warm_up
from flowherd.settings.sizes_and_warnings import cautions
from flowherd.settings.sources import flag_of
from flowherd.telemetry.destination import destination_of
from flowherd_supervisor.core.events import KEEPER, ZYGOTE
from flowherd_supervisor.core.slot_shares import split
from flowherd_supervisor.keeper import keeper_process as keeper
from flowherd_supervisor.processes import zygote
from flowherd_supervisor.processes.child_specs import Setups
from flowherd_supervisor.processes.cpus import limit_numeric_threads, usable_cpus
from flowherd_supervisor.processes.prctl import become_subreaper
from flowherd_supervisor.processes.process_table import Birth, IsolateBirth
from flowherd_supervisor.shell.admin_socket import AdminSocket
from flowherd_supervisor.shell.descriptor_limit import reserve_descriptors
from flowherd_supervisor.shell.event_log import Banner
from flowherd_supervisor.shell.inbox import Inbox
from flowherd_supervisor.shell.plan_from_settings import plan_of
from flowherd_supervisor.shell.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowherd.link.link import Link
    from flowherd.settings.model import Settings
    from flowherd_supervisor.core.actions import Spawn, SpawnIsolate
    from flowherd_supervisor.core.plan import Plan

UNCHANGEABLE = ("admin", "parallel", "worker", "api_url", "client_id", "log_level", "log_format")

log = structlog.stdlib.get_logger("flowherd")


@dataclass(frozen=True, slots=True)
class App:
    """The app to host: `module:attr`, and the folder that is put first on the import path.

    `burst_idle_s` is the number of seconds without work after which the host ends by itself, None for never.
    """

    name: str
    folder: str
    burst_idle_s: float | None = None

    def plan(self, settings: Settings) -> Plan:
        """Returns the plan of the processes to keep alive for the app."""
        return replace(plan_of(settings), burst_idle_s=self.burst_idle_s)


def run(app: App, load: Callable[[], Settings]) -> int:
    """Supervises `app` until it is stopped; returns an exit code of `flowherd.exit_codes`.

    Args:
        app: the app to host.
        load: reads the settings, at the start and at every HUP.

    """
    settings = load()
    logs.setup(settings.log_level, settings.log_format)
    logs.name_process(process="supervisor")
    plan = app.plan(settings)
    setproctitle(f"flowherd: supervisor of {app.name}")
    inbox = Inbox()  # before the sockets: a signal that comes while the host starts is obeyed once it has
    try:
        code = _supervise(app, settings, load, plan, inbox)
    except BaseException:
        inbox.close()
        raise
    inbox.ignore_signals()
    return code


def _supervise(app: App, settings: Settings, load: Callable[[], Settings], plan: Plan, inbox: Inbox) -> int:
    host = _Host(app, settings, load, plan)
    try:
        threads = limit_numeric_threads(os.environ, plan.workers)
        _banner(app, settings, plan, host, threads).say(logs.style_of(settings.log_format))
        for text in (*cautions(settings, usable_cpus()), *destination_of(os.environ).obstacles):
            log.warning("unwise_setting", note=text)
        warm_up(settings.api_url)
        become_subreaper()
        return Supervisor(plan, host.ledger, host.wakeups, host, inbox).run()
    finally:
        host.close()


class _Host:
    """Everything that exists before the first fork."""

    def __init__(self, app: App, settings: Settings, load: Callable[[], Settings], plan: Plan) -> None:
        self._app = app
        self._load = load
        self._settings = settings
        self._plan = plan
        self._started_at = time.monotonic()
        self._pid = os.getpid()
        self.config = settings.worker_config(plan.concurrency, usable_cpus())
        records = records_needed(plan.concurrency, settings.poll_max)
        self.ledger = Ledger(processes=plan.most_processes, records=records)
        segments = len(self.ledger.segments)
        reserve_descriptors(plan.workers, 2 * plan.most, shared=segments)
        self.wakeups = Wakeups(segments)
        self.admin = AdminSocket(settings.admin)

    def birth(self, order: Spawn, segments: tuple[Segment, ...]) -> Birth:
        """Returns the recipe for the process that `order` names."""
        if order.index == KEEPER:
            keep = (*self.wakeups.fds, *self.admin.fds)
            return Birth("flowherd: keeper", keep, self._keeper, expendable=False)
        setups = self._setups()
        if order.index == ZYGOTE:
            zygote_setup = zygote.ZygoteSetup(setups, self._pid, self._plan.processes)
            title = f"flowherd: preload of {self._app.name}"
            return Birth(
                title,
                self.wakeups.fds,
                lambda link: zygote.main(zygote_setup, link),
                expendable=False,
                boot_within_s=self.config.boot_timeout_s,
            )
        workers = self._plan.workers
        return Birth(
            setups.title_of(order.index),
            self.wakeups.fds,
            lambda link: setups.work(order, segments, workers, link),
            expendable=True,
            boot_within_s=self.config.boot_timeout_s,
        )

    def isolate_birth(self, order: SpawnIsolate, ends: Sequence[int]) -> IsolateBirth:
        """Returns the recipe for an isolate that imports the app itself."""
        setups = self._setups()
        title = setups.title_of(order.index, order.key)
        return IsolateBirth(title, ends, lambda: setups.isolate(order, self._plan.workers, ends))

    def _setups(self) -> Setups:
        """Returns the setups of workers under the current settings."""
        return Setups(
            app=self._app.name,
            app_dir=self._app.folder,
            worker_type=self._settings.worker,
            config=self.config,
            activities=self._settings.activity_options(),
            most_slots=self._plan.concurrency,
            ledger=self.ledger,
            wakeups=self.wakeups,
            threads=self._plan.threads is not None,
        )

    def _keeper(self, link: Link) -> int:
        setup = keeper.KeeperSetup(
            config=self.config,
            ledger=self.ledger,
            wakeups=self.wakeups,
            sockets=self.admin.sockets,
            version=__version__,
            supervisor_pid=self._pid,
            started_at=self._started_at,
            auth_grace_s=self._settings.auth_grace,
            app=self._app.name,
            folder=str(Path(self._app.folder).resolve()),
        )
        return keeper.main(setup, link)

    def reread(self) -> Plan | str:
        """Reads the settings again and returns the plan, or the reason in one line if they cannot be applied."""
        try:
            settings = self._load()
        except ConfigurationError as error:
            return str(error)
        for name in UNCHANGEABLE:
            if getattr(settings, name) != getattr(self._settings, name):
                return f"{flag_of(name)} cannot change while it runs: restart flowherd"
        self._settings, self._plan = settings, self._app.plan(settings)
        self.config = settings.worker_config(self._plan.concurrency, usable_cpus()).model_copy(
            update={"worker_id": self.config.worker_id}
        )
        return replace(self._plan, most_processes=self.ledger.processes)

    def close(self) -> None:
        """Closes the sockets and wakeups and removes the socket files."""
        self.admin.close()
        self.wakeups.close()


def _banner(app: App, settings: Settings, plan: Plan, host: _Host, threads: str) -> Banner:
    return Banner(
        version=__version__,
        app=app.name,
        worker_type=settings.worker or "",
        worker_id=host.config.worker_id,
        api_url=settings.api_url,
        shares=split(plan.concurrency, plan.workers),
        threads=plan.threads is not None,
        usable_cpus=usable_cpus(),
        automatic=settings.concurrency is None,
        admin=host.admin.description,
        numeric_threads=threads,
    )
