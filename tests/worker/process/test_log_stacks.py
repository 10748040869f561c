"""Tasks in the log: the line at which each of them waits."""

from __future__ import annotations

import asyncio

import structlog

from flowherd.process.log_stacks import dump_tasks


async def handler(began: asyncio.Event) -> None:
    await deeper(began)


async def deeper(began: asyncio.Event) -> None:
    began.set()
    await asyncio.Event().wait()


async def test_a_task_that_waits_shows_every_frame_down_to_what_it_waits_in() -> None:
    """The outermost alone is always ours, and the same for every handler."""
    began = asyncio.Event()
    task = asyncio.create_task(handler(began), name="the handler")
    await began.wait()
    with structlog.testing.capture_logs() as said:
        dump_tasks(structlog.get_logger())
    task.cancel()
    [line] = [line for line in said if line["task"] == "the handler"]
    assert [frame.rpartition(" ")[2] for frame in line["stack"]] == ["handler", "deeper", "wait"]
    assert line["stack"][1].startswith(f"{__file__}:")
