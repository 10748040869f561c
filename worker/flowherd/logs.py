"""Logging with one event a line and one write a line: structlog over the standard library; it logs nothing itself."""

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

_SHORTEST_TEXT = 64  # that is cut
MAX_LINE_BYTES = 4096  # what a pipe takes in one piece, so that processes never interleave


class LineHandler(logging.Handler):
    """Writes each record with a single `os.write`; a full or closed pipe loses the line, never the caller."""

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
            if self._room.poll(0):  # a pipe that has room has it for a whole line
                os.write(self._fd, line + b"\n")
            else:
                self.dropped += 1
        except OSError:
            self.dropped += 1
        except Exception:  # noqa: BLE001 - a record that cannot be formatted must not take the caller down
            self.handleError(record)


def _shorten(line: bytes) -> bytes:
    """Cuts an over-long record in the middle of its longest texts, so that JSON stays JSON and its ids are kept."""
    if not line.startswith(b'{"'):
        half = MAX_LINE_BYTES // 2 - 10
        head, tail = (part.decode(errors="ignore") for part in (line[:half], line[-half:]))
        return f"{head} … {tail}".encode()
    import msgspec  # noqa: PLC0415 - only for lines that are too long

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
    """Names the process in every line that does not speak of another one; a worker that is a thread, itself."""
    return {**_process_label, **_thread_label.get(), **event}


def _name_the_activity(logger: Any, _: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Names the activity in every line of its handler, and puts the ids of any line about one where eyes find them."""
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
    """A line of flowherd's own: it names the activity itself where it speaks of one."""
    name = str(getattr(event.get("_record", logger), "name", ""))
    return name.partition(".")[0] == "flowherd" and name != HANDLERS


def _familiar_order(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Time, level and event first, as eyes and grep expect."""
    first = {name: event[name] for name in ("time", "level", "event", "process") if name in event}
    return {**first, **event}


def visible(text: str) -> str:
    """The text with all that is not printable as escapes: controls, line ends, marks of direction (faults.md N17)."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _one_line(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Shows what comes from outside so that it can neither forge a line nor steer a terminal (faults.md S6, N17)."""
    return {visible(name): _for_eyes(name, value) for name, value in event.items()}


def _for_eyes(name: str, value: Any) -> Any:
    """Keeps the lines of what the renderer puts below the line, `stack` and `exception`, each of them set in."""
    if name in {"stack", "exception"} and value is not None:
        lines = value if isinstance(value, list) else str(value).split("\n")
        return "\n".join("  " + visible(str(line)) for line in lines)
    return visible(value) if isinstance(value, str) else value


def _without_secrets(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Takes out what a process must not log; time and level are ours."""
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
    """Sets what every later line of this process carries, such as `process=2`."""
    _process_label.clear()
    _process_label.update(label)


def name_thread(**label: Any) -> None:
    """Sets what every later line of this context carries, and of all that is begun from it, before the process's."""
    _thread_label.set(label)


def move_to(fd: int, hide: Callable[[str], str]) -> None:
    """From now on the lines of this process go to another descriptor, and `hide` takes secrets out of their texts.

    Whatever else an app has made of the root logger goes.
    """
    global _hide  # noqa: PLW0603 - it is the process that has secrets
    _hide = hide
    handler = LineHandler(fd)
    handler.setFormatter(_formatter)
    logging.getLogger().handlers[:] = [handler]


def _stamp(style: str) -> Any:
    """UTC to the microsecond for machines, the local time of day for eyes."""
    if style == "json":
        return structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
    return structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False, key="timestamp")


def style_of(style: Literal["text", "json"] | None) -> Literal["text", "json"]:
    """The style itself, or the one that fits where stderr goes: text on a terminal, JSON elsewhere."""
    return style or ("text" if sys.stderr.isatty() else "json")


def rendering(style: Literal["text", "json"]) -> list[Any]:
    """The processors that make a line of an event, tracebacks included: structlog's own would show variables."""
    if style == "json":
        last: list[Any] = [_familiar_order, structlog.processors.JSONRenderer(default=repr)]
    else:
        last = [
            _one_line,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=28, sort_keys=False),
        ]
    return [structlog.processors.format_exc_info, _without_secrets, *last]


def setup(level: str = "info", style: Literal["text", "json"] | None = None) -> None:
    """Configures logging of this process; `style` None means text on a terminal and JSON elsewhere."""
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
