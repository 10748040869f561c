"""The log: one event, one line, one write; it never blocks or raises, and lines cannot be forged."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from flowherd import logs
from flowherd.sdk.redaction import masking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Log:
    """The process's logging, written into a pipe."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.handler = logs.LineHandler(self.writer)

    def use(self, style: Any, level: str = "info") -> None:
        logs.setup(level, style)
        root = logging.getLogger()
        self.handler.setFormatter(root.handlers[0].formatter)
        root.handlers[:] = [self.handler]

    def lines(self) -> list[str]:
        try:
            return os.read(self.reader, 1 << 20).decode().splitlines()
        except BlockingIOError:
            return []

    def close(self) -> None:
        for fd in (self.reader, self.writer):
            try:
                os.close(fd)
            except OSError:
                continue


@pytest.fixture
def log() -> Iterator[Log]:
    """Puts everything back: logging is global."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    log = Log()
    yield log
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    logs.name_process()
    logs._hide = None
    log.close()


def say(event: str, **data: Any) -> None:
    structlog.stdlib.get_logger("flowherd.test").info(event, **data)


def test_json_lines_say_when_how_bad_what_and_who(log: Log) -> None:
    log.use("json")
    logs.name_process(process=2)
    say("activity_settled", activity_id="a-1")
    (line,) = log.lines()
    entry = json.loads(line)
    assert list(entry)[:4] == ["time", "level", "event", "process"]
    assert (entry["event"], entry["level"], entry["process"]) == ("activity_settled", "info", 2)
    assert entry["activity_id"] == "a-1"
    assert entry["time"].endswith("Z")


def test_a_line_that_speaks_of_another_process_names_that_one(log: Log) -> None:
    log.use("json")
    logs.name_process(process="keeper")
    say("activity_settled", process=3)
    assert json.loads(log.lines()[0])["process"] == 3


def test_the_standard_librarys_loggers_end_in_the_same_lines(log: Log) -> None:
    """Handlers of users log with whatever they like."""
    log.use("json")
    logging.getLogger("theirs").warning("theirs %s", "too", extra={"order": 7})
    entry = json.loads(log.lines()[0])
    assert (entry["event"], entry["level"], entry["order"]) == ("theirs too", "warning", 7)


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize(
    "evil",
    [
        "a\nERROR forged=1",
        "a\r\nb",
        "\x1b[2J\x1b[31mred",
        "\x9b31m",
        "a\u2028b",
        "right\u202eto left",
        "\0",
        "\x85",
    ],
)
def test_no_text_can_forge_a_line_or_steer_a_terminal(log: Log, style: str, evil: str) -> None:
    """Faults S6: names and messages come from elsewhere."""
    log.use(style)
    structlog.stdlib.get_logger("x").info("event", name=evil, more=[evil])
    logging.getLogger("x").warning("said %s", evil)
    raw = os.read(log.reader, 1 << 16).decode()
    assert raw.count("\n") == 2
    assert raw.replace("\n", "").isprintable()


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_long_record_is_cut_to_what_a_pipe_takes_in_one_piece(log: Log, style: str) -> None:
    """Processes share one pipe: longer writes would interleave."""
    log.use(style)
    for text in ("x" * 100_000, '"' * 100_000, "\U0001f600" * 20_000, "\\" * 50_000):
        say("a long one", text=text)
        raw = os.read(log.reader, 1 << 20)
        assert len(raw) <= logs.MAX_LINE_BYTES
        assert raw.endswith(b"\n")
        assert b"a long one" in raw
        if style == "json":
            assert json.loads(raw)["event"] == "a long one"


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_long_record_keeps_its_ids_and_both_ends_of_its_traceback(log: Log, style: str) -> None:
    """A failure must be found by its workflow."""
    log.use(style)
    trace = f"root cause {'é' * 5_000} last line"
    say("activity_failed", reason="x" * 3_000, workflow_id="wf-1", activity_id="a-1", exception=trace)
    raw = os.read(log.reader, 1 << 20).decode()
    assert len(raw.encode()) <= logs.MAX_LINE_BYTES
    assert raw.startswith("{") == (style == "json")
    assert "activity_failed" in raw
    assert "last line" in raw
    if style == "json":
        entry = json.loads(raw)
        assert (entry["workflow_id"], entry["activity_id"]) == ("wf-1", "a-1")
        assert entry["exception"].startswith("root cause")


def test_a_record_of_many_texts_is_still_a_record(log: Log) -> None:
    """Where nothing can be cut, its beginning is shown."""
    log.use("json")
    say("too many", **{f"field_{number}": "short" for number in range(500)})
    assert json.loads(os.read(log.reader, 1 << 20))["event"] == "line_too_long"


def test_a_full_pipe_loses_the_line_and_never_blocks(log: Log) -> None:
    """Faults C27: without a reader, heartbeats must go on."""
    log.use("json")
    fcntl.fcntl(log.writer, 1031, 4096)  # F_SETPIPE_SZ
    for _ in range(200):
        say("event", text="x" * 1000)
    assert log.handler.dropped >= 190
    log.lines()
    say("room again")
    assert json.loads(log.lines()[-1])["event"] == "room again"


@pytest.mark.parametrize("how", ["reader", "writer"])
def test_a_closed_pipe_loses_the_line_and_raises_nothing(log: Log, how: str) -> None:
    """Faults C27, A14."""
    log.use("json")
    os.close(getattr(log, how))
    say("event")
    assert log.handler.dropped == 1


def test_a_record_that_cannot_be_formatted_does_not_take_the_caller_down(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    log.use("json")
    logging.getLogger("x").warning("%d", "no number")
    say("after")
    assert "after" in log.lines()[-1]


def test_below_the_level_nothing_is_written(log: Log) -> None:
    log.use("json", level="warning")
    say("event")
    assert log.lines() == []


@pytest.mark.parametrize("name", ["httpx", "httpcore", "asyncio", "uvicorn"])
def test_libraries_that_log_requests_stay_quiet_even_at_debug(log: Log, name: str) -> None:
    """Faults S7: httpcore logs headers at debug, Authorization among them."""
    log.use("json", level="debug")
    logging.getLogger(name).info("authorization: Bearer canary")
    assert log.lines() == []


@pytest.mark.parametrize(
    ("style", "expected"),
    [("text", "text"), ("json", "json"), (None, "json")],
    ids=["text", "json", "a pipe"],
)
def test_the_style_follows_the_flag_else_the_terminal(style: Any, expected: str) -> None:
    assert logs.style_of(style) == expected


def test_an_exception_is_in_the_record(log: Log) -> None:
    log.use("json")
    raising: Callable[[], float] = lambda: 1 / 0  # noqa: E731 - shorter so
    try:
        raising()
    except ZeroDivisionError:
        structlog.stdlib.get_logger("x").exception("it_broke")
    assert "ZeroDivisionError" in json.loads(log.lines()[0])["exception"]


def rendered(style: Any, event: dict[str, Any]) -> str:
    result: Any = dict(event)
    for step in logs.rendering(style):
        result = step(None, "info", result)
    return str(result)


@given(
    fields=st.dictionaries(
        st.text(max_size=8), st.text(max_size=40) | st.lists(st.text(max_size=9)), max_size=4
    )
)
def test_n17_whatever_the_fields_json_is_one_event_a_line_and_text_steers_no_terminal(
    fields: dict[str, Any],
) -> None:
    """N17: names, parameters and messages come from elsewhere; colours are off, since stderr is no terminal here."""
    event = {**fields, "event": "x"}
    assert json.loads(rendered("json", event))["event"] == "x"
    assert "\n" not in rendered("json", event)
    lines = rendered("text", event).split("\n")
    assert all(line.isprintable() for line in lines)
    assert all(line.startswith("  ") for line in lines[1:])


def test_n17_an_exception_in_text_is_set_in_shows_no_variables_and_cannot_forge_a_line(log: Log) -> None:
    """Tracebacks with local variables showed tokens and parameters."""
    log.use("text")
    canary = "canary-5ecret"
    try:
        int(f"bad\n12:00 [error] forged\x1b[2J {len(canary)}")
    except ValueError:
        structlog.stdlib.get_logger("x").exception("it_broke")
    raw = os.read(log.reader, 1 << 16).decode()
    assert canary not in raw.replace('canary = "canary-5ecret"', "")
    lines = raw.rstrip("\n").split("\n")
    assert "it_broke" in lines[0]
    assert lines[1] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") and line.isprintable() for line in lines[1:])


def test_a_stack_is_read_below_its_line_whatever_it_is_made_of(log: Log) -> None:
    """structlog renders `stack` and `exception` itself, and only as text: another kind lost the whole line."""
    log.use("text")
    say("stack_of_task", task="Task-1", stack=["app.py:3 outer", "evil\n.py:9 inner"])
    assert log.lines()[1:] == ["  app.py:3 outer", "  evil\\n.py:9 inner"]
    logging.getLogger("theirs").warning("theirs", extra={"exception": 7})
    assert log.lines()[-1] == "  7"
    say("none", stack=None, exception=None)
    assert len(log.lines()) == 1


def test_a_worker_that_is_a_thread_names_itself_also_where_its_work_goes_on_elsewhere(log: Log) -> None:
    """Several workers in one process: each line says whose it is, whichever thread writes it."""
    log.use("json")
    logs.name_process(process=0)

    def work() -> None:
        logs.name_thread(process=1)
        say("in_its_thread")
        context = copy_context()
        elsewhere = threading.Thread(target=context.run, args=(say, "in_its_pool"))
        elsewhere.start()
        elsewhere.join()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    say("in_the_main_thread")
    assert [json.loads(line)["process"] for line in log.lines()] == [1, 1, 0]


def test_a_process_whose_log_lines_go_elsewhere_masks_those_of_every_logger(log: Log) -> None:
    """An isolate writes beside its worker, whose lines it names, and knows the secrets of its environment."""
    log.use("json")
    logs.name_process(process=2, isolate=71)
    logs.move_to(log.writer, masking(["hunter22", "info"]))
    say("moved to hunter22", rows=3)
    try:
        {}["hunter22"]
    except KeyError:
        logging.getLogger("theirs").exception("%s", "theirs", extra={"shelf": "a hunter22"})
    first, second = (json.loads(line) for line in log.lines())
    first.pop("time")
    assert first == {"level": "info", "event": "moved to ***", "process": 2, "isolate": 71, "rows": 3}
    assert (second["event"], second["shelf"], second["isolate"]) == ("theirs", "a ***", 71)
    assert second["exception"].endswith("KeyError: '***'")
