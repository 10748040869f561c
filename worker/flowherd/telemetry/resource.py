"""Who sends telemetry, as OpenTelemetry wants it said; what its variables say goes before what is said here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

import flowherd

if TYPE_CHECKING:
    from flowherd.settings.worker_config import WorkerConfig

SCOPE = ("flowherd", flowherd.__version__)


def resource_of(config: WorkerConfig, process: int | str) -> Resource:
    """What says that something comes from this process.

    Args:
        config: names the host.
        process: its number, or what it is instead.

    """
    ours: dict[str, str | int] = {
        "service.name": "flowherd",
        "service.instance.id": f"{config.worker_id}-{os.getpid()}",
        "process.pid": os.getpid(),
        "flowherd.process": process,
    }
    said = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in ours.items() if name not in said})
