"""The settings of an embedded engine, and the flags of its programs."""

import argparse
import ipaddress
import os
from dataclasses import dataclass, field
from typing import Self

_LAST_PORT = 65_535
_TIMES = {
    "default_lease_s": 60.0,
    "sweep_interval_s": 30.0,
    "workflow_timeout_s": 300.0,
    "token_ttl_s": 86_400.0,
}


class SettingsError(ValueError):
    """Settings that the engine refuses; the text is one line for the terminal."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings of one embedded engine.

    Times are in seconds. `port` 0 picks an ephemeral port, `db` is a path or `:memory:`. Without
    `client_id` it is an insecure-dev engine, which needs no Authorization header (protocol.md §2.2).
    """

    host: str = "127.0.0.1"
    port: int = 8080
    db: str = ":memory:"
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    default_lease_s: float = _TIMES["default_lease_s"]
    default_max_retries: int = 3
    sweep_interval_s: float = _TIMES["sweep_interval_s"]
    workflow_timeout_s: float = _TIMES["workflow_timeout_s"]
    token_ttl_s: float = _TIMES["token_ttl_s"]
    allowed_hosts: tuple[str, ...] = ()

    @classmethod
    def from_flags(cls, program: str) -> Self:
        """Returns the settings from `sys.argv`; with a client id, the secret comes from KRUXIAFLOW_CLIENT_SECRET."""
        parser = argparse.ArgumentParser(prog=program)
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8080, help="0 takes an ephemeral port")
        parser.add_argument("--db", default=":memory:", help="a path, or :memory:")
        parser.add_argument("--client-id", help="enforce tokens; the secret is KRUXIAFLOW_CLIENT_SECRET")
        for name, default_s in _TIMES.items():
            parser.add_argument(_flag(name), dest=name, type=float, default=default_s, metavar="S")
        given = vars(parser.parse_args())
        if given["client_id"] is not None:
            given["client_secret"] = os.environ.get("KRUXIAFLOW_CLIENT_SECRET")
        return cls(**given)

    @property
    def loopback(self) -> bool:
        """True if only programs on this host can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self) -> None:
        """Refuses an open engine beyond loopback (faults.md S3), incomplete credentials and invalid numbers.

        Raises:
            SettingsError: the text names the remedy.

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
        for name in _TIMES:
            if not 0 < getattr(self, name) < float("inf"):
                raise SettingsError(f"{_flag(name)} must be a positive number of seconds")


def _flag(name: str) -> str:
    return "--" + name.removesuffix("_s").replace("_", "-")
