"""Sources of settings, and messages about wrong ones."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from settings_kit import refusal

from flowherd.errors import ConfigurationError
from flowherd.settings.model import SUPERVISOR_ONLY, Settings
from flowherd.settings.sources import CONFIG_VARIABLE, load, variable_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("folder")

# Precedence


def test_without_anything_the_defaults_hold() -> None:
    """The defaults that `flowherd run --help` shows."""
    loaded = load({})
    assert loaded.origins == {}
    assert loaded.settings == Settings()
    assert loaded.settings.graceful_timeout == 30.0


def test_flag_beats_environment_beats_file_beats_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each value knows where it came from."""
    (folder / "flowherd.toml").write_text("poll_max = 1\nmax-restarts = 1\nboot_timeout = 1\n")
    monkeypatch.setenv("KRUXIAFLOW_WORKER_MAX_RESTARTS", "2")
    monkeypatch.setenv("KRUXIAFLOW_WORKER_BOOT_TIMEOUT", "2")
    loaded = load({"boot_timeout": "3", "loop": None})
    settings = loaded.settings
    assert (settings.poll_max, settings.max_restarts, settings.boot_timeout) == (1, 2, 3.0)
    assert loaded.origins == {
        "poll_max": "flowherd.toml: poll_max",
        "max_restarts": "KRUXIAFLOW_WORKER_MAX_RESTARTS",
        "boot_timeout": "--boot-timeout",
    }


def test_every_setting_but_activities_has_a_variable_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every flag shows its variable; none is shared."""
    variables = [variable_of(name) for name in Settings.model_fields if name != "activities"]
    assert len(set(variables)) == len(variables)
    assert all(variable.startswith("KRUXIAFLOW_") for variable in variables)
    monkeypatch.setenv("KRUXIAFLOW_WORKER_POLL_MAX_ACTIVITIES", "7")
    assert load({}).settings.poll_max == 7


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files write `${X:-}`."""
    monkeypatch.setenv("KRUXIAFLOW_WORKER_PROCESSES", "")
    assert load({}).origins == {}


def test_names_without_the_prefix_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """`LOOP` and `ADMIN` belong to other programs; FLOWHERD_PROCESSES is for handlers."""
    for name in ("LOOP", "PROCESSES", "ADMIN", "FLOWHERD_PROCESSES", "FLOWHERD_LOOP", "WORKER"):
        monkeypatch.setenv(name, "99")
    assert load({}).origins == {}


def test_the_stock_sdks_worker_type_counts_after_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """KRUXIAFLOW_WORKER before WORKER_TYPE."""
    monkeypatch.setenv("WORKER_TYPE", "other")
    assert load({}).settings.worker == "other"
    monkeypatch.setenv("KRUXIAFLOW_WORKER", "ours")
    assert load({}).settings.worker == "ours"


def test_pyproject_is_read_when_there_is_no_file_of_our_own(folder: Path) -> None:
    """One file is enough; ours wins."""
    (folder / "pyproject.toml").write_text("[project]\nname = 'x'\n[tool.flowherd]\npoll-max = 5\n")
    loaded = load({})
    assert loaded.settings.poll_max == 5
    assert loaded.origins["poll_max"] == "pyproject.toml [tool.flowherd]: poll-max"
    (folder / "flowherd.toml").write_text("boot_timeout = 5")
    assert load({}).settings.poll_max == 10


def test_the_config_variable_names_the_file_and_the_flag_beats_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KRUXIAFLOW_WORKER_CONFIG is the variable of --config."""
    (folder / "a.toml").write_text("poll_max = 3")
    (folder / "b.toml").write_text("poll_max = 4")
    monkeypatch.setenv(CONFIG_VARIABLE, str(folder / "a.toml"))
    assert load({}).settings.poll_max == 3
    assert load({}, folder / "b.toml").settings.poll_max == 4


def test_a_named_file_that_is_not_there_is_refused_by_the_name_it_was_given(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forgotten mount must not mean the defaults."""
    with pytest.raises(ConfigurationError, match=r"--config: there is no file '.*x\.toml'"):
        load({}, folder / "x.toml")
    monkeypatch.setenv(CONFIG_VARIABLE, "/nowhere.toml")
    assert refusal() == f"{CONFIG_VARIABLE}: there is no file '/nowhere.toml'"


def test_what_a_program_has_no_use_for_is_not_looked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python -m flowherd` on a host that is set up for `flowherd run`; a slip in a name is one all the same."""
    (folder / "flowherd.toml").write_text("concurrency = 3\nprocesses = 8\n")
    monkeypatch.setenv("KRUXIAFLOW_WORKER_ADMIN", "nonsense")
    loaded = load({}, ignored=SUPERVISOR_ONLY)
    assert (loaded.settings.concurrency, loaded.settings.processes) == (3, None)
    assert loaded.origins == {"concurrency": "flowherd.toml: concurrency"}
    (folder / "flowherd.toml").write_text("procesess = 8\n")
    with pytest.raises(ConfigurationError, match="did you mean 'processes'"):
        load({}, ignored=SUPERVISOR_ONLY)


# What is said when they are wrong

WRONG = [
    ("processes", "0", "at least 1"),
    ("processes", "many", "whole number, or auto"),
    ("processes", "2.5", "whole number"),
    ("concurrency", "-1", "at least 1"),
    ("poll_max", "101", "at most 100"),
    ("poll_max", "0", "1 to 100"),
    ("max_restarts", "-1", "0 = never give up"),
    ("default_lease", "0", "more than 0"),
    ("default_lease", "nan", "500ms or 2m"),
    ("activity_timeout", "inf", "500ms or 2m"),
    ("graceful_timeout", "-5s", "at least 0"),
    ("heartbeat_interval", "soon", "ms, s, m or h"),
    ("boot_timeout", "5 parsecs", "ms, s, m or h"),
    ("loop", "trio", "'auto', 'uvloop' or 'asyncio'"),
    ("log_format", "xml", "'text' or 'json'"),
    ("log_level", "loud", "'debug', 'info', 'warning' or 'error'"),
    ("admin", "9464", "HOST:PORT, unix:PATH or off"),
    ("admin", "localhost:99999", "127.0.0.1:9464"),
    ("max_reply_mb", "", "whole number"),
    ("max_file_mb", "0", "at least 1"),
    ("max_tasks_per_child", "0", "at least 1"),
    ("poison_after", "-1", "0 = never"),
    ("worker", "", "at least 1 character"),
    ("worker_id", "x" * 121, "at most 120 characters"),
]


@pytest.mark.parametrize(("name", "value", "remedy"), WRONG)
def test_s12_a_wrong_value_names_its_flag_and_what_would_be_right(name: str, value: str, remedy: str) -> None:
    """Faults S12."""
    said = refusal(**{name: value})
    assert said.startswith(f"--{name.replace('_', '-')}: ")
    assert remedy in said
    assert "\n" not in said


@pytest.mark.parametrize("name", sorted({name for name, value, _ in WRONG if value}))
def test_s12_a_wrong_value_names_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults S12: not the flag, which was not used."""
    wrong = next(value for other, value, _ in WRONG if other == name and value)
    monkeypatch.setenv(variable_of(name), wrong)
    said = refusal()
    assert said.startswith(f"{variable_of(name)}: ")
    assert "--" not in said.split("(")[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("poll_max = 0", "flowherd.toml: poll_max: should be at least 1"),
        ("poll_max = true", "flowherd.toml: poll_max: should be a number"),
        ("boot-timeout = true", "flowherd.toml: boot-timeout: should be a number"),
        ("max_tasks_per_child = true", "flowherd.toml: max_tasks_per_child: should be a number"),
        ("processes = true", "flowherd.toml: processes: should be a number"),
        ("boot_timeout = nan", "flowherd.toml: boot_timeout: should be "),
        ("graceful_timeout = inf", "flowherd.toml: graceful_timeout: should be "),
        ("boot_timeout = [1]", "flowherd.toml: boot_timeout: should be a number"),
        ("procesess = 2", "flowherd.toml: unknown key 'procesess': did you mean 'processes'?"),
        ("colour = 'red'", "flowherd.toml: unknown key 'colour': flowherd config schema lists them all"),
        ("poll_max = 1\npoll-max = 2", "flowherd.toml: poll-max: the same setting is there twice"),
        ("poll_max = ", "flowherd.toml: Invalid value (at end of document)"),
        ("[activities.add]\noffload = 'gpu'", "flowherd.toml: activities.add.offload: should be 'loop', "),
        ("[activities.f]\nofload = 'x'", "flowherd.toml: activities.f: unknown key 'ofload': did you mean 'offload'?"),
        ("[activities.f]\ncolour = 1", "flowherd.toml: activities.f: unknown key 'colour': flowherd config schema"),
        ("activities = 3", "flowherd.toml: activities: should be a table"),
    ],
)  # fmt: skip
def test_s12_a_wrong_line_of_the_file_is_named_by_file_and_key(folder: Path, text: str, said: str) -> None:
    """Faults S12."""
    (folder / "flowherd.toml").write_text(text)
    assert refusal().startswith(said)


def test_a_file_that_is_no_text_or_no_table_is_named(folder: Path) -> None:
    """Whatever stands there, it is a sentence and no traceback."""
    (folder / "flowherd.toml").write_bytes(b"\xff\xfe")
    assert refusal() == "flowherd.toml: a TOML file is UTF-8 text"
    (folder / "flowherd.toml").unlink()
    (folder / "pyproject.toml").write_text("[tool]\nflowherd = 3")
    assert refusal() == "pyproject.toml [tool.flowherd]: should be a table of settings"


def test_all_wrong_values_are_reported_at_once() -> None:
    """So that all can be corrected at once."""
    assert len(refusal(processes="0", poll_max="0", loop="trio").splitlines()) == 3


@given(st.sampled_from([name for name in Settings.model_fields if name != "activities"]), st.text())
def test_any_text_is_a_setting_or_one_sentence(name: str, text: str) -> None:
    """Faults S12: never a traceback."""
    with contextlib.suppress(ConfigurationError):  # one sentence, as it should be
        load({name: text})
