"""A worker program whose imports are what people's programs import; its one activity does nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd

from flowherd import Registry

registry = Registry()
TABLE = pd.DataFrame({"a": np.arange(1000), "b": np.random.default_rng(1).random(1000)})


@registry.activity
async def noop() -> int:
    """Does nothing."""
    return 0
