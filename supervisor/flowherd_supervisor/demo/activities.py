"""The demo's application: four activities as a user would write them; the work itself is in analysis.py.

`flowherd run flowherd_supervisor.demo.activities:registry` hosts them on any engine.
"""

from __future__ import annotations

import asyncio
import functools
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from flowherd import ActivityContext, Registry, SyncActivityContext
from flowherd_supervisor.demo import analysis
from flowherd_supervisor.demo.corpus import read_source
from flowherd_supervisor.demo.journal import record

if TYPE_CHECKING:
    from pathlib import Path

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
    """ActivityProfile complexity and naming of one file."""
    return analysis.measure(work.path, await _begin(work), work.part, work.parts)


@registry.activity(name="fingerprint_source")
async def fingerprint_source(work: Part) -> dict[str, Any]:
    """Compute minhash signatures for a part of one file's functions."""
    return analysis.fingerprint(work.path, await _begin(work), work.part, work.parts)


@registry.activity(name="merge_findings")
def merge_findings(
    ctx: SyncActivityContext,
    measured: list[dict[str, Any]],
    fingerprinted: list[dict[str, Any]],
    key: str,
    journal: str,
) -> dict[str, Any]:
    """Merge all findings to one answer and a file of signatures: the reduce step, a plain function on a thread."""
    record(journal, key)
    with tempfile.NamedTemporaryFile(prefix="signatures-", suffix=".jsonl") as table:
        table.write(analysis.signature_table(fingerprinted))
        table.flush()
        reference = ctx.upload_file(table.name, "signatures.jsonl")
    return {**analysis.merge(measured, fingerprinted), "table": reference}


@registry.activity(name="check_signatures")
async def check_signatures(ctx: ActivityContext, table: str, key: str, journal: str) -> dict[str, Any]:
    """Download the file of signatures and say what it holds."""
    record(journal, key)
    path = await ctx.download_file(table)
    return await asyncio.get_running_loop().run_in_executor(_readers(), _facts, path)


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as table:
        return analysis.table_facts(iter(lambda: table.read(1 << 16), b""))
