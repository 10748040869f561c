"""A large file goes up and comes down in constant memory, as a worker's process does it (faults.md F6)."""

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

# The peak is the kernel's own, so that nothing between two looks is missed. The first, small round brings up
# the client, the loop's thread and the pages of all code.
_TRANSFER = """
import asyncio, json, pathlib, re, sys
from flowherd import ActivityContext
from flowherd.files.attempt_files import FileAccess
from flowherd.execution.environment import RunEnvironment
from flowherd.files.transfers import EngineFiles
from flowherd.sdk.run_state import RunState
from flowherd.testing import make_activity

url, folder = sys.argv[1], pathlib.Path(sys.argv[2])

def peak_kb():
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])

async def main():
    access = FileAccess(lambda: EngineFiles(url, None), asyncio.new_event_loop, max_file_mb=300, base=folder / "temp")
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


@pytest.mark.parametrize("size", [64 << 20, pytest.param(200 << 20, marks=pytest.mark.soak)])
def test_f6_a_large_file_goes_up_and_down_within_16_mb_of_memory(tmp_path: Path, size: int) -> None:
    """Four of them at once must fit beside the handlers' own data."""
    for name, length in (("small", 1 << 20), ("large", size)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(length)
    engine = Engine(db=str(tmp_path / "engine.db"))
    try:
        done = subprocess.run(
            [sys.executable, "-c", _TRANSFER, engine.url, str(tmp_path)],
            capture_output=True,
            text=True,
            env=clean_environment(),
            timeout=100,
            check=False,
        )
    finally:
        engine.stop()
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["size"] == size
    assert shown["growth_kb"] <= MOST_GROWTH_KB
