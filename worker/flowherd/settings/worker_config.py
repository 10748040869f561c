"""The configuration of one worker process: frozen, derived from the settings and inherited by a fork."""

from __future__ import annotations

import os
import socket
from pathlib import Path  # noqa: TC003 - pydantic reads it
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from flowherd.errors import ConfigurationError
from flowherd.settings import DEFAULT_WORKER_TYPE

DEFAULT_TRANSPORT: Literal["direct", "httpx"] = "direct"
MAX_POLL = 100  # activities a poll may ask for (protocol.md §4)
LEASE_FALLBACK_S = 60.0  # the engine's default when a definition names no timeout (protocol.md fact 3)
MAX_BEAT_INTERVAL_S = 20.0  # protocol.md §5


def default_worker_id() -> str:
    """Returns `host-pid`, unique per process on this host; at most 120 characters of the 200 in protocol.md R2."""
    return f"{socket.gethostname()[:100]}-{os.getpid()}"


def read_secret(path: Path) -> SecretStr:
    """Reads the secret from a file, without surrounding whitespace.

    Raises:
        ConfigurationError: the file cannot be read, or is empty; the message does not name it.

    """
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigurationError(str(error.strerror)) from None
    except UnicodeDecodeError:
        raise ConfigurationError("this is no text") from None
    if not secret:
        raise ConfigurationError("the file is empty")
    return SecretStr(secret)


class WorkerConfig(BaseModel):
    """Settings of one worker process.

    Times end in `_s` and are in seconds. `concurrency` is the number of slots of this process. `client_secret_file` is
    the file `client_secret` was read from, so that it can be read again; None when the secret has another source.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    api_url: str = "http://127.0.0.1:8080"
    client_id: str | None = None
    client_secret: SecretStr | None = None
    client_secret_file: Path | None = None
    worker_type: str = DEFAULT_WORKER_TYPE
    worker_id: str = Field(default_factory=default_worker_id, min_length=1, max_length=120)
    concurrency: int = Field(default=16, ge=1)
    poll_max: int = Field(default=10, ge=1, le=MAX_POLL)
    poll_interval_s: float = Field(default=0.1, gt=0)
    poll_interval_max_s: float = Field(default=2.0, gt=0)
    default_lease_s: float = Field(default=LEASE_FALLBACK_S, gt=0)
    activity_timeout_s: float = Field(default=300.0, gt=0)
    heartbeat_interval_s: float | None = Field(default=None, gt=0)
    graceful_timeout_s: float = Field(default=30.0, ge=0)
    cancel_grace_s: float = Field(default=5.0, ge=0)
    poison_after: int = Field(default=3, ge=0)
    suspects_at_once: int = Field(default=8, ge=1)  # in isolates, on the whole host
    cpus: int = Field(default=1, ge=1)  # that the host may use
    reports_blockers: bool = False  # the supervisor may move what blocks the loop to isolates
    isolate_max_tasks: int = Field(default=100, ge=1)
    boot_timeout_s: float = Field(default=30.0, gt=0)
    call_deadline_s: float = Field(default=30.0, gt=0)
    max_reply_mb: int = Field(default=256, ge=1)
    max_file_mb: int = Field(default=5120, ge=1)
    loop: Literal["auto", "uvloop", "asyncio"] = "auto"
    transport: Literal["direct", "httpx"] = DEFAULT_TRANSPORT
    log_activities: bool = False  # completed activities are logged at info, not at debug
    secret_names: tuple[str, ...] = ()  # besides `redaction.SECRET_NAMES`

    @field_validator("api_url")
    @classmethod
    def _origin_only(cls, url: str) -> str:
        """Normalises to scheme://host[:port]; refuses user info and anything else (faults.md S15)."""
        parts = urlsplit(url.strip())
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("the API URL must look like http://host:port")
        if parts.username or parts.password:
            raise ValueError(
                "the API URL must not hold a user or password: use --client-id and the secret variable"
            )
        if parts.query or parts.fragment:
            raise ValueError("the API URL must not hold a query or fragment")
        path = parts.path.rstrip("/").removesuffix("/api/v1")
        return f"{parts.scheme}://{parts.netloc}{path}"

    def lease_s(self, timeout_s: float | None) -> float:
        """Seconds until the engine may give an activity to another worker (protocol.md §3; faults.md decision 1)."""
        return self.default_lease_s if timeout_s is None else timeout_s

    def limit_s(self, timeout_s: float | None) -> float:
        """Seconds a handler may run: `timeout_seconds`, else the activity timeout (faults.md decision 1)."""
        return self.activity_timeout_s if timeout_s is None else timeout_s

    def beat_interval_s(self, lease_s: float) -> float:
        """Seconds between heartbeats: min(lease/3, 20), or less if the settings say so (protocol.md R6)."""
        interval = min(lease_s / 3, MAX_BEAT_INTERVAL_S)
        return min(interval, self.heartbeat_interval_s) if self.heartbeat_interval_s else interval
