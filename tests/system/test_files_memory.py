"""A large file is uploaded and downloaded in constant memory, as in a worker's process (faults.md F6)."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from harness import Engine, clean_environment

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.fork, pytest.mark.timeout(120)]

MOST_GROWTH_KB = 16 << 10
MOST_STOCK_GROWTH_KB = 24 << 10

# The kernel records the peak, so that nothing between two readings is missed. The first, small round loads
# the client, the loop's thread and the pages of all code.
_TRANSFER = """
import asyncio, json, pathlib, re, sys
from flowherd import ActivityContext
from flowherd.files.attempt_files import FileAccess
from flowherd.files.scratch_folders import Scratch
from flowherd.execution.run_environment import RunEnvironment
from flowherd.files.transfers import EngineFiles
from flowherd.sdk.run_state import RunState
from flowherd.testing import make_activity

url, folder = sys.argv[1], pathlib.Path(sys.argv[2])

def peak_kb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])

async def main():
    scratch = Scratch(folder / "temp")
    access = FileAccess(lambda: EngineFiles(url, None), asyncio.new_event_loop, max_file_mb=300, scratch=scratch)
    ctx = ActivityContext(RunState(make_activity("work"), RunEnvironment(files=access)))
    peaks, size = [], 0
    for name in ("small", "large"):
        got = await ctx.download_file(await ctx.upload_file(folder / name))
        peaks.append(peak_kb())
        size = got.stat().st_size
    await access.aclose()
    print(json.dumps({"growth_kb": peaks[1] - peaks[0], "size": size}))

asyncio.run(main())
"""


# The same round by a handler of the stock SDK.
_STOCK_TRANSFER = """
import asyncio, json, os, pathlib, re, sys
import kruxiaflow.worker as sdk
from flowherd.execution.run_environment import RunEnvironment
from flowherd.stock_sdk.stock_files import SdkFiles
from flowherd.testing import run_activity

url, folder = sys.argv[1], sys.argv[2]

def peak_kb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])

@sdk.activity()
async def work(params, ctx):
    got = await ctx.download_file(await ctx.upload_file(f"{folder}/{params['name']}", params["name"]))
    return sdk.ActivityResult.value("size", os.path.getsize(got))

async def main():
    files = SdkFiles(url, None)
    peaks, size = [], 0
    for name in ("small", "large"):
        result = await run_activity(work, {"name": name}, environment=RunEnvironment(stock_files=files))
        peaks.append(peak_kb())
        size = result.output["size"]
    await files.aclose()
    print(json.dumps({"growth_kb": peaks[1] - peaks[0], "size": size}))

asyncio.run(main())
"""


@pytest.mark.parametrize("size", [64 << 20, pytest.param(200 << 20, marks=pytest.mark.soak)])
def test_f6_a_large_file_goes_up_and_down_within_16_mb_of_memory(tmp_path: Path, size: int) -> None:
    """Four of them at once must fit beside the handlers' own data."""
    shown = _transferred(_TRANSFER, tmp_path, size)
    assert shown["size"] == size
    assert shown["growth_kb"] <= MOST_GROWTH_KB


@pytest.mark.parametrize("size", [64 << 20, pytest.param(150 << 20, marks=pytest.mark.soak)])
def test_f6_a_stock_handlers_large_file_goes_up_and_down_within_24_mb_of_memory(
    tmp_path: Path, size: int
) -> None:
    """The stock client joins all pieces of an upload in memory, twice the file's size at its peak."""
    pytest.importorskip("kruxiaflow.worker", reason="needs the stock SDK: pip install kruxiaflow==0.4.0")
    shown = _transferred(_STOCK_TRANSFER, tmp_path, size)
    assert shown["size"] == size
    assert shown["growth_kb"] <= MOST_STOCK_GROWTH_KB


def _transferred(program: str, folder: Path, size: int) -> dict[str, int]:
    """Runs a program that uploads and downloads a small and a large file."""
    for name, length in (("small", 1 << 20), ("large", size)):
        with (folder / name).open("wb") as file:
            file.truncate(length)
    engine = Engine(db=str(folder / "engine.db"))
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, engine.url, str(folder)],
            capture_output=True,
            text=True,
            env=clean_environment(),
            timeout=100,
            check=False,
        )
    finally:
        engine.stop()
    assert done.returncode == 0, done.stderr
    shown: dict[str, int] = json.loads(done.stdout)
    return shown
