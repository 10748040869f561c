"""Fixtures of the supervisor's tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder: a flowherd.toml of the developer must not decide a test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
