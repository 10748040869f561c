"""`flowherd check`: reports what would keep an app from running well, without claiming any activity."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import msgspec

from flowherd.background import start_thread
from flowherd.client.bearer_tokens import HostTokens
from flowherd.counted import counted
from flowherd.errors import AppImportError, ConfigurationError, EngineError, EngineUnauthorized
from flowherd.execution.load_app import choose_worker_type, load_app
from flowherd.exit_codes import Exit
from flowherd.ledger import Ledger
from flowherd.logs import visible
from flowherd.settings.sizes_and_warnings import cautions
from flowherd.settings.sources import Loaded, flag_of
from flowherd.telemetry.destination import destination_of
from flowherd.transport.transport import new_client
from flowherd.user_code import where_main_stands
from flowherd_supervisor.processes.cpus import usable_cpus
from flowherd_supervisor.shell.plan_from_settings import plan_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowherd.sdk.registry import Registry
    from flowherd.settings.model import Settings
    from flowherd.settings.worker_config import WorkerConfig
    from flowherd.telemetry.destination import Destination

_HEALTH_DEADLINE_S = 5.0


class Weight(Enum):
    """The severity of a finding."""

    FINE = "ok"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the report; `code` is the exit code of the command if the finding is `WRONG`."""

    weight: Weight
    text: str
    code: Exit = Exit.CLEAN


def check(app_name: str, app_dir: str, loaded: Loaded, *, offline: bool = False) -> int:
    """Prints each finding as soon as it is known; returns 0 or the exit code of the first that is wrong.

    Args:
        app_name: `module:attr`.
        app_dir: put first on the import path.
        loaded: the settings.
        offline: do not call the engine.

    """
    code = Exit.CLEAN
    for finding in _findings(app_name, app_dir, loaded, offline=offline):
        _say(finding)
        code = code or finding.code
    return code


def _findings(app_name: str, app_dir: str, loaded: Loaded, *, offline: bool) -> Iterator[Finding]:
    settings = loaded.settings
    yield _sizes(loaded)
    yield from (Finding(Weight.WARNING, text) for text in cautions(settings, usable_cpus()))
    yield from _shadows(Path(app_dir))
    yield from _app(app_name, app_dir, loaded)
    yield from _times(loaded)
    yield from _telemetry(destination_of(os.environ))
    if not offline:
        yield from asyncio.run(_engine(settings))


def _say(finding: Finding) -> None:
    sys.stdout.write(f"{finding.weight.value:>7}  {visible(finding.text)}\n")
    sys.stdout.flush()


def _sizes(loaded: Loaded) -> Finding:
    plan = plan_of(loaded.settings)
    sources = ", ".join(dict.fromkeys(loaded.origins.values())) or "the defaults alone"
    kind = "thread" if plan.threads else "process"
    return Finding(
        Weight.FINE,
        f"settings: {counted(plan.workers, kind)}, {counted(plan.concurrency, 'slot')}; from {sources}",
    )


def _app(app_name: str, app_dir: str, loaded: Loaded) -> Iterator[Finding]:
    settings = loaded.settings
    try:
        with _watched(app_name, settings.boot_timeout):
            app = load_app(app_name, app_dir)
        worker_type = choose_worker_type(app, settings.worker)
        registry = _configured(app.for_type(worker_type), loaded)
    except ConfigurationError as error:
        yield Finding(Weight.WRONG, str(error), Exit.USAGE)
    except AppImportError as error:
        sys.stderr.write(error.report.rstrip() + "\n")
        yield Finding(Weight.WRONG, str(error), Exit.BOOT_FAILED)
    else:
        yield Finding(Weight.FINE, f"{app_name} serves worker type {worker_type!r}: {_listed(registry)}")


def _configured(registry: Registry, loaded: Loaded) -> Registry:
    """Applies the activity options of the settings file; an error message names that file."""
    try:
        return registry.configured(loaded.settings.activity_options())
    except ConfigurationError as error:
        file = loaded.origins.get("activities", "").removesuffix(": activities")
        raise ConfigurationError(f"{file}: {error}" if file else str(error)) from None


@contextmanager
def _watched(app_name: str, within_s: float) -> Iterator[None]:
    """Ends the program with the import's current line when the import takes longer than `run` would wait."""
    is_over = threading.Event()

    def watch() -> None:
        if not is_over.wait(within_s):
            stands = f"it is at {where_main_stands()}"
            text = f"{app_name} is still importing after {within_s:g} s (--boot-timeout): {stands}"
            _say(Finding(Weight.WRONG, text, Exit.BOOT_FAILED))
            sys.stderr.flush()
            os._exit(Exit.BOOT_FAILED)  # an import cannot be stopped

    start_thread("watch of the import", watch)
    try:
        yield
    finally:
        is_over.set()


def _listed(registry: Registry) -> str:
    return ", ".join(f"{definition.name} ({definition.mode.value})" for definition in registry)


def _shadows(folder: Path) -> Iterator[Finding]:
    """Modules in the app's folder that shadow the standard library or an installed package (faults.md S17)."""
    if not folder.is_dir():
        yield Finding(Weight.WRONG, f"--app-dir {folder}: there is no such folder", Exit.USAGE)
        return
    installed = importlib.metadata.packages_distributions()
    for path in sorted(folder.iterdir()):
        name = path.stem if path.suffix == ".py" else path.name if (path / "__init__.py").is_file() else ""
        if name in sys.stdlib_module_names:
            yield Finding(Weight.WARNING, f"{path} hides the standard library's {name}: rename it")
        elif name in installed and not _is_its_source(path, installed[name]):
            yield Finding(Weight.WARNING, f"{path} hides the installed {installed[name][0]}: rename it")


def _is_its_source(path: Path, distributions: list[str]) -> bool:
    """True if the installed package is an editable install of this folder."""
    origins = [
        importlib.metadata.distribution(name).read_text("direct_url.json") or "" for name in distributions
    ]
    return any(str(path.resolve().parent) in origin for origin in origins)


def _times(loaded: Loaded) -> Iterator[Finding]:
    """Warns of valid times that do not fit together; defaults alone never cause a warning."""
    settings, chosen = loaded.settings, loaded.origins.keys()
    lease = settings.default_lease
    interval = settings.heartbeat_interval
    if interval is not None and interval > min(lease / 3, 20):
        shown = (
            f"{flag_of('heartbeat_interval')} {interval:g} is more than a third of the lease, or than 20 s"
        )
        yield Finding(Weight.WARNING, f"{shown}: {min(lease / 3, 20):g} s is used")
    if settings.graceful_timeout < settings.activity_timeout and chosen & {
        "graceful_timeout",
        "activity_timeout",
    }:
        yield Finding(
            Weight.WARNING,
            f"--graceful-timeout {settings.graceful_timeout:g} is less than --activity-timeout "
            f"{settings.activity_timeout:g}: a stop requeues activities that run longer",
        )
    if lease < 2:
        yield Finding(
            Weight.WARNING,
            f"--default-lease {lease:g}: a lease this short leaves no room for a lost heartbeat",
        )
    if settings.poll_interval_max < settings.poll_interval:
        yield Finding(Weight.WARNING, "--poll-interval-max is less than --poll-interval: the latter is used")


def _telemetry(wish: Destination) -> Iterator[Finding]:
    """Reports on telemetry only where it is configured."""
    yield from (Finding(Weight.WARNING, text) for text in wish.obstacles)
    if wish.traces:
        yield Finding(Weight.FINE, f"telemetry: {wish}")


async def _engine(settings: Settings) -> list[Finding]:
    """Calls `/health` and, with credentials, fetches a token."""
    config = settings.worker_config(1)
    async with new_client(config.api_url, None, connections=1) as http:
        try:
            async with asyncio.timeout(_HEALTH_DEADLINE_S):
                health = await http.get("/health")
        except (httpx.HTTPError, TimeoutError) as error:
            text = f"{config.api_url} does not answer: {error or type(error).__name__}"
            return [
                Finding(
                    Weight.WRONG,
                    f"{text}; flowherd engine starts one, --api-url names another",
                    Exit.INTERNAL,
                )
            ]
        body = _health(health)
        if body is None:
            text = f"{config.api_url}/health answers {health.status_code}: --api-url names no healthy engine"
            return [Finding(Weight.WRONG, text, Exit.INTERNAL)]
        found = Finding(Weight.FINE, f"the engine at {config.api_url} is healthy")
        return [found, *await _token(config, http, open_to_all=body.insecure_dev)]


class _Health(msgspec.Struct):
    status: str
    insecure_dev: bool = False


def _health(reply: httpx.Response) -> _Health | None:
    """Decodes an engine's health reply; None if it is anything else."""
    try:
        return (
            msgspec.json.decode(reply.content, type=_Health) if reply.status_code == httpx.codes.OK else None
        )
    except msgspec.DecodeError:
        return None


async def _token(config: WorkerConfig, http: httpx.AsyncClient, *, open_to_all: bool) -> list[Finding]:
    if config.client_id is None:
        text = "the engine asks for tokens: set KRUXIAFLOW_CLIENT_ID and KRUXIAFLOW_CLIENT_SECRET"
        return [] if open_to_all else [Finding(Weight.WRONG, text, Exit.USAGE)]
    try:
        await HostTokens(config, Ledger(processes=1, records=1), http).current()
    except EngineUnauthorized as error:
        hint = "; this engine needs no token: unset KRUXIAFLOW_CLIENT_ID" if open_to_all else ""
        return [Finding(Weight.WRONG, f"{error}{hint}", Exit.CREDENTIALS_REFUSED)]
    except EngineError as error:
        return [Finding(Weight.WRONG, f"{config.api_url}: {error}", Exit.INTERNAL)]
    return [Finding(Weight.FINE, f"client {config.client_id!r} was granted a token")]
