"""Chooses the numbers of processes and slots, and warns about settings that are allowed but unwise."""

from __future__ import annotations

import ipaddress
import stat
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flowherd.counted import counted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flowherd.settings.model import Settings

SLOTS_PER_PROCESS = 4
FEWEST_SLOTS = 16
MOST_PROCESSES = 256  # all look at the cells of all: 1,000 took 20 GB, and `status` and a stop came too late
MANY_PER_CPU = 8  # processes per CPU, beyond which there is a warning
_OTHERS = stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH


def choose_sizes(processes: int | None, concurrency: int | None, usable_cpus: int) -> tuple[int, int]:
    """Returns the numbers of processes and slots; None means automatic, and follows the other when that is explicit.

    Raises:
        ValueError: both are explicit, and a process would have no slot.

    """
    if processes is not None and concurrency is not None and concurrency < processes:
        raise ValueError(
            f"--concurrency {concurrency} is less than --processes {processes}: a process would have none. "
            f"Use --concurrency {processes} or more, or --processes {concurrency} or fewer"
        )
    if processes is None:
        processes = min(usable_cpus, MOST_PROCESSES, usable_cpus if concurrency is None else concurrency)
    if concurrency is None:
        concurrency = max(FEWEST_SLOTS, SLOTS_PER_PROCESS * processes)
    return processes, concurrency


def cautions(settings: Settings, usable_cpus: int) -> Iterator[str]:
    """Yields warnings to show before the host starts (faults.md S1, S13, S14)."""
    if (file := settings.client_secret_file) is not None and _readable_by_others(file):
        yield f"{file} can be read by others: chmod 600 {file}"
    url = urlsplit(settings.api_url)
    if settings.client_id and url.scheme == "http" and not _is_this_host(url.hostname or ""):
        yield f"{settings.api_url} carries the credentials in the clear: put TLS before the engine, use https"
    if isinstance(settings.processes, int) and settings.processes > MANY_PER_CPU * usable_cpus:
        cpus = counted(usable_cpus, "usable CPU")
        yield f"{settings.processes} processes share {cpus}: fewer do the same work in less memory"
    host = settings.admin.rpartition(":")[0]
    if not settings.admin.startswith("unix:") and host and not _is_this_host(host):
        yield f"--admin {settings.admin} shows status and metrics to other hosts (GET only)"


def _readable_by_others(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & _OTHERS)
    except OSError:
        return False  # reported when the file is read


def _is_this_host(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
