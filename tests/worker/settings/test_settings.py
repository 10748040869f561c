"""Valid settings, their use, and places where secrets must not appear."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from settings_kit import CANARY, refusal

from flowherd.errors import ConfigurationError
from flowherd.settings.model import Settings
from flowherd.settings.sources import load
from flowherd_supervisor.shell.plan_from_settings import plan_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("folder")

# What values may be


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60", 60),
        ("60s", 60),
        ("500ms", 0.5),
        ("2m", 120),
        ("1h", 3600),
        ("1.5", 1.5),
        (" 2 s ", 2),
        (".5s", 0.5),
    ],
)
def test_durations_are_written_as_the_engine_writes_them(text: str, seconds: float) -> None:
    """KRUXIAFLOW_QUEUE_DEFAULT_TIMEOUT is the server's own variable (protocol.md §3.3)."""
    assert load({"default_lease": text}).settings.default_lease == seconds


@given(st.floats(0.001, 1e6, allow_nan=False))
def test_any_number_of_seconds_keeps_its_value(seconds: float) -> None:
    """Nothing is rounded on the way."""
    assert Settings(graceful_timeout=f"{seconds:f}s").graceful_timeout == pytest.approx(seconds, abs=1e-6)


def test_auto_is_what_nothing_is() -> None:
    """`-p auto` in a unit file."""
    settings = load({"processes": "auto", "concurrency": "auto"}).settings
    assert (settings.processes, settings.concurrency) == (None, None)


def test_a_log_level_may_be_upper_case() -> None:
    """The engine's own variable is upper case by habit."""
    assert load({"log_level": "WARNING"}).settings.log_level == "warning"


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("http://engine:8080/", "http://engine:8080"),
        (" https://engine ", "https://engine"),
        ("http://engine/api/v1/", "http://engine"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_s15_the_url_is_normalised(url: str, seen: str) -> None:
    """Faults S15."""
    assert load({"api_url": url}).settings.api_url == seen


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{CANARY}@engine", f"http://{CANARY}@engine", f"http://@{CANARY}", f"http://engine?{CANARY}",
        f"ftp://{CANARY}", CANARY, "http://engine:99999", "http://engine:0", "http://engine:port", "http://",
    ],
)  # fmt: skip
def test_s15_a_url_that_is_more_or_less_than_an_origin_is_refused_and_never_shown(url: str) -> None:
    """Faults S15: a password in a URL must not reach the log."""
    said = refusal(api_url=url)
    assert said.startswith("--api-url: ")
    assert CANARY not in said


@pytest.mark.parametrize(
    "host",
    [
        "a..b",
        ".b",
        f"{'a' * 64}.b",
        ".".join(["a" * 63] * 4),
        "xn--a-.b",
        "straße",
        "a b",
        "[a..b]",
        "[1::2::3]",
    ],
)
def test_s15_a_name_that_no_host_can_have_is_refused(host: str) -> None:
    """Faults S15: it was a traceback of run, check, submit and explain."""
    said = refusal(api_url=f"http://{host}:8080")
    assert said.startswith("--api-url: ")
    assert "host" in said


@pytest.mark.parametrize(
    "host", ["a.b.", "A_b-1.c", f"{'a' * 63}.b", "127.0.0.1", "[::1]", "xn--tda.x", "localhost"]
)
def test_s15_a_name_that_a_host_can_have_is_taken(host: str) -> None:
    """Also those with an underscore, which Docker's networks have."""
    assert load({"api_url": f"http://{host}:8080"}).settings.api_url == f"http://{host}:8080"


# Transports


def test_a_transport_that_is_gone_is_refused_with_the_remedy() -> None:
    """httpx-pool wrote private attributes of httpx."""
    said = refusal(transport="httpx-pool")
    assert said.startswith("--transport: httpx-pool is gone: use direct, the default, or httpx")


# Sizes


def test_p18_more_processes_than_slots_is_refused_with_both_remedies_and_where_they_were_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Faults P18: both are explicit."""
    monkeypatch.setenv("KRUXIAFLOW_WORKER_MAX_ACTIVITIES", "2")
    said = refusal(processes="4")
    assert "Use --concurrency 4 or more, or --processes 2 or fewer" in said
    assert said.endswith("(--concurrency comes from KRUXIAFLOW_WORKER_MAX_ACTIVITIES)")


# Secrets


def test_s7_a_secret_shows_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults S7."""
    monkeypatch.setenv("KRUXIAFLOW_CLIENT_ID", "me")
    monkeypatch.setenv("KRUXIAFLOW_CLIENT_SECRET", CANARY)
    loaded = load({})
    assert (
        CANARY
        not in f"{loaded!r} {loaded} {loaded.settings.model_dump()} {loaded.settings.worker_config(1)!r}"
    )
    assert loaded.settings.secret().get_secret_value() == CANARY  # type: ignore[union-attr]
    assert CANARY not in refusal(processes="0", poll_max="x")


def test_s8_a_secret_in_a_settings_file_is_refused_unread(folder: Path) -> None:
    """Faults S7, S8: such files are committed."""
    (folder / "flowherd.toml").write_text(f"client-secret = '{CANARY}'")
    said = refusal()
    assert "use client_secret_file" in said
    assert CANARY not in said


def test_names_of_secrets_are_a_list_in_the_file_and_have_commas_in_the_variable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faults N19: they reach the worker."""
    (folder / "flowherd.toml").write_text('secret_names = ["pin", "card-number"]')
    assert load({}).settings.worker_config(1).secret_names == ("pin", "card-number")
    monkeypatch.setenv("KRUXIAFLOW_WORKER_SECRET_NAMES", "iban, pin")
    assert load({}).settings.worker_config(1).secret_names == ("iban", "pin")


@pytest.mark.parametrize("value", ['["pin", "-"]', '["pin", ""]', "[3]", "true", '"pin,,iban"'])
def test_a_name_of_secrets_that_every_name_contains_is_refused(folder: Path, value: str) -> None:
    """It would mask all values."""
    (folder / "flowherd.toml").write_text(f"secret_names = {value}")
    assert "flowherd.toml: secret_names: should be " in refusal()


def test_a_client_id_alone_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the first poll would be refused, an import later."""
    monkeypatch.setenv("KRUXIAFLOW_CLIENT_ID", "me")
    said = refusal()
    assert "set KRUXIAFLOW_CLIENT_SECRET" in said
    assert said.endswith("(--client-id comes from KRUXIAFLOW_CLIENT_ID)")


def test_the_secret_is_read_from_its_file_without_the_last_line_end(folder: Path) -> None:
    """As editors and orchestrators write it."""
    (folder / "s").write_text(f"{CANARY}\n")
    settings = load({"client_id": "me", "client_secret_file": str(folder / "s")}).settings
    assert settings.secret().get_secret_value() == CANARY  # type: ignore[union-attr]
    assert settings.worker_config(1).client_secret_file == folder / "s"
    assert CANARY not in repr(settings)


def test_a_secret_from_its_variable_is_never_read_from_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable wins, also when the file changes later."""
    (folder / "s").write_text("another")
    monkeypatch.setenv("KRUXIAFLOW_CLIENT_SECRET", CANARY)
    config = load({"client_id": "me", "client_secret_file": "s"}).settings.worker_config(1)
    assert config.client_secret is not None
    assert config.client_secret.get_secret_value() == CANARY
    assert config.client_secret_file is None


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"", "is empty"), (b" \n", "is empty"), (b"\xff", "no text")],
)
def test_a_secret_file_that_holds_none_is_named(folder: Path, content: bytes | None, said: str) -> None:
    """An empty secret would be sent, and refused far from here."""
    if content is not None:
        (folder / "s").write_bytes(content)
    settings = load({"client_id": "me", "client_secret_file": "s"}).settings
    with pytest.raises(ConfigurationError, match=rf"--client-secret-file s: .*{said}"):
        settings.secret()


# What the host is made of


def test_the_plan_and_the_worker_config_use_the_settings() -> None:
    """Every setting must have its effect."""
    flags = {
        "processes": "3", "concurrency": "7", "graceful_timeout": "4", "boot_timeout": "5",
        "max_restarts": "6", "restart_window": "8", "poll_max": "9", "poll_interval": "11",
        "default_lease": "12", "cancel_grace": "13", "activity_timeout": "14", "heartbeat_interval": "2",
        "worker": "w", "worker_id": "id", "max_reply_mb": "15", "max_file_mb": "16", "isolate_max_tasks": "17",
    }  # fmt: skip
    settings = load(flags).settings
    plan = plan_of(settings)
    assert (plan.processes, plan.concurrency, plan.shares) == (3, 7, (3, 2, 2))
    assert (plan.graceful_timeout_s, plan.boot_timeout_s) == (4.0, 5.0)
    assert (plan.restarts.max_restarts, plan.restarts.window_s) == (6, 8.0)
    config = settings.worker_config(5).model_dump()
    expected = {
        "concurrency": 5, "poll_max": 9, "poll_interval_s": 11, "default_lease_s": 12, "cancel_grace_s": 13,
        "activity_timeout_s": 14, "heartbeat_interval_s": 2, "worker_type": "w", "worker_id": "id",
        "max_reply_mb": 15, "max_file_mb": 16, "poll_interval_max_s": 11, "graceful_timeout_s": 4,
        "isolate_max_tasks": 17, "boot_timeout_s": 5,
    }  # fmt: skip
    assert {name: config[name] for name in expected} == expected
