"""Unit files and image, checked by their own tools; a missing tool skips its test by name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from deploy_kit import DEPLOY, run_tool

if TYPE_CHECKING:
    from pathlib import Path

EXPOSURE = 2.5  # of 10; the issue's own bound
UNITS = {"flowherd.service": "flowherd.service", "flowherd@.service": "flowherd@images.service"}


@pytest.fixture(params=UNITS)
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A unit as it is installed, with a program and a user that there are."""
    text = (DEPLOY / "systemd" / request.param).read_text()
    text = text.replace("/opt/flowherd/venv/bin/flowherd", "/bin/true")
    text = re.sub(r"^(User|Group)=.*$", r"\1=daemon", text, flags=re.MULTILINE)
    path = tmp_path / UNITS[request.param]
    path.write_text(text)
    return path


def test_systemd_has_nothing_against_the_unit(unit: Path) -> None:
    """`systemd-analyze verify` is silent when all is well; it names every setting it does not know."""
    assert run_tool("systemd-analyze", "verify", unit).strip() == ""


def test_the_unit_closes_what_flowherd_does_not_need(unit: Path) -> None:
    """`systemd-analyze security`: 0 is closed, 10 is open."""
    said = run_tool("systemd-analyze", "security", "--offline=yes", unit)
    [exposure] = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert float(exposure) <= EXPOSURE


def test_the_watchdog_is_fed_more_often_than_it_bites_and_bites_gently() -> None:
    """SIGTERM drains; the default, SIGABRT, would end the supervisor where it stands."""
    for name in UNITS:
        text = (DEPLOY / "systemd" / name).read_text()
        assert "WatchdogSignal=SIGTERM" in text
        [seconds] = re.findall(r"^WatchdogSec=(\d+)$", text, flags=re.MULTILINE)
        assert int(seconds) >= 60, "an engine that restarts must not take its hosts with it"


def test_hadolint_has_nothing_against_the_image() -> None:
    """The Dockerfile's own linter."""
    assert run_tool("hadolint", DEPLOY / "Dockerfile").strip() == ""
