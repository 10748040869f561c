"""Each log line of a handler names its activity, from any logger and place, in text and in JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from flowherd import Registry, activity, logs
from flowherd.attempt_ids import AttemptIds, working_for
from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.run_environment import RunEnvironment
from flowherd.process.printed_lines import LONGEST_LINE, PrintedLines
from flowherd.sdk.redaction import masking
from flowherd.settings.worker_config import WorkerConfig
from flowherd.stock_sdk.adapt_apps import registry_of
from flowherd.testing import make_activity
from flowherd.worker.run_without_engine import WithoutEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IDS = {
    "process": 2,
    "seen": 1,
    "workflow_id": "00000000-0000-0000-0000-000000000001",
    "activity_id": "00000000-0000-0000-0000-000000000001",
    "activity_key": "step",
}


class Log:
    """The process's log in a pipe."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def use(self, style: Any, level: str = "info") -> None:
        logs.setup(level, style)
        logs.name_process(process=2)
        logs.move_to(self.writer, str)
        structlog.configure(cache_logger_on_first_use=False)  # else our loggers would stay so
        sys.stdout = PrintedLines(sys.stdout)  # pytest has put its own there since the fixture

    def text(self) -> str:
        try:
            return os.read(self.reader, 1 << 20).decode()
        except BlockingIOError:
            return ""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    """Restores logging and stdout, which are global."""
    root, stdout = logging.getLogger(), sys.stdout
    handlers, level = root.handlers[:], root.level
    log = Log()
    yield log
    sys.stdout = stdout
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    logs.name_process()
    logs._hide = None
    os.close(log.reader)
    os.close(log.writer)


async def run(registry: Any, parameters: Any = None, **config: Any) -> None:
    worker = WithoutEngine(registry, WorkerConfig(worker_id="t", **config), ThreadPool(2), RunEnvironment())
    attempt = worker.start(make_activity("work", parameters, key="step"))
    await asyncio.wait_for(worker.outcome(attempt), 10)
    await asyncio.wait_for(worker.ended(attempt), 10)


def of_kind(kind: str, say: Callable[[], None]) -> Registry:
    """A handler that logs and prints, on the loop or in a thread."""

    async def on_loop() -> None:
        say()
        await asyncio.sleep(0)

    def plain() -> None:
        say()

    handler = plain if kind == "def in a thread" else on_loop
    options = {"offload": "thread"} if kind == "async in a thread" else {}
    return Registry.of([activity(name="work", **options)(handler)])


def by_logging() -> None:
    logging.getLogger("theirs.own").info("counting %d", 3, extra={"rows": 3})


def by_structlog() -> None:
    structlog.get_logger("theirs.too").info("counting 3", rows=3)


def by_print() -> None:
    print("counting", 3)


SAYERS = {"logging": by_logging, "structlog": by_structlog, "print": by_print}


@pytest.mark.parametrize("kind", ["async on the loop", "async in a thread", "def in a thread"])
@pytest.mark.parametrize("sayer", SAYERS)
async def test_what_a_handler_says_names_its_activity(log: Log, kind: str, sayer: str) -> None:
    log.use("json")
    await run(of_kind(kind, SAYERS[sayer]))
    [line] = log.lines()
    said = {"event": "activity_stdout", "line": "counting 3"} if sayer == "print" else {"event": "counting 3"}
    assert line.items() >= {**said, "level": "info", "name": "work", **IDS}.items()


async def test_the_activities_logger_calls_the_name_as_every_line_does(log: Log) -> None:
    @activity
    async def work(ctx: Any) -> None:
        ctx.logger.info("counting 3", extra={"rows": 3})

    log.use("json")
    await run(Registry.of([work]))
    [line] = log.lines()
    assert line.items() >= {"event": "counting 3", "rows": 3, "name": "work", **IDS}.items()
    assert "activity_name" not in line


async def test_the_logger_of_a_stock_context_names_the_activity(log: Log) -> None:
    """It is a plain logger of the SDK's: what it is given is all that it knows. Its helpers run in threads."""
    sdk = pytest.importorskip("kruxiaflow.worker", reason="needs the stock SDK")

    @sdk.activity(name="work")
    async def work(params: Any, ctx: Any) -> Any:
        ctx.logger.info("counting %d", params["rows"])
        await asyncio.to_thread(ctx.logger.info, "in its thread")  # noqa: TID251 - as users do
        return sdk.ActivityResult.value("n", 1)

    registry = registry_of(work)
    assert registry is not None
    log.use("json")
    await run(registry, parameters={"rows": 3})
    lines = log.lines()
    assert [line["event"] for line in lines] == ["counting 3", "in its thread"]
    for line in lines:
        assert line.items() >= {"name": "work", **IDS}.items()


async def test_neighbours_on_one_loop_are_not_mistaken_for_each_other(log: Log) -> None:
    """Their lines and parts of lines alternate."""

    @activity
    async def work(ctx: Any) -> None:
        for number in range(3):
            print(f"{number} of", end=" ")
            await asyncio.sleep(0)
            print(ctx.activity_id)
            logging.getLogger("x").info("%s", ctx.activity_id)

    log.use("json")
    worker = WithoutEngine(Registry.of([work]), WorkerConfig(worker_id="t"), ThreadPool(1), RunEnvironment())
    attempts = [worker.start(make_activity("work", number=number)) for number in range(1, 4)]
    for attempt in attempts:
        await asyncio.wait_for(worker.ended(attempt), 10)
    lines = [((line.get("line") or line["event"]), line["activity_id"]) for line in log.lines()]
    assert all(about in text or text.endswith(" of ") for text, about in lines), lines
    assert len([text for text, about in lines if about in text]) == 18


async def test_flowherds_own_lines_are_about_no_activity_but_the_one_they_name(log: Log) -> None:
    """Work that a handler's end starts runs in its context, such as a call to the engine for another outcome."""

    def own() -> None:
        structlog.stdlib.get_logger("flowherd.client.circuit").warning("engine_unreachable")

    log.use("json")
    await run(of_kind("async on the loop", own))
    [line] = log.lines()
    assert "activity_id" not in line


async def test_a_failing_activity_in_text_is_read_from_left_to_right(log: Log) -> None:
    """Event, name, reason and place first; ids last; the traceback below."""

    @activity(name="work")
    async def charge() -> None:
        raise ValueError("no such card")

    log.use("text")
    await run(Registry.of([charge]))
    first, *below = log.text().splitlines()
    words = ("activity_failed", "process=2", "name=work", "type=ValueError", "code=EXECUTION_ERROR",
             "reason='no such card'", "at=", "retryable=True", "retry_in_s=2.0", "took_s=", "waited_s=", "seen=1",
             "workflow_id=", "activity_id=", "activity_key=step")  # fmt: skip
    places = [first.index(word) for word in words]
    assert places == sorted(places)
    assert below[0].startswith("    File ")
    assert below[0].endswith("in charge")
    assert below[-1] == "  ValueError: no such card"


async def test_a_completed_activity_in_text_is_one_line(log: Log) -> None:
    log.use("text")
    await run(of_kind("async on the loop", lambda: None), log_activities=True)
    [line] = log.text().splitlines()
    words = ("activity_completed", "name=work", "took_s=", "waited_s=", "seen=1", "activity_key=step")
    places = [line.index(word) for word in words]
    assert places == sorted(places)


async def test_the_page_on_the_log_shows_a_failure_as_it_is(log: Log) -> None:
    """Its example and its table have the fields of a real line, in their order."""
    page = (Path(__file__).parents[2] / "worker" / "docs" / "log.md").read_text()
    [example] = re.findall(r'^\{"time".*?\}$', page, flags=re.DOTALL | re.MULTILINE)

    @activity
    async def work() -> None:
        raise ValueError("no such card")

    log.use("json")
    await run(Registry.of([work]))
    [line] = log.lines()
    assert list(json.loads(example, strict=False)) == list(line)
    for name in line.keys() - {"time", "level", "event"}:
        assert f"`{name}`" in page, name


# What is printed


def test_what_is_printed_outside_of_handlers_is_a_line_of_the_process(log: Log) -> None:
    log.use("json")
    print("starting\nup")
    assert [(line["event"], line["line"], line["process"]) for line in log.lines()] == [
        ("stdout", "starting", 2),
        ("stdout", "up", 2),
    ]


def test_halves_of_lines_wait_for_their_end_or_for_a_flush(log: Log) -> None:
    log.use("json")
    print("a", end="")
    assert not log.text()
    print("b")
    print("c", end="", flush=True)
    assert [line["line"] for line in log.lines()] == ["ab", "c"]


def test_a_long_line_becomes_several_and_blank_ones_none(log: Log) -> None:
    log.use("json")
    print("x" * (2 * LONGEST_LINE + 1))
    print("\n  \n")
    assert [len(line["line"]) for line in log.lines()] == [LONGEST_LINE, LONGEST_LINE, 1]


def test_threads_do_not_mix_their_halves(log: Log) -> None:
    log.use("json")
    barrier = threading.Barrier(2, timeout=10)

    def work(word: str) -> None:
        working_for.set(AttemptIds(word, "wf", "step", "work"))
        print(word, end=" ")
        barrier.wait()
        print(word)

    threads = [threading.Thread(target=work, args=(word,)) for word in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((line["line"], line["activity_id"]) for line in log.lines()) == [
        ("one one", "one"),
        ("two two", "two"),
    ]


def test_a_log_handler_that_prints_does_not_call_itself(log: Log, capfd: pytest.CaptureFixture[str]) -> None:
    """`StreamHandler(sys.stdout)` is what many apps add."""
    log.use("json")
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as original:
        sys.stdout = PrintedLines(original)
        logging.getLogger().addHandler(logging.StreamHandler(sys.stdout))
        print("hello")
        sys.stdout.flush()
    assert [line["line"] for line in log.lines()] == ["hello"]
    assert b"hello" in os.read(reader, 1 << 16)
    os.close(reader)


def test_what_is_printed_shows_no_secret(log: Log) -> None:
    log.use("json")
    sys.stdout = PrintedLines(sys.stdout, masking(["hunter22"]))
    print("with hunter22")
    assert log.lines()[0]["line"] == "with ***"
