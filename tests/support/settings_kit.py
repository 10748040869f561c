"""How a wrong setting is refused, and a secret that must not be seen; it asserts nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from flowherd.errors import ConfigurationError
from flowherd.settings.sources import load

CANARY = "canary-5up3r-s3cr3t"


def refusal(**flags: Any) -> str:
    """What is said when these flags are refused."""
    with pytest.raises(ConfigurationError) as caught:
        load(flags)
    return str(caught.value)
