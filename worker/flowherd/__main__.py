"""One worker, one process: turns words into settings; the work is done by `flowherd.process.solo`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import ValidationError

from flowherd import __version__, logs
from flowherd.config import DEFAULT_TRANSPORT, WorkerConfig, read_secret
from flowherd.errors import AppImportError, ConfigurationError
from flowherd.exits import Exit
from flowherd.process import solo
from flowherd.process.standard_streams import open_closed_streams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_EPILOG = (
    "KRUXIAFLOW_CLIENT_SECRET or KRUXIAFLOW_CLIENT_SECRET_FILE holds the secret of --client-id. "
    "`flowherd run` hosts the same app on several processes and keeps leases while handlers block."
)


def seconds(text: str) -> float:
    """`60`, `60s`, `500ms` and `2m`, as the engine's own variables are written (protocol.md §3.3)."""
    for unit, factor in _UNITS_S.items():
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit():
            return float(number) * factor
    return float(text)


def parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    """Flags with their variables as defaults; argparse parses those like flags."""
    made = argparse.ArgumentParser("python -m flowherd", description=__doc__, epilog=_EPILOG)
    made.add_argument(
        "app", metavar="APP", help="module:attr: a registry, a module of activities, or a main()"
    )
    made.add_argument("--app-dir", default=".", help="goes first on the import path")
    made.add_argument("--version", action="version", version=__version__)

    def add(flag: str, variable: str, help_text: str, default: Any = None, parse: Any = str) -> None:
        name = f"KRUXIAFLOW_{variable}"
        shown = "" if default is None else f" [default: {default}]"
        made.add_argument(
            flag, type=parse, default=environ.get(name) or default, help=f"{help_text}{shown} [env: {name}]"
        )

    add("--api-url", "API_URL", "the engine", "http://127.0.0.1:8080")
    add("--client-id", "CLIENT_ID", "OAuth2 client; none for an insecure-dev engine")
    add("--worker", "WORKER", "worker type to serve; else the app's only type, else py-std")
    add("--worker-id", "WORKER_ID", "begins every worker_id on the wire; else host-pid")
    add("--concurrency", "WORKER_MAX_ACTIVITIES", "activities at once", 16, int)
    add("--poll-max", "WORKER_POLL_MAX_ACTIVITIES", "activities one poll may ask for, 1 to 100", 10, int)
    add(
        "--default-lease",
        "QUEUE_DEFAULT_TIMEOUT",
        "the engine's lease of activities that name none",
        "60s",
        seconds,
    )
    add(
        "--graceful-timeout",
        "WORKER_SHUTDOWN_TIMEOUT",
        "how long a drain waits for running work",
        "30s",
        seconds,
    )
    add(
        "--auth-grace",
        "WORKER_AUTH_GRACE",
        "of refused tokens before exit code 4, if none was granted",
        "30s",
        seconds,
    )
    add("--transport", "WORKER_TRANSPORT", "httpx, httpx-pool or direct", DEFAULT_TRANSPORT)
    add("--log-level", "LOG_LEVEL", "debug, info, warning or error", "info")
    add("--log-format", "LOG_FORMAT", "text or json; text on a terminal, else json")
    return made


def _secret(environ: Mapping[str, str]) -> dict[str, Any]:
    if path := environ.get("KRUXIAFLOW_CLIENT_SECRET_FILE"):
        file = Path(path).absolute()
        try:
            return {"client_secret": read_secret(file), "client_secret_file": file}
        except ConfigurationError as error:
            raise ConfigurationError(f"KRUXIAFLOW_CLIENT_SECRET_FILE: {error}") from None
    return {"client_secret": environ.get("KRUXIAFLOW_CLIENT_SECRET") or None}


def _config(given: argparse.Namespace, environ: Mapping[str, str]) -> WorkerConfig:
    fields: dict[str, Any] = {
        "api_url": given.api_url,
        "client_id": given.client_id,
        **_secret(environ),
        "concurrency": given.concurrency,
        "poll_max": given.poll_max,
        "default_lease_s": given.default_lease,
        "graceful_timeout_s": given.graceful_timeout,
        "transport": given.transport,
    }
    if given.worker_id:
        fields["worker_id"] = given.worker_id
    if given.client_id and not fields["client_secret"]:
        raise ConfigurationError("a client id without a secret: set KRUXIAFLOW_CLIENT_SECRET")
    try:
        return WorkerConfig(**fields)
    except ValidationError as error:
        problems = (f"{_path(item['loc'])}: {item['msg']}" for item in error.errors(include_input=False))
        raise ConfigurationError("; ".join(problems)) from None


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def main(words: Sequence[str], environ: Mapping[str, str]) -> int:
    """Runs until told to stop and returns the exit code (flowherd.exits)."""
    given = parser(environ).parse_args(words)
    try:
        logs.setup(given.log_level, given.log_format)
        worker_type = given.worker or environ.get("WORKER_TYPE") or None
        setup = solo.SoloSetup(
            given.app, given.app_dir, worker_type, _config(given, environ), auth_grace_s=given.auth_grace
        )
        return solo.run(setup)
    except ConfigurationError as error:
        return _refuse(Exit.USAGE, str(error))
    except AppImportError as error:
        return _refuse(Exit.BOOT_FAILED, f"{error.report}\n{error}")


def _refuse(code: Exit, text: str) -> int:
    sys.stderr.write(f"flowherd: {text}\n" if code is Exit.USAGE else f"{text}\n")
    return code


def _leave(code: int) -> NoReturn:
    """Ends without waiting for threads that user code left behind (faults.md A16, C16)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    open_closed_streams()
    _leave(main(sys.argv[1:], os.environ))
