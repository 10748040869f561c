"""The worker program that imports pandas, as if nothing had frozen what it imported before the fork.

Its first activity undoes that, and collects garbage once, as every process does sooner or later: from then on the
process has its own copy of whatever the collector has touched.
"""

from __future__ import annotations

import gc

from pandas_worker import TABLE

from flowherd import Registry

__all__ = ["TABLE", "registry"]

registry = Registry()


@registry.activity
async def noop() -> int:
    """Does nothing, once it has thawed."""
    if gc.get_freeze_count():
        gc.unfreeze()
        gc.collect()
    return 0
