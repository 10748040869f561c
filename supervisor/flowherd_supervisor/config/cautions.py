"""What is allowed but unwise in settings, one sentence each; it refuses nothing and never shows a secret."""

from __future__ import annotations

import ipaddress
import stat
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flowherd_supervisor.shell.cpus import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flowherd_supervisor.config.settings import Settings

MANY_PER_CPU = 8  # processes
_OTHERS = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


def cautions(settings: Settings) -> Iterator[str]:
    """What the user should know before it runs (faults.md S1, S13, S14)."""
    if (file := settings.client_secret_file) is not None and _readable_by_others(file):
        yield f"{file} can be read by others: chmod 600 {file}"
    url = urlsplit(settings.api_url)
    if settings.client_id and url.scheme == "http" and not _is_this_host(url.hostname or ""):
        yield f"{settings.api_url} carries the credentials in the clear: put TLS before the engine, use https"
    cpus = usable_cpus()
    if isinstance(settings.processes, int) and settings.processes > MANY_PER_CPU * cpus:
        yield f"{settings.processes} processes share {cpus} usable CPUs: fewer do the same work in less memory"
    host = settings.admin.rpartition(":")[0]
    if not settings.admin.startswith("unix:") and host and not _is_this_host(host):
        yield f"--admin {settings.admin} shows status and metrics to other hosts (GET only)"


def _readable_by_others(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & _OTHERS)
    except OSError:
        return False  # said when it is read


def _is_this_host(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
