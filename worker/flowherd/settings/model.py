"""All settings of `flowherd run` and `python -m flowherd` as one model."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads it
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from flowherd.errors import ConfigurationError
from flowherd.free_threading import why_no_threads
from flowherd.settings import DEFAULT_WORKER_TYPE
from flowherd.settings.parsing import (
    DEFAULT_ADDRESS,
    Address,
    Count,
    CountOrAuto,
    PositiveSeconds,
    Seconds,
    SecretNames,
    TransportName,
    is_host,
)
from flowherd.settings.sizes_and_warnings import MOST_PROCESSES, choose_sizes
from flowherd.settings.worker_config import (
    DEFAULT_TRANSPORT,
    MAX_POLL,
    WorkerConfig,
    default_worker_id,
    read_secret,
)

SUPERVISOR_ONLY = frozenset(
    {
        "processes", "max_restarts", "restart_window", "poison_after", "max_tasks_per_child", "max_memory_per_child",
        "isolate_max_tasks", "boot_timeout", "preload", "parallel", "admin", "offload_blockers",
    }
)  # fmt: skip
FEWEST_SUSPECTS_AT_ONCE, SUSPECTS_PER_CPU = 8, 4  # each has an isolate: memory, while most only wait


def _env(name: str, help_text: str, default: Any, **constraints: Any) -> Any:
    return Field(default, validation_alias=f"KRUXIAFLOW_{name}", description=help_text, **constraints)


class ActivitySettings(BaseModel):
    """`[activities.NAME]` in the settings file: options of one activity, which override those in its code."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    offload: Literal["loop", "thread", "process"] | None = Field(
        default=None, description="where the handler runs: loop, thread or process (an isolate)"
    )
    timeout_s: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="seconds one attempt may take"
    )
    max_concurrent: int | None = Field(
        default=None, ge=1, description="attempts that may run at the same time on the whole host"
    )
    max_memory_mb: int | None = Field(
        default=None, ge=1, description="memory limit of its isolate, in MB; needs offload = process"
    )


class Settings(BaseModel):
    """The settings of `flowherd run`; each name is the flag's name with underscores.

    `python -m flowherd` takes all but `SUPERVISOR_ONLY`. Variables of the stock SDK keep their names and meaning.
    Times are seconds.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True, validate_default=False
    )

    processes: CountOrAuto = _env(
        "WORKER_PROCESSES",
        f"worker processes, at most {MOST_PROCESSES}; auto = usable CPUs (affinity and cgroup quota)",
        None,
        ge=1,
        le=MOST_PROCESSES,
    )
    concurrency: CountOrAuto = _env(
        "WORKER_MAX_ACTIVITIES",
        "activities the whole host runs at once, split over the processes; auto = max(16, 4 x processes)",
        None,
        ge=1,
        le=100_000,
    )
    api_url: str = _env("API_URL", "the engine's URL", "http://127.0.0.1:8080")
    client_id: str | None = _env(
        "CLIENT_ID", "OAuth2 client id; leave it out for an engine that runs in insecure-dev mode", None
    )
    client_secret: SecretStr | None = _env(
        "CLIENT_SECRET", "the client's secret; it has no flag, so that no process list shows it", None
    )
    client_secret_file: Path | None = _env(
        "CLIENT_SECRET_FILE",
        "file that holds the client's secret; read again whenever the engine refuses it",
        None,
    )
    worker: str | None = _env(
        "WORKER",
        "worker type (queue) to poll; by default the app's only type, else py-std",
        None,
        min_length=1,
    )
    worker_id: str | None = _env(
        "WORKER_ID",
        "prefix of every worker_id sent to the engine; by default HOST-PID",
        None,
        min_length=1,
        max_length=120,
    )
    poll_max: Count = _env(
        "WORKER_POLL_MAX_ACTIVITIES", "most activities one poll asks for, 1 to 100", 10, ge=1, le=MAX_POLL
    )
    poll_interval: PositiveSeconds = _env(
        "WORKER_POLL_INTERVAL", "seconds between polls while there is little work", 0.1
    )
    poll_interval_max: PositiveSeconds = _env(
        "WORKER_POLL_INTERVAL_MAX",
        "longest pause between polls, in seconds, reached after ten minutes without work",
        2.0,
    )
    default_lease: PositiveSeconds = _env(
        "QUEUE_DEFAULT_TIMEOUT",
        "lease, in seconds, of activities that set no timeout_seconds; must match the engine's own value",
        60.0,
    )
    activity_timeout: PositiveSeconds = _env(
        "WORKER_ACTIVITY_TIMEOUT",
        "seconds an activity may run if neither its definition nor its code sets a limit",
        300.0,
    )
    heartbeat_interval: PositiveSeconds | None = _env(
        "WORKER_HEARTBEAT_INTERVAL",
        "seconds between heartbeats; never more than a third of the lease or 20 s",
        None,
    )
    graceful_timeout: Seconds = _env(
        "WORKER_SHUTDOWN_TIMEOUT", "seconds a drain waits for running activities", 30.0
    )
    cancel_grace: Seconds = _env(
        "WORKER_CANCEL_GRACE", "seconds a cancelled handler gets to end by itself", 5.0
    )
    auth_grace: Seconds = _env(
        "WORKER_AUTH_GRACE",
        "seconds of refused credentials before exit code 4, if no token was ever granted",
        30.0,
    )
    max_restarts: Count = _env(
        "WORKER_MAX_RESTARTS",
        "quick process deaths allowed in the window before flowherd gives up; 0 = never give up",
        10,
        ge=0,
    )
    restart_window: PositiveSeconds = _env("WORKER_RESTART_WINDOW", "length of that window, in seconds", 60.0)
    poison_after: Count = _env(
        "WORKER_POISON_AFTER",
        "process deaths one activity may cause before it fails for good; 0 = never",
        3,
        ge=0,
    )
    max_tasks_per_child: Count | None = _env(
        "WORKER_MAX_TASKS_PER_CHILD", "activities after which a process is replaced", None, ge=1
    )
    max_memory_per_child: Count | None = _env(
        "WORKER_MAX_MEMORY_PER_CHILD", "memory growth, in MB, after which a process is replaced", None, ge=1
    )
    isolate_max_tasks: Count = _env(
        "WORKER_ISOLATE_MAX_TASKS", "activities after which an isolate is replaced", 100, ge=1
    )
    boot_timeout: PositiveSeconds = _env(
        "WORKER_BOOT_TIMEOUT", "seconds a new process gets to become ready", 30.0
    )
    preload: bool | None = _env(
        "WORKER_PRELOAD",
        "import the app once and fork all processes from it; by default only where that is safe",
        None,
    )
    parallel: Literal["auto", "processes", "threads"] = _env(
        "WORKER_PARALLEL",
        "what -p counts: processes, or threads of one process, which then crashes as a whole (threads need a "
        "free-threaded Python such as python3.14t); auto = processes",
        "auto",
    )
    offload_blockers: Literal["auto", "declared"] | None = _env(
        "WORKER_OFFLOAD",
        "auto: an activity that blocks the event loop moves to isolates, unless its code or the file says where it "
        "runs; declared: nothing moves; by default auto with two processes or more, else declared",
        None,
    )
    loop: Literal["auto", "uvloop", "asyncio"] = _env(
        "WORKER_LOOP", "event loop: auto, uvloop or asyncio", "auto"
    )
    transport: TransportName = _env(
        "WORKER_TRANSPORT",
        "HTTP client for the engine: direct, or httpx if you need a proxy",
        DEFAULT_TRANSPORT,
    )
    max_reply_mb: Count = _env(
        "WORKER_MAX_REPLY_MB", "largest reply accepted from the engine, in MB", 256, ge=1, le=4096
    )
    max_file_mb: Count = _env(
        "WORKER_MAX_FILE_MB", "largest file a handler may download or upload, in MB", 5120, ge=1
    )
    secret_names: SecretNames = _env(
        "WORKER_SECRET_NAMES",
        "more names of parameters and variables whose values failure texts mask; separate them with commas",
        (),
    )
    admin: Address = _env(
        "WORKER_ADMIN",
        "address of the status page and /metrics, besides the unix socket: HOST:PORT, unix:PATH or off",
        DEFAULT_ADDRESS,
    )
    log_level: Literal["debug", "info", "warning", "error"] = _env(
        "LOG_LEVEL", "lowest level that is logged: debug, info, warning or error", "info"
    )
    log_activities: bool | None = _env(
        "WORKER_LOG_ACTIVITIES",
        "log each completed activity at info; by default at debug, and at info in `flowherd dev`",
        None,
    )
    log_format: Literal["text", "json"] | None = _env(
        "LOG_FORMAT", "text or json; by default text on a terminal, else json", None
    )

    activities: dict[str, ActivitySettings] = Field(default={}, validation_alias="activities")

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("api_url")
    @classmethod
    def _engine_origin(cls, url: str) -> str:
        """Returns the URL as the worker uses it, after a check of user info, port and host (faults.md S15)."""
        if "@" in url:
            raise ValueError("must not hold a user or password: use --client-id and the secret's variable")
        try:
            origin = urlsplit(url.strip())
            host, port = origin.hostname or "", origin.port
        except ValueError:
            host, port = "", 0
        if port == 0:
            raise ValueError("should look like http://host:port, with a port from 1 to 65535")
        if host and not is_host(host):
            raise ValueError(
                "names no possible host: an IP address, or ASCII letters and digits with at most 63 between two dots"
            )
        return WorkerConfig(api_url=url).api_url

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        choose_sizes(self.processes, self.concurrency, 1)
        if self.parallel == "threads" and (reason := why_no_threads()):
            raise ValueError(f"--parallel threads {reason}")
        if self.client_id and not (self.client_secret or self.client_secret_file):
            raise ValueError(
                "--client-id needs a secret: set KRUXIAFLOW_CLIENT_SECRET, or --client-secret-file FILE"
            )
        return self

    # Conversions for the parts of the host

    def worker_config(self, concurrency: int, usable_cpus: int = 1) -> WorkerConfig:
        """Returns the settings of one worker process with `concurrency` slots, on a host with `usable_cpus` CPUs."""
        return WorkerConfig(
            api_url=self.api_url,
            client_id=self.client_id,
            client_secret=self.secret(),
            client_secret_file=self._secret_source(),
            worker_type=self.worker or DEFAULT_WORKER_TYPE,
            worker_id=self.worker_id or default_worker_id(),
            concurrency=concurrency,
            poll_max=self.poll_max,
            poll_interval_s=self.poll_interval,
            poll_interval_max_s=max(self.poll_interval_max, self.poll_interval),
            default_lease_s=self.default_lease,
            activity_timeout_s=self.activity_timeout,
            heartbeat_interval_s=self.heartbeat_interval,
            graceful_timeout_s=self.graceful_timeout,
            cancel_grace_s=self.cancel_grace,
            poison_after=self.poison_after,
            suspects_at_once=max(FEWEST_SUSPECTS_AT_ONCE, SUSPECTS_PER_CPU * usable_cpus),
            cpus=usable_cpus,
            reports_blockers=self.offload_blockers != "declared",
            isolate_max_tasks=self.isolate_max_tasks,
            boot_timeout_s=self.boot_timeout,
            max_reply_mb=self.max_reply_mb,
            max_file_mb=self.max_file_mb,
            loop=self.loop,
            transport=self.transport,
            log_activities=bool(self.log_activities),
            secret_names=self.secret_names,
        )

    def activity_options(self) -> dict[str, dict[str, Any]]:
        """Returns the argument for `Registry.configured`: the options that the file sets."""
        return {name: options.model_dump(exclude_none=True) for name, options in self.activities.items()}

    def secret(self) -> SecretStr | None:
        """Returns the client secret, from its variable or its file.

        Raises:
            ConfigurationError: the file cannot be read, or is empty.

        """
        file = self._secret_source()
        if file is None:
            return self.client_secret
        try:
            return read_secret(file)
        except ConfigurationError as error:
            raise ConfigurationError(f"--client-secret-file {self.client_secret_file}: {error}") from None

    def _secret_source(self) -> Path | None:
        """Returns the path of the secret's file, or None when the secret comes from its variable."""
        return (
            None if self.client_secret or not self.client_secret_file else self.client_secret_file.absolute()
        )
