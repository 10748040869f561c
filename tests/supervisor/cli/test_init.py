"""`flowherd init`: its files work unchanged, and it never overwrites a file."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from deploy_kit import run_tool

from flowherd.errors import ConfigurationError
from flowherd.settings import sources
from flowherd.settings.model import ActivitySettings, Settings
from flowherd_supervisor.cli.init import init, init_unit
from flowherd_supervisor.cli.program_name import called_from

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(folder: Path) -> Path:
    """A project with a name of its own."""
    assert init(folder / "shop", "shop_app") == 0
    return folder / "shop"


@pytest.mark.parametrize("place", ["alone", "in a clone"])
def test_its_own_test_passes(project: Path, place: str) -> None:
    """With pytest alone, also in a clone of flowherd, as in the README, whose settings do not apply to it."""
    if place == "in a clone":
        shutil.copy(ROOT / "pyproject.toml", project.parent)
    plain = [
        word for plugin in ("cacheprovider", "xdist", "timeout", "asyncio") for word in ("-p", f"no:{plugin}")
    ]
    command = [sys.executable, "-m", "pytest", "-q", *plain]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60, check=False)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_its_settings_change_nothing_and_name_every_key_with_its_default(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line can be uncommented by itself; only the secret is missing, which does not belong in this file."""
    monkeypatch.chdir(project)
    assert sources.load({}).origins == {}
    lines = (project / "flowherd.toml").read_text().splitlines()
    assert all(line.startswith(("# ", "## ")) and len(line) <= 110 for line in lines if line)
    keys = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    (project / "flowherd.toml").write_text("\n".join(keys))
    written = tomllib.loads((project / "flowherd.toml").read_text())
    assert {*written} == {*Settings.model_fields} - {"client_secret"}
    assert {*written["activities"]["count_words"]} == {*ActivitySettings.model_fields}
    settings = sources.load({}).settings
    for name, info in Settings.model_fields.items():
        if info.default is not None and name != "activities":
            assert getattr(settings, name) == info.default, name
    assert settings.activities["count_words"].max_concurrent == 4


def test_its_files_are_as_clean_as_ours(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first file a newcomer sees is an example."""
    pytest.importorskip("ruff", reason="the style of the starter is judged where ruff is installed")
    monkeypatch.chdir(project)
    for words in (["check", "--select", "E,F,I,UP,B", "--isolated"], ["format", "--check", "--isolated"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "."], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
    assert not any(
        "@" in line and "@registry" not in line for line in (project / "shop_app.py").read_text().splitlines()
    )


def test_its_unit_is_one_that_systemd_takes(project: Path) -> None:
    """With the paths of the machine it was written on."""
    unit = project / "shop_app.service"
    text = unit.read_text()
    assert f"WorkingDirectory={project}\n" in text
    assert "run shop_app:registry\n" in text
    assert "@" not in text
    assert run_tool("systemd-analyze", "verify", unit).strip() == ""


def test_a_unit_can_be_had_alone_for_an_app_that_exists(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a starter project to delete again."""
    (folder / "orders.py").write_text("registry = None\n")
    unit = folder / "orders-eu.service"
    assert init_unit(unit, folder, "orders") == 0
    assert sorted(path.name for path in folder.iterdir()) == ["orders-eu.service", "orders.py"]
    assert f"WorkingDirectory={folder}\n" in unit.read_text()
    assert "run orders:registry\n" in unit.read_text()
    assert capsys.readouterr().out == f"{unit}\n"
    assert run_tool("systemd-analyze", "verify", unit).strip() == ""
    with pytest.raises(ConfigurationError, match=r"orders-eu\.service: there already; choose another file"):
        init_unit(unit, folder, "orders")


def test_a_unit_that_would_run_as_root_or_not_find_its_folder_is_reported(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both show only when the service starts. `PrivateTmp=yes` hides /tmp and /var/tmp from it."""
    monkeypatch.setenv("LOGNAME", "root")
    init_unit(folder / "a.service", Path("/var/tmp/orders"), "orders")
    as_root, hidden = capsys.readouterr().err.splitlines()
    assert as_root.startswith("flowherd: warning: the unit runs as root: ")
    assert hidden.startswith("flowherd: warning: /var/tmp/orders is hidden from the unit by PrivateTmp=yes: ")
    monkeypatch.setenv("LOGNAME", "ada")
    init_unit(folder / "b.service", Path("/srv/orders"), "orders")
    assert capsys.readouterr().err == ""


def test_a_path_that_systemd_would_misread_is_written_for_it(folder: Path) -> None:
    """`%` begins a specifier, a space ends a word."""
    init(folder / "50% off", "my_app")
    assert "50%%\\x20off\n" in (folder / "50% off" / "my_app.service").read_text()


def test_nothing_is_written_over_and_nothing_is_written_beside_it(project: Path) -> None:
    """All files are written, or none."""
    (project / "shop_app.py").write_text("mine")
    for path in project.iterdir():
        if path.name != "shop_app.py":
            path.unlink()
    with pytest.raises(ConfigurationError, match="there already"):
        init(project, "shop_app")
    assert [path.name for path in project.iterdir()] == ["shop_app.py"]
    assert (project / "shop_app.py").read_text() == "mine"


def test_it_prints_the_next_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The hint works from the current folder in the current shell."""
    there = folder / "a"
    init(there, "my_app")
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == f"next: cd {there} && {called_from(there)} dev my_app:registry"
    init(folder, "other_app")
