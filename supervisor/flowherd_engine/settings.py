"""What the embedded engine is told at start: frozen data; it opens nothing and reads no environment."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

__all__ = ["EngineSettings", "SettingsError"]

_LAST_PORT = 65_535


class SettingsError(ValueError):
    """A combination of settings the engine refuses; the text is one line for the terminal."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings of one embedded engine.

    Times are in seconds. `port` 0 takes an ephemeral port, `db` is a path or `:memory:`. Without
    `client_id` it is an insecure-dev engine: no Authorization header is needed (protocol.md §2.2).
    `test_hooks` opens `/__test__/…`: a virtual clock, scripted faults and the journal of all claims.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    db: str = ":memory:"
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    default_lease_s: float = 60.0
    default_max_retries: int = 3
    sweep_interval_s: float = 30.0
    workflow_timeout_s: float = 300.0
    token_ttl_s: float = 86_400.0
    allowed_hosts: tuple[str, ...] = ()
    test_hooks: bool = False

    @property
    def loopback(self) -> bool:
        """True when only programs of this host can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self) -> None:
        """Refuse what must not run: an open engine beyond loopback (faults.md S3), and half credentials.

        Raises:
            SettingsError: with the remedy in its text.

        """
        if (self.client_id is None) != (self.client_secret is None):
            missing = "KRUXIAFLOW_CLIENT_SECRET" if self.client_secret is None else "--client-id"
            raise SettingsError(f"credentials need both a client id and a secret: {missing} is not set")
        if self.client_id == "" or self.client_secret == "":
            raise SettingsError("the client id and KRUXIAFLOW_CLIENT_SECRET must not be empty")
        if not self.loopback and self.client_id is None:
            raise SettingsError(
                f"refusing to listen on {self.host} without credentials: set --client-id and "
                "KRUXIAFLOW_CLIENT_SECRET, or bind 127.0.0.1"
            )
        if not 0 <= self.port <= _LAST_PORT:
            raise SettingsError(f"--port {self.port}: a port is 1 to {_LAST_PORT}, or 0 for any free one")
        for name in ("default_lease_s", "sweep_interval_s", "workflow_timeout_s", "token_ttl_s"):
            if not 0 < getattr(self, name) < float("inf"):
                flag = "--" + name.removesuffix("_s").replace("_", "-")
                raise SettingsError(f"{flag} must be a positive number of seconds")
