"""What the machine is, in one line for the caption; it only reads."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path

import psutil

from flowherd import __version__
from flowherd_supervisor.shell.cpus import usable_cpus

_MODEL = re.compile(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", re.MULTILINE)


def describe_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Model, CPUs, memory, kernel, Python, flowherd, date; never the host's name."""
    usable, all_of_them = usable_cpus(), os.cpu_count() or 1
    cpus = f"{usable} CPUs" if usable == all_of_them else f"{usable} of {all_of_them} CPUs usable"
    return ", ".join(
        (
            model_of(cpuinfo.read_text(errors="replace")) or platform.machine(),
            cpus if usable > 1 else cpus.replace("1 CPUs", "1 CPU"),
            f"{psutil.virtual_memory().total / (1 << 30):.0f} GB",
            f"Linux {platform.release().partition('-')[0]}",
            f"Python {platform.python_version()}",
            f"flowherd {__version__}",
            time.strftime("%Y-%m-%d"),
        )
    )


def model_of(cpuinfo: str) -> str:
    """The processor's name without trademarks; empty where the kernel tells none."""
    found = _MODEL.search(cpuinfo)
    return " ".join(re.sub(r"\((?:R|TM)\)|CPU|@.*", "", found[1]).split()) if found else ""
