"""`flowherd check`: each thing that can be wrong, unwise or fine, with its line and its exit code."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from scripted_http import Reply, ScriptedServer, scripted_server

from flowherd.settings.model import Settings
from flowherd.settings.sizes_and_warnings import MANY_PER_CPU, cautions
from flowherd_supervisor.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Check = Callable[..., tuple[int, list[str], str]]

TOKEN = "/api/v1/oauth/token"
GOOD_APP = """
from flowherd import activity

@activity
async def on_the_loop(): ...

@activity
def in_a_thread(): ...
"""


@pytest.fixture
def engine() -> Iterator[ScriptedServer]:
    """A healthy engine that needs no tokens."""
    with scripted_server({"/health": Reply(200, {"status": "ok", "insecure_dev": True})}) as server:
        yield server


@pytest.fixture
def app(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes an app with a unique name; its module is removed after the test."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(text: str) -> str:
        name = f"app_{abs(hash((str(folder), text)))}"
        (folder / f"{name}.py").write_text(text)
        return name

    return write


@pytest.fixture
def check(engine: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> Check:
    """Calls `flowherd check`; returns its exit code, the lines of the report, and stderr."""

    def call(*words: str, url: str = engine.url) -> tuple[int, list[str], str]:
        with pytest.raises(SystemExit) as left:
            main(["check", *words, "--api-url", url])
        out, err = capsys.readouterr()
        return int(left.value.code or 0), [line.strip() for line in out.splitlines()], err

    return call


def test_a_good_app_on_a_healthy_engine(
    check: Check, app: Callable[[str], str], engine: ScriptedServer
) -> None:
    """Exit 0; activities with where they run; one health call, no token call, nothing claimed."""
    name = app(GOOD_APP)
    code, lines, err = check(name, "-p", "2")
    assert (code, err) == (0, "")
    assert lines == [
        "ok  settings: 2 processes, 16 slots; from --processes, --api-url",
        f"ok  {name} serves worker type 'py-std': on_the_loop (loop), in_a_thread (thread)",
        f"ok  the engine at {engine.url} is healthy",
    ]
    assert [request.path for request in engine.seen] == ["/health"]


def test_offline_no_engine_is_asked_and_none_is_needed(
    check: Check, app: Callable[[str], str], engine: ScriptedServer
) -> None:
    """For a build without an engine: exit 0 if everything else is right."""
    name = app(GOOD_APP)
    code, lines, err = check(name, "--offline")
    assert (code, err) == (0, "")
    assert lines[-1].startswith(f"ok  {name} serves worker type")
    assert not engine.seen
    assert check(name, "--offline", url="http://127.0.0.1:9")[0] == 0
    assert check(app("1/0"), "--offline")[0] == 3


# The app


@pytest.mark.timeout(60)
def test_an_import_that_hangs_is_reported_with_its_current_line(folder: Path) -> None:
    """Nothing else would end it; the findings before it are kept."""
    (folder / "slow_app.py").write_text(
        "import threading\n\ndef connect():\n    threading.Event().wait()\n\nconnect()\n"
    )
    words = ["check", "slow_app", "--offline", "--boot-timeout", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "flowherd_supervisor", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    first, *_, last = [line.strip() for line in done.stdout.splitlines()]
    assert first.startswith("ok  settings: ")
    place = f"{folder}/slow_app.py:4 connect"
    assert last == f"wrong  slow_app is still importing after 1 s (--boot-timeout): it is at {place}"


@pytest.mark.parametrize(
    ("text", "attribute", "code", "said"),
    [
        ("x = 1", "", 2, "holds no activities: decorate functions with @activity"),
        ("x = 1", ":x", 2, "is a int"),
        (GOOD_APP, ":on_teh_loop", 2, "did you mean on_the_loop?"),
        ("1/0", "", 3, "could not be imported: ZeroDivisionError: division by zero"),
        ("import no_such_dependency", "", 3, "No module named 'no_such_dependency'"),
        ("raise SystemExit(0)", "", 3, "SystemExit: 0"),
    ],
)
def test_a_bad_app_has_the_exit_code_of_run(
    check: Check, app: Callable[[str], str], text: str, attribute: str, code: int, said: str
) -> None:
    """2 for a wrong name, 3 for an app that raises, with its traceback once on stderr."""
    got, lines, err = check(app(text) + attribute)
    assert got == code
    [wrong] = [line for line in lines if line.startswith("wrong")]
    assert said in wrong
    assert err.count("Traceback (most recent call last)") == (code == 3)
    assert any("is healthy" in line for line in lines), "one bad thing must not hide the next"


def test_a_module_that_is_not_there_is_named_with_its_folder(check: Check, folder: Path) -> None:
    """The message suggests modules with similar names."""
    (folder / "my_workers.py").write_text("")
    code, lines, _ = check("my_worker:registry")
    assert code == 2
    assert any(f"there is no module 'my_worker' in {folder}" in line for line in lines)
    assert any("did you mean my_workers?" in line for line in lines)


def test_a_folder_that_is_not_there_is_named_by_its_flag(check: Check) -> None:
    """The first wrong thing decides the code."""
    code, lines, _ = check("app", "--app-dir", "nowhere")
    assert code == 2
    assert "wrong  --app-dir nowhere: there is no such folder" in lines


def test_several_worker_types_and_a_missing_one_are_listed(check: Check, app: Callable[[str], str]) -> None:
    """One supervisor serves one type."""
    name = app(
        "from flowherd import Registry\nfrom flowherd import activity\n"
        "@activity\nasync def f(): ...\nregistry = Registry('math')\nregistry.register(f)\n"
    )
    code, lines, _ = check(f"{name}:registry")
    assert code == 0, lines
    assert any("serves worker type 'math'" in line for line in lines)
    code, lines, _ = check(f"{name}:registry", "--worker", "art")
    assert code == 2
    assert any("no activities of worker type 'art', only of: math" in line for line in lines)


def test_options_of_the_file_for_an_activity_that_is_not_there(
    check: Check, app: Callable[[str], str], folder: Path
) -> None:
    """A typo in `[activities.NAME]` must not be silent."""
    (folder / "flowherd.toml").write_text("[activities.on_teh_loop]\ntimeout_s = 3\n")
    code, lines, _ = check(app(GOOD_APP))
    assert code == 2
    said = "flowherd.toml: [activities.on_teh_loop] configures no activity of this app: did you mean on_the_loop?"
    assert f"wrong  {said}" in lines


def test_a_wrong_setting_is_exit_2_before_anything_else(check: Check, engine: ScriptedServer) -> None:
    """As for `run`."""
    code, lines, err = check("app", "-p", "many")
    assert (code, lines) == (2, [])
    assert "--processes" in err
    assert not engine.seen


# What hides something


def test_modules_that_hide_others_are_named(check: Check, app: Callable[[str], str], folder: Path) -> None:
    """S17: an installed distribution, a package of one, and the standard library; a folder without code is allowed."""
    name = app(GOOD_APP)
    (folder / "structlog.py").write_text("raise RuntimeError('must not be imported')")
    (folder / "uvicorn").mkdir()
    (folder / "uvicorn" / "__init__.py").write_text("")
    (folder / "wave.py").write_text("")
    (folder / "msgspec").mkdir()
    code, lines, _ = check(name)
    assert code == 0
    warnings = [line for line in lines if line.startswith("warning")]
    assert warnings == [
        "warning  structlog.py hides the installed structlog: rename it",
        "warning  uvicorn hides the installed uvicorn: rename it",
        "warning  wave.py hides the standard library's wave: rename it",
    ]


# Times


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--heartbeat-interval", "30"], "--heartbeat-interval 30 is more than a third of the lease"),
        (["--default-lease", "1"], "--default-lease 1: a lease this short"),
        (["--graceful-timeout", "10"], "--graceful-timeout 10 is less than --activity-timeout 300"),
        (["--activity-timeout", "31"], "--graceful-timeout 30 is less than --activity-timeout 31"),
        (["--poll-interval", "5"], "--poll-interval-max is less than --poll-interval"),
    ],
)
def test_times_that_clash_are_warnings(
    check: Check, app: Callable[[str], str], flags: list[str], said: str
) -> None:
    """Each is allowed alone; exit 0."""
    code, lines, _ = check(app(GOOD_APP), *flags)
    assert code == 0
    [warning] = [line for line in lines if line.startswith("warning")]
    assert said in warning


# The engine


@pytest.mark.parametrize(
    "health",
    [Reply(404), Reply(503, {"status": "not_ready"}), Reply(200, "<html>"), Reply(200, []), Reply(302, "")],
)
def test_what_is_no_healthy_engine_is_exit_1(
    check: Check, app: Callable[[str], str], engine: ScriptedServer, health: Reply
) -> None:
    """The address and the status are named, and the flag that chooses another."""
    engine.replies["/health"] = health
    code, lines, _ = check(app(GOOD_APP))
    assert code == 1
    said = f"wrong  {engine.url}/health answers {health.status}: --api-url names no healthy engine"
    assert lines[-1] == said


def test_an_address_without_an_engine_is_exit_1_with_two_remedies(
    check: Check, app: Callable[[str], str]
) -> None:
    """The first thing a new user meets."""
    code, lines, _ = check(app(GOOD_APP), url="http://127.0.0.1:9")
    assert code == 1
    assert lines[-1].startswith("wrong  http://127.0.0.1:9 does not answer: ")
    assert lines[-1].endswith("flowherd engine starts one, --api-url names another")


@pytest.mark.parametrize(
    ("insecure", "client", "token", "code", "said"),
    [
        (False, None, None, 2, "wrong  the engine asks for tokens: set KRUXIAFLOW_CLIENT_ID and"),
        (False, "me", Reply(200, {"access_token": "t"}), 0, "ok  client 'me' was granted a token"),
        (False, "me", Reply(401), 4, "check --client-id and KRUXIAFLOW_CLIENT_SECRET"),
        (True, "me", Reply(401), 4, "this engine needs no token: unset KRUXIAFLOW_CLIENT_ID"),
        (False, "me", Reply(503), 1, "token endpoint: status 503"),
        (False, "me", Reply(200, "{}"), 1, "token endpoint: a reply without access_token"),
    ],
)
def test_credentials_are_tried_once(
    check: Check,
    app: Callable[[str], str],
    engine: ScriptedServer,
    monkeypatch: pytest.MonkeyPatch,
    insecure: object,
    client: str | None,
    token: Reply | None,
    code: int,
    said: str,
) -> None:
    """One token call with credentials, none without."""
    engine.replies["/health"] = Reply(200, {"status": "ok", **({"insecure_dev": True} if insecure else {})})
    if client is not None and token is not None:
        monkeypatch.setenv("KRUXIAFLOW_CLIENT_ID", client)
        monkeypatch.setenv("KRUXIAFLOW_CLIENT_SECRET", "canary")
        engine.replies[TOKEN] = token
    got, lines, err = check(app(GOOD_APP))
    assert got == code
    assert said in lines[-1]
    assert [request.path for request in engine.seen].count(TOKEN) == (client is not None)
    assert "canary" not in "".join(lines) + err


# Telemetry


def test_the_destination_of_telemetry_is_shown_if_it_is_configured(
    app: Callable[[str], str], check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without user and password of the URL; nothing is reported without telemetry."""
    name = app(GOOD_APP)
    assert not any("telemetry" in line for line in check(name)[1])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:canary@collector:4318")
    _, lines, err = check(name)
    assert "ok  telemetry: traces go to http://collector:4318" in lines
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    code, wrong, _ = check(name)
    assert code == 0
    assert any(line.startswith("warning  OTEL_EXPORTER_OTLP_PROTOCOL is grpc") for line in wrong)
    assert "canary" not in "".join([*lines, *wrong]) + err


# What is unwise


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True), (0o606, True)]
)
def test_s13_a_secret_that_others_can_read_is_a_warning(tmp_path: Path, mode: int, warned: object) -> None:
    """The warning has the command that fixes it."""
    file = tmp_path / "secret"
    file.write_text("canary")
    file.chmod(mode)
    said = list(cautions(Settings(client_id="me", client_secret_file=file), 1))
    assert said == ([f"{file} can be read by others: chmod 600 {file}"] if warned else [])


@pytest.mark.parametrize(
    ("url", "client", "warned"),
    [
        ("http://engine:8080", "me", True),
        ("http://192.0.2.1", "me", True),
        ("https://engine", "me", False),
        ("http://localhost:8080", "me", False),
        ("http://127.0.0.2", "me", False),
        ("http://[::1]:8080", "me", False),
        ("http://engine:8080", None, False),
    ],
)
def test_s14_credentials_without_tls_are_a_warning(url: str, client: str | None, warned: object) -> None:
    """Beyond this host and without TLS."""
    said = list(cautions(Settings(api_url=url, client_id=client, client_secret="s" if client else None), 1))
    assert [text.startswith(f"{url} carries the credentials in the clear") for text in said] == [True] * bool(
        warned
    )


@pytest.mark.parametrize(
    ("admin", "warned"),
    [
        ("127.0.0.1:9464", 0),
        ("[::1]:9464", 0),
        ("off", 0),
        ("unix:/a:b", 0),
        ("0.0.0.0:9464", 1),
        ("[::]:1", 1),
    ],
)
def test_s1_status_for_other_hosts_is_a_warning(admin: str, warned: int) -> None:
    """An explicit choice, and a warning."""
    assert len(list(cautions(Settings(admin=admin), 1))) == warned


@pytest.mark.parametrize(("per_cpu", "warned"), [(MANY_PER_CPU, 0), (MANY_PER_CPU + 1, 1)])
def test_n14_more_processes_than_cpus_can_carry_is_one_warning(per_cpu: int, warned: int) -> None:
    """N14: `-p 1000` on two CPUs starts all the same."""
    said = list(cautions(Settings(processes=per_cpu * 2), 2))
    assert len(said) == warned
