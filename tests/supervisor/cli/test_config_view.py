"""`flowherd config`: the effective settings with their origin, the schema of the file, and never a secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from flowherd.settings.model import Settings
from flowherd_supervisor.cli.main import main
from flowherd_supervisor.processes.cpus import usable_cpus

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "canary-of-the-config"

pytestmark = pytest.mark.usefixtures("folder")


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Returns the output of `flowherd config`."""
    with pytest.raises(SystemExit) as left:
        main(["config", *words])
    out, err = capsys.readouterr()
    assert (left.value.code, err) == (0, "")
    return out


def rows(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, Any]]:
    """Returns the output of `flowherd config --json`."""
    return dict(json.loads(shown(capsys, "show", "--json", *words)))


def test_each_value_names_where_it_came_from(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flag, variable, file and default; the winner of each is named."""
    (folder / "flowherd.toml").write_text('poll-max = 20\nloop = "asyncio"\n[activities.x]\ntimeout_s = 3\n')
    monkeypatch.setenv("KRUXIAFLOW_WORKER_POLL_MAX_ACTIVITIES", "30")
    monkeypatch.setenv("WORKER_TYPE", "math")
    seen = rows(capsys, "--processes", "3", "--default-lease", "2m")
    assert seen["processes"] == {"value": 3, "origin": "--processes"}
    assert seen["default_lease"] == {"value": 120.0, "origin": "--default-lease"}
    assert seen["poll_max"] == {"value": 30, "origin": "KRUXIAFLOW_WORKER_POLL_MAX_ACTIVITIES"}
    assert seen["worker"] == {"value": "math", "origin": "WORKER_TYPE"}
    assert seen["loop"] == {"value": "asyncio", "origin": "flowherd.toml: loop"}
    assert seen["activities"] == {"value": {"x": {"timeout_s": 3.0}}, "origin": "flowherd.toml: activities"}
    assert seen["cancel_grace"] == {"value": 5.0, "origin": "default"}
    assert seen.keys() == Settings.model_fields.keys()


def test_pyproject_is_an_origin_too(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """`[tool.flowherd]`."""
    (folder / "pyproject.toml").write_text("[tool.flowherd]\nprocesses = 2\n")
    assert rows(capsys)["processes"] == {"value": 2, "origin": "pyproject.toml [tool.flowherd]: processes"}


def test_what_is_auto_is_shown_as_the_number_it_comes_to(capsys: pytest.CaptureFixture[str]) -> None:
    """`auto` is shown as the effective number."""
    cpus = usable_cpus()
    seen = rows(capsys)
    assert (seen["processes"]["value"], seen["concurrency"]["value"]) == (cpus, max(16, 4 * cpus))
    table = {line.split()[0]: line.split()[1:] for line in shown(capsys, "show").splitlines()}
    assert table["processes"] == [str(cpus), "(auto)", "default"]
    assert table["poll_max"] == ["10", "default"]
    assert table["worker"] == ["-", "default"]


def test_nothing_is_taken_for_markup_or_cut(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """Paths are long, and origins have brackets."""
    path = "/" + "long/" * 15 + "secret"
    (folder / "pyproject.toml").write_text(
        f'[tool.flowherd]\nclient-id = "me"\nclient-secret-file = "{path}"\n'
    )
    [line] = [line for line in shown(capsys, "show").splitlines() if line.startswith("client_secret_file")]
    assert line.rstrip().split(maxsplit=2)[1:] == [path, "pyproject.toml [tool.flowherd]: client-secret-file"]


def test_a_secret_is_masked_and_its_origin_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """S7: it is set, and from where, is all that one may see."""
    monkeypatch.setenv("KRUXIAFLOW_CLIENT_ID", "me")
    monkeypatch.setenv("KRUXIAFLOW_CLIENT_SECRET", CANARY)
    seen = rows(capsys)
    assert seen["client_secret"] == {"value": "********", "origin": "KRUXIAFLOW_CLIENT_SECRET"}
    assert CANARY not in shown(capsys, "show")


def test_the_schema_describes_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    """For editors: every key with its description, no unknown keys, and no place for a secret."""
    schema = json.loads(shown(capsys, "schema"))
    properties = schema["properties"]
    assert properties.keys() == Settings.model_fields.keys() - {"client_secret"}
    assert schema["additionalProperties"] is False
    assert not [
        name for name, about in properties.items() if name != "activities" and not about.get("description")
    ]
    assert properties["poll_max"]["maximum"] == 100
    assert schema["$defs"]["ActivitySettings"]["additionalProperties"] is False
