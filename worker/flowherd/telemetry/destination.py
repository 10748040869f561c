"""Reads the destination of spans from OpenTelemetry's variables, without importing OpenTelemetry."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEFAULT_ENDPOINT = "http://localhost:4318"
_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
_PROTOCOL = "http/protobuf"
_EXPORTER = "OTEL_TRACES_EXPORTER"
_ASKING = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", _EXPORTER)


@dataclass(frozen=True, slots=True)
class Destination:
    """The collector that spans go to.

    Attributes:
        traces: the collector's URL without credentials, "" for none.
        obstacles: one sentence each for settings that cannot be honoured, with the remedy.

    """

    traces: str = ""
    obstacles: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"traces go to {self.traces}"


def is_installed() -> bool:
    """True when the extra `otel` is installed."""
    try:
        return all(find_spec(name) is not None for name in _NEEDED)
    except ModuleNotFoundError:
        return False


def destination_of(environ: Mapping[str, str], has_extra: Callable[[], bool] = is_installed) -> Destination:
    """Reads the variables; there is a destination only with an endpoint or the exporter `otlp`.

    Args:
        environ: the environment.
        has_extra: returns True when the extra is installed; called only with a destination.

    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Destination()
    obstacles: list[str] = []
    traces = _place(environ, obstacles)
    if traces and not has_extra():
        asked = next(name for name in _ASKING if environ.get(name))
        obstacles.append(
            f"{asked} asks for telemetry, which is not installed: pip install 'flowherd[otel]', "
            "or OTEL_SDK_DISABLED=true"
        )
        traces = ""
    return Destination(traces, tuple(obstacles))


def _place(environ: Mapping[str, str], obstacles: list[str]) -> str:
    """Returns the destination of spans, "" for none."""
    exporters = {word.strip().lower() for word in environ.get(_EXPORTER, "").split(",")} - {""}
    if unknown := exporters - {"otlp", "none"}:
        obstacles.append(f"{_EXPORTER} names {', '.join(sorted(unknown))}: flowherd knows otlp and none")
    endpoint = _of(environ, "ENDPOINT")
    if "otlp" not in exporters and (exporters or not endpoint):
        return ""
    if _of(environ, "PROTOCOL") not in {"", _PROTOCOL}:
        obstacles.append(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {_of(environ, 'PROTOCOL')}, and flowherd speaks {_PROTOCOL}: name that, "
            "and the collector's port for it (4318)"
        )
        return ""
    try:
        return _shown(endpoint or DEFAULT_ENDPOINT)
    except ValueError as error:
        obstacles.append(f"the endpoint of OpenTelemetry's variables is no URL: {error}")
        return ""


def _of(environ: Mapping[str, str], what: str) -> str:
    own = environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{what}", "")
    return (own or environ.get(f"OTEL_EXPORTER_OTLP_{what}", "")).strip()


def _shown(endpoint: str) -> str:
    """Returns the URL without user and password; ValueError when it is not a URL."""
    url = urlsplit(endpoint)
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()
