"""Checks of deploy/ without systemd and Docker: the files parse, agree, and contain no secret."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import pytest
from deploy_kit import DEPLOY, OWN_VARIABLES
from image_kit import instructions

from flowherd_supervisor.cli.commands import app as command_line

if TYPE_CHECKING:
    from pathlib import Path

ROOT = DEPLOY.parent
MARGIN_S = 5  # between the drain's limit and the kill, for releasing the rest
UNITS = ("flowherd.service", "flowherd@.service")


@pytest.fixture(scope="module", params=UNITS)
def unit(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """The unit's settings, each with all its values, comments left out."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / request.param).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture(scope="module")
def image() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, in order."""
    return instructions((DEPLOY / "Dockerfile").read_text())


def seconds(text: str) -> float:
    """`40` and `40s`."""
    return float(text.removesuffix("s"))


def test_systemd_signals_the_supervisor_alone_and_waits_longer_than_a_drain(
    unit: dict[str, list[str]],
) -> None:
    """A stop that is cut short gives nothing back in order: what runs is lost until its lease ends."""
    words = shlex.split(unit["ExecStart"][0])
    graceful_s = float(words[words.index("--graceful-timeout") + 1])
    assert unit["KillMode"] == ["mixed"]
    assert unit["KillSignal"] == ["SIGTERM"]
    assert seconds(unit["TimeoutStopSec"][0]) >= graceful_s + MARGIN_S


def test_systemd_restarts_what_a_restart_can_cure(unit: dict[str, list[str]]) -> None:
    """The codes of supervisor/docs/exit-codes.md: 1 and 5 may pass, 2 to 4 need a human; 6 is the end of a stop."""
    assert unit["Restart"] == ["on-failure"]
    assert set(unit["RestartPreventExitStatus"][0].split()) == {"2", "3", "4", "6"}
    assert unit["OOMPolicy"] == ["continue"]


def test_the_units_command_line_and_variables_are_ones_flowherd_knows(unit: dict[str, list[str]]) -> None:
    """A unit with a removed flag would fail at its next start."""
    _, *words = shlex.split(unit["ExecStart"][0])
    _, bound, _ = command_line.parse_args(words, print_error=False, exit_on_error=False)
    assert bound.arguments
    names = {value.partition("=")[0] for value in unit["Environment"]} - {"XDG_RUNTIME_DIR"}
    assert names <= OWN_VARIABLES


def test_the_image_runs_flowherd_itself_as_a_user_by_number(image: list[tuple[str, str]]) -> None:
    """A shell as process 1 would swallow SIGTERM; a user by name cannot be checked for not being root."""
    words = dict(image)
    assert words["ENTRYPOINT"] == '["flowherd"]'
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", words["USER"])
    assert words["STOPSIGNAL"] == "SIGTERM"
    assert sum(instruction == "FROM" for instruction, _ in image) == 2


def test_the_image_is_built_from_what_is_there(image: list[tuple[str, str]]) -> None:
    """Every source of COPY exists and is let through by the ignore file."""
    copied = [rest for instruction, rest in image if instruction == "COPY" and not rest.startswith("--from")]
    sources = {source for rest in copied for source in rest.split()[:-1]}
    allowed = {
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)


@pytest.mark.parametrize(
    "path", sorted(p for p in DEPLOY.rglob("*") if p.is_file()), ids=lambda path: path.name
)
def test_no_file_holds_a_secret(path: Path) -> None:
    """Values of passwords and secrets are variables or files."""
    given = re.findall(r"(?:PASSWORD|SECRET|TOKEN|PRIVATE_KEY\w*)\w*\s*[=:]\s*(\S+)", path.read_text())
    assert all(re.match(r"[$%/?…]|client-secret:/|of$", value) for value in given), given
    assert "BEGIN" not in path.read_text()
