"""All settings of `flowherd run` as one model: flag > environment > file > default; it starts nothing."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from flowherd.config import DEFAULT_WORKER_TYPE, MAX_POLL, WorkerConfig, default_worker_id
from flowherd.errors import ConfigurationError
from flowherd_supervisor.core.plan import Plan, choose_sizes
from flowherd_supervisor.core.restarts import RestartPolicy
from flowherd_supervisor.cpus import usable_cpus

_OTHER_WORKER_VARIABLE = "WORKER_TYPE"  # the stock SDK's scripts read it too (interface.md, APP)
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _duration(value: object) -> object:
    """`60`, `60s`, `500ms` and `2m`, as the engine's own variables are written (protocol.md §3.3)."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    for unit in ("ms", "s", "m", "h"):
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit():
            return float(number) * _UNITS_S[unit]
    return value


def _auto(value: object) -> object:
    return None if value == "auto" else value


Seconds = Annotated[float, BeforeValidator(_duration), Field(ge=0, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, BeforeValidator(_duration), Field(gt=0, allow_inf_nan=False)]
CountOrAuto = Annotated[int | None, BeforeValidator(_auto)]


def _env(name: str, help_text: str, default: Any, **constraints: Any) -> Any:
    return Field(default, validation_alias=f"KRUXIAFLOW_{name}", description=help_text, **constraints)


class ActivitySettings(BaseModel):
    """`[activities.NAME]` of the file: how one activity runs, whatever its code says."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    offload: Literal["loop", "thread", "process"] | None = None
    timeout_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_concurrent: int | None = Field(default=None, ge=1)


class Settings(BaseSettings):
    """Everything `flowherd run` can be told; the names are the flags' with underscores.

    Variables of the stock SDK keep their names and meaning. Times end in `_s` and are seconds.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="FLOWHERD_",
        populate_by_name=True,
        hide_input_in_errors=True,
        env_ignore_empty=True,
    )

    processes: CountOrAuto = _env("WORKER_PROCESSES", "worker processes; auto = usable CPUs (affinity and cgroup quota)", None, ge=1, le=1024)
    concurrency: CountOrAuto = _env("WORKER_MAX_ACTIVITIES", "slots of the whole host, split over the processes; auto = max(16, 4 x processes)", None, ge=1, le=100_000)
    api_url: str = _env("API_URL", "the engine", "http://127.0.0.1:8080")
    client_id: str | None = _env("CLIENT_ID", "OAuth2 client; none for an insecure-dev engine; the secret has no flag", None)
    client_secret: SecretStr | None = _env("CLIENT_SECRET", "the client's secret; never a flag, so that it never shows in a process list", None)
    client_secret_file: Path | None = _env("CLIENT_SECRET_FILE", "a file that holds the secret", None)
    worker: str | None = _env("WORKER", "worker type to serve; else the app's only type, else py-std", None)
    worker_id: str | None = _env("WORKER_ID", "begins every worker_id on the wire; else host-pid", None)
    poll_max: int = _env("WORKER_POLL_MAX_ACTIVITIES", "activities one poll may ask for, 1 to 100", 10, ge=1, le=MAX_POLL)
    poll_interval: PositiveSeconds = _env("WORKER_POLL_INTERVAL", "seconds between polls while there is little to do", 0.1)
    poll_interval_max: PositiveSeconds = _env("WORKER_POLL_INTERVAL_MAX", "seconds between polls after a long idle time", 2.0)
    default_lease: PositiveSeconds = _env("QUEUE_DEFAULT_TIMEOUT", "seconds; the engine's lease of activities that name none (its own variable)", 60.0)
    activity_timeout: PositiveSeconds = _env("WORKER_ACTIVITY_TIMEOUT", "seconds an activity may run that names no timeout", 300.0)
    heartbeat_interval: PositiveSeconds | None = _env("WORKER_HEARTBEAT_INTERVAL", "seconds between heartbeats; never more than a third of the lease, or 20", None)
    graceful_timeout: Seconds = _env("WORKER_SHUTDOWN_TIMEOUT", "seconds a drain waits for running activities", 30.0)
    cancel_grace: Seconds = _env("WORKER_CANCEL_GRACE", "seconds a cancelled handler gets to end", 5.0)
    auth_grace: Seconds = _env("WORKER_AUTH_GRACE", "seconds of refused tokens before exit code 4, if none was ever granted", 30.0)
    max_restarts: int = _env("WORKER_MAX_RESTARTS", "short ends tolerated in the window; 0 = never give up", 10, ge=0)
    restart_window: PositiveSeconds = _env("WORKER_RESTART_WINDOW", "seconds of that window", 60.0)
    boot_timeout: PositiveSeconds = _env("WORKER_BOOT_TIMEOUT", "seconds from fork to ready", 30.0)
    loop: Literal["auto", "uvloop", "asyncio"] = _env("WORKER_LOOP", "event loop: auto, uvloop or asyncio", "auto")
    max_reply_mb: int = _env("WORKER_MAX_REPLY_MB", "largest reply of the engine, in MB", 256, ge=1, le=4096)
    admin: str = _env("WORKER_ADMIN", "where status is served besides the unix socket: HOST:PORT, unix:PATH or off", "127.0.0.1:9464")
    log_level: Literal["debug", "info", "warning", "error"] = _env("LOG_LEVEL", "debug, info, warning or error", "info")
    log_format: Literal["text", "json"] | None = _env("LOG_FORMAT", "text or json; text on a terminal, else json", None)

    activities: dict[str, ActivitySettings] = Field(default={}, validation_alias="activities")

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("api_url")
    @classmethod
    def _engine_origin(cls, url: str) -> str:
        return WorkerConfig(api_url=url).api_url

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        choose_sizes(self.processes, self.concurrency, 1)
        if self.client_id and not (self.client_secret or self.client_secret_file):
            raise ValueError("a client id without a secret: set KRUXIAFLOW_CLIENT_SECRET or KRUXIAFLOW_CLIENT_SECRET_FILE")
        return self

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` has collected: it must know where each value came from."""
        del settings_cls
        return (init_settings,)

    # What the parts of the host are made of

    def plan(self) -> Plan:
        """What to keep alive."""
        processes, concurrency = choose_sizes(self.processes, self.concurrency, usable_cpus())
        return Plan(
            processes=processes,
            concurrency=concurrency,
            graceful_timeout_s=self.graceful_timeout,
            boot_timeout_s=self.boot_timeout,
            restarts=RestartPolicy(self.max_restarts, self.restart_window),
        )

    def worker_config(self, concurrency: int) -> WorkerConfig:
        """The settings of one worker process with `concurrency` slots."""
        return WorkerConfig(
            api_url=self.api_url,
            client_id=self.client_id,
            client_secret=self.secret(),
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
            max_reply_mb=self.max_reply_mb,
            loop=self.loop,
        )

    def activity_options(self) -> dict[str, dict[str, Any]]:
        """What `Registry.configured` takes: only what the file says."""
        return {name: options.model_dump(exclude_none=True) for name, options in self.activities.items()}

    def secret(self) -> SecretStr | None:
        """The client secret, from its variable or its file."""
        if self.client_secret or self.client_secret_file is None:
            return self.client_secret
        try:
            return SecretStr(self.client_secret_file.read_text(encoding="utf-8").strip())
        except OSError as error:
            raise ConfigurationError(f"KRUXIAFLOW_CLIENT_SECRET_FILE: {error.strerror}: {error.filename}") from None


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and where each value that is no default came from, such as `--processes` or a variable's name."""

    settings: Settings
    origins: Mapping[str, str]


def load(flags: Mapping[str, Any], config_file: Path | None = None) -> Loaded:
    """Collects settings: flag > environment > file > default.

    Args:
        flags: by field name; None means not given.
        config_file: must exist when named; else `flowherd.toml`, then `[tool.flowherd]` of `pyproject.toml`.

    Raises:
        ConfigurationError: names the flag, variable or file:key, and what would be right.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for found in (_from_file(config_file), _from_environment(), _from_flags(flags)):
        for name, (value, origin) in found.items():
            values[name], origins[name] = value, origin
    try:
        return Loaded(Settings(**values), origins)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, origins)) from None


def flag_of(name: str) -> str:
    """The flag of a field."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """The environment variable of a field; of `activities`, which has none, its name."""
    return str(Settings.model_fields[name].validation_alias)


def _from_flags(flags: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    return {name: (value, flag_of(name)) for name, value in flags.items() if value is not None}


def _from_environment() -> dict[str, tuple[Any, str]]:
    read = EnvSettingsSource(Settings)()
    found = {name: (read[key], key) for name in Settings.model_fields if (key := variable_of(name)) in read}
    if "worker" not in found and (worker_type := os.environ.get(_OTHER_WORKER_VARIABLE)):
        found["worker"] = (worker_type, _OTHER_WORKER_VARIABLE)
    return found


def _from_file(named: Path | None) -> dict[str, tuple[Any, str]]:
    if named is not None and not named.is_file():
        raise ConfigurationError(f"--config {named}: there is no such file")
    own = named or Path("flowherd.toml")
    if own.is_file():
        return _check_keys(_read_toml(own), str(own))
    project = Path("pyproject.toml")
    table = _read_toml(project).get("tool", {}).get("flowherd", {}) if project.is_file() else {}
    return _check_keys(table, f"{project} [tool.flowherd]")


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path}: {error}") from None


def _check_keys(table: Mapping[str, Any], place: str) -> dict[str, tuple[Any, str]]:
    """Refuses what is no setting, with a suggestion (faults.md S12)."""
    for key in table:
        name = key.replace("-", "_")
        if name == "client_secret":
            raise ConfigurationError(f"{place}: {key}: keep the secret out of files like this: use client_secret_file")
        if name not in Settings.model_fields:
            close = difflib.get_close_matches(name, Settings.model_fields, 1)
            raise ConfigurationError(f"{place}: unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    return {key.replace("-", "_"): (value, f"{place}: {key}") for key, value in table.items()}


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    """One line for each wrong value: where it stands and what would be right; never the value of a secret."""
    by_variable = {variable_of(name): name for name in Settings.model_fields}
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        where = str(problem["loc"][0]) if problem["loc"] else ""
        name = by_variable.get(where, where)
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{origins.get(name, flag_of(name))}: {message}" if name else message)
    return "\n".join(lines)
