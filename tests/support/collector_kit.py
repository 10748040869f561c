"""A fake OpenTelemetry collector that decodes and stores the spans it receives."""

from __future__ import annotations

import contextlib
import gzip
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CEILING_S = 20.0


@dataclass(frozen=True)
class Span:
    """A received span."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    error: str  # message of the status, "" unless it is an error
    attributes: dict[str, Any]
    resource: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]


@dataclass
class Collector:
    """The spans received so far.

    Attributes:
        status: HTTP status of its replies.
        silence: replies wait until it is set.

    """

    status: int = 200
    url: str = ""
    requests: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)
    silence: threading.Event = field(default_factory=threading.Event)

    def take(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        with self.changed:
            self.requests += 1
            self.headers.append(headers)
            self.paths.add(path)
            if self.status == 200 and path == "/v1/traces":
                self.spans += _spans(body)
            self.changed.notify_all()

    def wait_for(self, look: Callable[[], Any], what: str) -> Any:
        """Waits until a condition on the received spans holds."""
        with self.changed:
            if not self.changed.wait_for(look, CEILING_S):
                raise AssertionError(f"{what}: not within {CEILING_S} s; there are {self.spans}")
            return look()

    def named(self, name: str, count: int = 1) -> list[Span]:
        """Waits for `count` spans of that name."""
        found = lambda: [span for span in self.spans if span.name == name]  # noqa: E731
        return self.wait_for(lambda: len(found()) >= count and found(), f"{count} spans {name!r}")

    def one(self, name: str) -> Span:
        """Waits for the only span of that name."""
        [span] = self.named(name)
        return span


@contextlib.contextmanager
def running_collector(*, answers: bool = True) -> Iterator[Collector]:
    """A collector that ends with the block; while silent it keeps its clients waiting."""
    it = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            it.take(self.path, body, {name.lower(): value for name, value in self.headers.items()})
            it.silence.wait()
            self.send_response(it.status)
            self.send_header("content-length", "0")
            with contextlib.suppress(OSError):
                self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Logs nothing."""

    if answers:
        it.silence.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    it.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield it
    finally:
        it.silence.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _spans(body: bytes) -> Iterator[Span]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    name=span.name,
                    kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    error=span.status.message if span.status.code == 2 else "",
                    attributes=_plain(span.attributes),
                    resource=_plain(resource.resource.attributes),
                    events=[(event.name, _plain(event.attributes)) for event in span.events],
                )


def _plain(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
