"""Logging by structlog over the standard library, with one event per line and one write per line."""

from __future__ import annotations

import logging
import os
import select
import sys
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import structlog

from flowherd.attempt_ids import HANDLERS, working_for
from flowherd.cut_middle import cut_middle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, MutableMapping

_SHORTEST_TEXT = 64  # characters; shorter texts are not cut
MAX_LINE_BYTES = 4096  # a pipe takes this much in one piece, so lines of several processes never interleave


class LineHandler(logging.Handler):
    """Writes each record with a single `os.write`; a full or closed pipe loses the line, but never blocks."""

    def __init__(self, fd: int = 2) -> None:
        super().__init__()
        self.dropped = 0
        self._fd = fd
        self._room = select.poll()
        self._room.register(fd, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Formats and writes one record."""
        try:
            line = self.format(record).encode(errors="replace")
            if len(line) >= MAX_LINE_BYTES:
                line = _shorten(line)
            if self._room.poll(0):  # a writable pipe has room for a whole line
                os.write(self._fd, line + b"\n")
            else:
                self.dropped += 1
        except OSError:
            self.dropped += 1
        except Exception:  # noqa: BLE001 - a record that cannot be formatted must not raise in the caller
            self.handleError(record)


def _shorten(line: bytes) -> bytes:
    """Cuts a long record in the middle of its longest texts, so that JSON stays valid and keeps its ids."""
    if not line.startswith(b'{"'):
        half = MAX_LINE_BYTES // 2 - 10
        head, tail = (part.decode(errors="ignore") for part in (line[:half], line[-half:]))
        return f"{head} … {tail}".encode()
    import msgspec  # noqa: PLC0415 - needed only for long lines

    record = msgspec.json.decode(line)
    texts = [name for name, value in record.items() if isinstance(value, str)]
    short = line
    while texts and len(short) >= MAX_LINE_BYTES:
        longest = max(texts, key=lambda name: len(record[name]))
        if len(record[longest]) < _SHORTEST_TEXT:
            break
        record[longest] = cut_middle(record[longest], len(record[longest]) * 2 // 3)
        short = msgspec.json.encode(record)
    if len(short) < MAX_LINE_BYTES:
        return short
    head = line[: MAX_LINE_BYTES // 2].decode(errors="ignore")
    return msgspec.json.encode({"event": "line_too_long", "bytes": len(line), "begins": head[:1500]})


def _name_the_process(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Adds the process to every line that names no other; for a worker thread, its own index."""
    return {**_process_label, **_thread_label.get(), **event}


def _name_the_activity(logger: Any, _: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Adds the activity's ids to every line of its handler, and orders the ids in any line about an activity."""
    if "activity_id" not in event:
        attempt = working_for.get()
        if attempt is None or _is_ours(logger, event):
            return event
        event = {**attempt.fields(), **event}
    if "activity_name" in event:
        event["name"] = event.pop("activity_name")
    event = {**{name: event[name] for name in ("process", "name") if name in event}, **event}
    for name in _IDS:
        if name in event:
            event[name] = event.pop(name)
    return event


_IDS = ("seen", "workflow_id", "activity_id", "activity_key")


def _is_ours(logger: Any, event: Mapping[str, Any]) -> bool:
    """True for a line of flowherd itself, which names an activity where it is about one."""
    name = str(getattr(event.get("_record", logger), "name", ""))
    return name.partition(".")[0] == "flowherd" and name != HANDLERS


def _familiar_order(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Puts time, level and event first."""
    first = {name: event[name] for name in ("time", "level", "event", "process") if name in event}
    return {**first, **event}


def visible(text: str) -> str:
    """Escapes all characters that are not printable: controls, line ends, direction marks (faults.md N17)."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _one_line(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escapes all values, so that none can forge a line or control a terminal (faults.md S6, N17)."""
    return {visible(name): _for_eyes(name, value) for name, value in event.items()}


def _for_eyes(name: str, value: Any) -> Any:
    """Escapes a value; keeps the lines of `stack` and `exception`, indented, since they follow below the line."""
    if name in {"stack", "exception"} and value is not None:
        lines = value if isinstance(value, list) else str(value).split("\n")
        return "\n".join("  " + visible(str(line)) for line in lines)
    return visible(value) if isinstance(value, str) else value


def _without_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Masks secrets in all texts except time and level."""
    if _hide is None:
        return event
    return {
        name: _hide(value) if isinstance(value, str) and name not in _OURS else value
        for name, value in event.items()
    }


_OURS = frozenset({"time", "timestamp", "level"})
_hide: Callable[[str], str] | None = None
_formatter: logging.Formatter | None = None
_process_label: dict[str, Any] = {}
_thread_label: ContextVar[Mapping[str, Any]] = ContextVar(
    "flowherd_thread_label", default=MappingProxyType({})
)


def name_process(**label: Any) -> None:
    """Sets fields for every later line of this process, such as `process=2`."""
    _process_label.clear()
    _process_label.update(label)


def name_thread(**label: Any) -> None:
    """Sets fields for every later line of this context and of contexts copied from it; they override the process's."""
    _thread_label.set(label)


def move_to(fd: int, hide: Callable[[str], str]) -> None:
    """Sends all later lines of this process to another descriptor, with secrets masked by `hide`.

    Removes all other handlers of the root logger.
    """
    global _hide  # noqa: PLW0603 - the secrets of the process
    _hide = hide
    handler = LineHandler(fd)
    handler.setFormatter(_formatter)
    logging.getLogger().handlers[:] = [handler]


def _stamp(style: str) -> Any:
    """Returns the processor for time stamps: UTC in microseconds for JSON, the local time of day for text."""
    if style == "json":
        return structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
    return structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False, key="timestamp")


def style_of(style: Literal["text", "json"] | None) -> Literal["text", "json"]:
    """Returns the style, or by default text when stderr is a terminal, else JSON."""
    return style or ("text" if sys.stderr.isatty() else "json")


def rendering(style: Literal["text", "json"]) -> list[Any]:
    """Returns the processors that render an event; tracebacks without variables, unlike structlog's own."""
    if style == "json":
        last: list[Any] = [_familiar_order, structlog.processors.JSONRenderer(default=repr)]
    else:
        last = [
            _one_line,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=28, sort_keys=False),
        ]
    return [structlog.processors.format_exc_info, _without_secrets, *last]


def setup(level: str = "info", style: Literal["text", "json"] | None = None) -> None:
    """Configures logging of this process; with `style` None it is text on a terminal, else JSON."""
    style = style_of(style)
    shared: list[Any] = [
        _name_the_process,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        _name_the_activity,
        _stamp(style),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    global _formatter  # noqa: PLW0603 - as above
    _formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering(style)],
    )
    handler = LineHandler()
    handler.setFormatter(_formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("httpx", "httpcore", "uvicorn", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
