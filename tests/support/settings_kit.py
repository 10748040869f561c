"""Checks of refused settings, and a secret that must not be shown."""

from __future__ import annotations

from typing import Any

import pytest

from flowherd.errors import ConfigurationError
from flowherd.settings.sources import load

CANARY = "canary-5up3r-s3cr3t"


def refusal(**flags: Any) -> str:
    """Returns the error message for refused flags."""
    with pytest.raises(ConfigurationError) as caught:
        load(flags)
    return str(caught.value)
