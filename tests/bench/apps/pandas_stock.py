"""The stock worker whose one activity does nothing, in a program that imports what people's programs import."""

from __future__ import annotations

import asyncio

import numpy as np
import pandas as pd
from noop_worker import main

TABLE = pd.DataFrame({"a": np.arange(1000), "b": np.random.default_rng(1).random(1000)})

if __name__ == "__main__":
    asyncio.run(main())
