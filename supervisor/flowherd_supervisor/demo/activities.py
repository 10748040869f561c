"""The demo's application: three activities as a user would write them; the work itself is in analysis.py.

`flowherd run flowherd_supervisor.demo.activities:registry` hosts them on any engine.
"""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import BaseModel

from flowherd import Registry
from flowherd_supervisor.demo import analysis
from flowherd_supervisor.demo.corpus import read_source
from flowherd_supervisor.demo.journal import record

registry = Registry()


class Part(BaseModel):
    """The parameters of an activity that analyses: which functions of which file, and where to say so."""

    root: str
    path: str
    part: int
    parts: int
    key: str
    journal: str


@functools.cache
def _readers() -> ThreadPoolExecutor:
    """Made at the first use, so after the fork: threads do not survive one."""
    return ThreadPoolExecutor(2, thread_name_prefix="demo-read")


async def _begin(work: Part) -> str:
    """Record the execution and read the file, off the loop."""
    record(work.journal, work.key)
    return await asyncio.get_running_loop().run_in_executor(_readers(), read_source, work.root, work.path)


@registry.activity(name="measure_source")
async def measure_source(work: Part) -> dict[str, Any]:
    """Measure complexity and naming of one file."""
    return analysis.measure(work.path, await _begin(work), work.part, work.parts)


@registry.activity(name="fingerprint_source")
async def fingerprint_source(work: Part) -> dict[str, Any]:
    """Compute minhash signatures for a part of one file's functions."""
    return analysis.fingerprint(work.path, await _begin(work), work.part, work.parts)


@registry.activity(name="merge_findings")
def merge_findings(
    measured: list[dict[str, Any]], fingerprinted: list[dict[str, Any]], key: str, journal: str
) -> dict[str, Any]:
    """Merge all findings to one answer: the reduce step, a plain function on a thread."""
    record(journal, key)
    return analysis.merge(measured, fingerprinted)
