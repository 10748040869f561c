"""The command line as users type it: exit codes, help, and messages about mistakes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from flowherd import __version__
from flowherd.settings.model import Settings
from flowherd.settings.sources import flag_of, variable_of
from flowherd_supervisor.cli import main

ROOT = Path(__file__).resolve().parents[3]
WITH_FLAG = [
    name for name in Settings.model_fields if name not in {"client_secret", "secret_names", "activities"}
]

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")


def call(*words: str) -> int:
    """Calls `flowherd` with these words and returns the exit code."""
    with pytest.raises(SystemExit) as left:
        main.main(words)
    return int(left.value.code or 0)


def call_supervisor(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Calls `flowherd-supervisor` with these words and returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["flowherd-supervisor", *words])
    with pytest.raises(SystemExit) as left:
        main.main_supervisor()
    return int(left.value.code or 0)


# Help


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Returns the help of `run`, a row for each flag."""
    assert call("run", "--help") == 0
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    return {line.split()[0]: line for line in lines if line.startswith("--")}


@pytest.mark.parametrize("name", WITH_FLAG)
def test_run_help_shows_each_flag_with_its_variable_and_default(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Every flag shows its variable in --help."""
    row = rows(capsys)[flag_of(name)]
    assert f"[env: {variable_of(name)}]" in row
    default = Settings.model_fields[name].default
    shown = f"{default:g}" if isinstance(default, float) else default
    if default is not None:
        assert f"[default: {shown}]" in row
    assert Settings.model_fields[name].description in row


def test_run_help_says_what_a_value_looks_like(capsys: pytest.CaptureFixture[str]) -> None:
    """`--poll-max STR` would be of no help."""
    found = rows(capsys)
    assert found["--poll-max"].startswith("--poll-max N ")
    assert found["--boot-timeout"].startswith("--boot-timeout SECONDS ")
    assert found["--processes"].startswith("--processes -p N|auto ")
    assert found["--loop"].startswith("--loop auto|uvloop|asyncio ")
    assert found["--config"].startswith("--config FILE ")
    assert not [row for flag, row in found.items() if flag != "--app-dir" and re.search(r"\bSTR\b", row)]
    assert "[default: auto]" in found["--processes"]


def test_s8_no_flag_takes_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    """Faults S8: arguments show in process lists."""
    assert "--client-secret" not in rows(capsys)
    assert call("run", "a:b", "--client-secret", "x") == 2


def test_no_flag_is_called_workers(capsys: pytest.CaptureFixture[str]) -> None:
    """It would be one letter from `--worker`."""
    assert "--workers" not in rows(capsys)


def test_the_version_is_printed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Bug reports ask for it."""
    assert call("--version") == 0
    assert capsys.readouterr().out.strip() == __version__


# Slips


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["run", "a:b", "--proceses", "3"], "--processes"),
        (["run", "a:b", "--graceful-timeot", "3"], "--graceful-timeout"),
        (["rnu", "a:b"], "run"),
        (["stauts"], "status"),
    ],
)
def test_s12_a_slip_exits_2_and_names_what_was_meant(
    capsys: pytest.CaptureFixture[str], words: list[str], hint: str
) -> None:
    """Faults S12: on stderr, so that a pipe sees nothing."""
    assert call(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(rf'Did you mean "?{hint}"?\?', err)


@pytest.mark.parametrize("words", [["run"], ["run", "a:b", "c:d"], ["run", "a:b", "-p"], ["--nonsense"]])
def test_what_cannot_be_a_command_exits_2(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """Exit code 2 is usage."""
    assert call(*words) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--burst-idle", "2"], "flowherd: --burst-idle: says when --burst ends: add --burst\n"),
        (["--burst", "--burst-idle", "soon"], "flowherd: --burst-idle: should be seconds, or a number with "),
        (["--burst", "--burst-idle", "0"], "flowherd: --burst-idle: should be more than 0\n"),
    ],
)
def test_an_idle_time_that_is_none_is_named(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    """It is checked like any other setting; nothing has been started."""
    assert call("run", "a:b", *words) == 2
    assert capsys.readouterr().err.startswith(said)


def test_an_app_whose_name_is_not_utf_8_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """Python shows such bytes of a command line as surrogates, which no log can hold; an accent is no problem."""
    assert call("run", "caf\udce9:app") == 2
    assert capsys.readouterr().err == "flowherd: APP: should be module:attr, in UTF-8\n"
    assert call("run", "café:app", "-p", "0") == 2
    assert capsys.readouterr().err.startswith("flowherd: --processes")


def test_every_wrong_setting_is_a_line_of_its_own_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2; nothing has been started, and no traceback."""
    assert call("run", "a:b", "-p", "0", "--poll-max", "1000") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(": ")[:2] for line in err.splitlines()] == [
        ["flowherd", "--processes"],
        ["flowherd", "--poll-max"],
    ]


def test_a_missing_settings_file_is_reported_by_the_name_of_its_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment of `--config`."""
    monkeypatch.setenv("KRUXIAFLOW_WORKER_CONFIG", "/nowhere/flowherd.toml")
    assert call("run", "a:b") == 2
    said = capsys.readouterr().err
    assert said == "flowherd: KRUXIAFLOW_WORKER_CONFIG: there is no file '/nowhere/flowherd.toml'\n"


# flowherd-supervisor


@pytest.mark.parametrize("words", [["app:registry", "-p", "0"], ["-p", "0", "app:registry"]])
def test_the_supervisor_binary_runs_an_app_without_the_word_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    """`flowherd-supervisor APP -p N` = `flowherd run APP -p N`."""
    assert call_supervisor(monkeypatch, *words) == 2
    assert capsys.readouterr().err.startswith("flowherd: --processes: should be at least 1")


def test_the_supervisor_binary_knows_all_other_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same program."""
    assert call_supervisor(monkeypatch, "--version") == 0
    assert call_supervisor(monkeypatch, "config", "show", "--poll-max", "0") == 2
    assert call_supervisor(monkeypatch, "--help") == 0
    assert "run" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["-m", "flowherd_supervisor"], [str(ROOT / "supervisor")]])
def test_it_starts_as_a_module_and_from_a_clone_without_installing(words: list[str], tmp_path: Path) -> None:
    """`python supervisor run APP` puts both source roots on the path."""
    done = subprocess.run(
        [sys.executable, *words, "--version"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, __version__), done.stderr
