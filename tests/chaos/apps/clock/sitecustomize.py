"""Lets the wall clock of every process with this folder on its path jump by what a file says."""

from __future__ import annotations

import os
import time

_real_time = time.time
_file = os.environ.get("CHAOS_CLOCK_FILE", "")


def _jumped() -> float:
    try:
        with open(_file) as file:
            return _real_time() + float(file.read() or 0)
    except FileNotFoundError:
        return _real_time()


if _file:
    time.time = _jumped
