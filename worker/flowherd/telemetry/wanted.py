"""Whether telemetry is asked for, and where to: OpenTelemetry's own variables; it imports nothing of OpenTelemetry."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

DEFAULT_ENDPOINT = "http://localhost:4318"
_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
_PROTOCOL = "http/protobuf"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be sent.

    Attributes:
        traces: the collector that gets spans, as people may see it; empty for none.
        metrics: the same for what `/metrics` shows.
        obstacles: why something that was asked for is not done, with the remedy; one sentence each.

    """

    traces: str = ""
    metrics: str = ""
    obstacles: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.traces == self.metrics:
            return f"traces and metrics go to {self.traces}"
        signals = {"traces": self.traces, "metrics": self.metrics}
        return ", ".join(f"{name} go to {place}" for name, place in signals.items() if place)


def is_installed() -> bool:
    """Whether the extra is."""
    try:
        return all(find_spec(name) is not None for name in _NEEDED)
    except ModuleNotFoundError:
        return False


def wanted(environ: Mapping[str, str], has_extra: Callable[[], bool] = is_installed) -> Wanted:
    """Reads the variables; nothing is wanted unless an endpoint or the exporter `otlp` is named.

    Args:
        environ: where they are.
        has_extra: asked only if something is wanted.

    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Wanted()
    obstacles: list[str] = []
    traces, metrics = (_place(environ, signal, obstacles) for signal in ("TRACES", "METRICS"))
    if (traces or metrics) and not has_extra():
        [asked, *_] = _named(environ)
        obstacles.append(
            f"{asked} asks for telemetry, which is not installed: pip install 'flowherd[otel]', "
            "or OTEL_SDK_DISABLED=true"
        )
        traces = metrics = ""
    return Wanted(traces, metrics, tuple(dict.fromkeys(obstacles)))


def _place(environ: Mapping[str, str], signal: str, obstacles: list[str]) -> str:
    """Where a signal goes; empty: nowhere."""
    name = f"OTEL_{signal}_EXPORTER"
    exporters = {word.strip().lower() for word in environ.get(name, "").split(",")} - {""}
    if unknown := exporters - {"otlp", "none"}:
        obstacles.append(f"{name} names {', '.join(sorted(unknown))}: flowherd knows otlp and none")
    endpoint = _of(environ, signal, "ENDPOINT")
    if "otlp" not in exporters and (exporters or not endpoint):
        return ""
    if (protocol := _of(environ, signal, "PROTOCOL")) not in {"", _PROTOCOL}:
        obstacles.append(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}, and flowherd speaks {_PROTOCOL}: name that, "
            "and the collector's port for it (4318)"
        )
        return ""
    try:
        return _shown(endpoint or DEFAULT_ENDPOINT)
    except ValueError as error:
        obstacles.append(f"the endpoint of OpenTelemetry's variables is no URL: {error}")
        return ""


def _of(environ: Mapping[str, str], signal: str, what: str) -> str:
    own = environ.get(f"OTEL_EXPORTER_OTLP_{signal}_{what}", "")
    return (own or environ.get(f"OTEL_EXPORTER_OTLP_{what}", "")).strip()


def _named(environ: Mapping[str, str]) -> Iterator[str]:
    """The variables that ask for it."""
    signals = ("TRACES", "METRICS")
    names = (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        *(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT" for signal in signals),
        *(f"OTEL_{signal}_EXPORTER" for signal in signals),
    )
    return (name for name in names if environ.get(name))


def _shown(endpoint: str) -> str:
    """Without user and password, which some put there; ValueError for what is no URL."""
    url = urlsplit(endpoint)
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()
