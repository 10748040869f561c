"""Every error that a user can provoke before anything runs: its exit code, the place it names, and the remedy.

Errors of the app itself, of the engine's replies and of a running host have their own tests.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from setproctitle import getproctitle, setproctitle

from flowherd_supervisor.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

NOBODY = "--api-url http://127.0.0.1:9"


@dataclass(frozen=True)
class Slip:
    """What a user types, with which variables and files, and what must be said about it."""

    words: str
    place: str
    remedy: str
    code: int = 2
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.words or "nothing"


def run(flags: str, place: str, remedy: str, **more: str | int | Mapping[str, str]) -> Slip:
    """A slip in a setting; `check` and `run` say the same."""
    return Slip(f"run app:registry {flags}", place, remedy, **more)  # type: ignore[arg-type]


SLIPS = [
    # words
    Slip("run", "APP", "flowherd run --help"),
    Slip("runn app:registry", "runn", 'Did you mean "run"?'),
    Slip("run app:registry extra", "extra", "flowherd run --help"),
    Slip("run app:registry --proceses 2", "--proceses", "Did you mean --processes?"),
    Slip("run app:registry --client-secret x", "--client-secret", "Did you mean --client-secret-file?"),
    Slip("config shwo", "shwo", 'Did you mean "show"?'),
    Slip("status --pid abc", "--pid", "flowherd status --help"),
    # settings
    run("-p 0", "--processes", "at least 1"),
    run("-p many", "--processes", "should be a whole number, or auto (worker processes, at most 256; auto"),
    run("-p 4 -c 2", "--concurrency 2", "Use --concurrency 4 or more, or --processes 2 or fewer"),
    run("--poll-max 101", "--poll-max", "1 to 100"),
    run("--default-lease 0", "--default-lease", "more than 0"),
    run("--default-lease soon", "--default-lease", "seconds"),
    run("--graceful-timeout nan", "--graceful-timeout", "such as 500ms or 2m"),
    run("--max-restarts -1", "--max-restarts", "0 = never give up"),
    run("--loop trio", "--loop", "'uvloop'"),
    run("--log-level loud", "--log-level", "debug, info, warning or error"),
    run("--api-url engine:8080", "--api-url", "http://host:port"),
    run("--api-url http://me:pw@engine", "--api-url", "use --client-id and the secret's variable"),
    run("--api-url http://engine/?x=1", "--api-url", "must not hold a query"),
    run("--client-id me", "--client-id needs a secret", "KRUXIAFLOW_CLIENT_SECRET, or --client-secret-file"),
    run("--client-id me --client-secret-file nowhere", "nowhere", "No such file"),
    run("--admin 9464", "--admin", "such as 127.0.0.1:9464"),
    run("--admin 192.0.2.1:1", "--admin 192.0.2.1:1", "choose another, or off"),
    run("--admin unix:/nowhere/x.sock", "/nowhere/x.sock", "No such file or directory"),
    run("", "KRUXIAFLOW_WORKER_PROCESSES", "at least 1", env={"KRUXIAFLOW_WORKER_PROCESSES": "0"}),
    run("--config nowhere.toml", "--config", "there is no file 'nowhere.toml'"),
    run("", "flowherd.toml", "did you mean 'processes'?", files={"flowherd.toml": "procesess = 2"}),
    run("", "flowherd.toml", "line 1", files={"flowherd.toml": "processes = = 2"}),
    run(
        "",
        "flowherd.toml: client_secret",
        "use client_secret_file",
        files={"flowherd.toml": "client_secret = 'x'"},
    ),
    run(
        "",
        "flowherd.toml: activities.x.offload",
        "'thread'",
        files={"flowherd.toml": "[activities.x]\noffload = 'gpu'"},
    ),
    # submit
    Slip("submit", "say what to submit", "flowherd submit NAME, or --definition FILE"),
    Slip(
        f"submit add {NOBODY}",
        "http://127.0.0.1:9",
        "is the engine running? flowherd engine starts one",
        code=1,
    ),
    Slip("submit add -P a", "-P a", "expected key=value, such as -P count=3"),
    Slip("submit add --input {", "--input", "a JSON object such as"),
    Slip("submit add --input @no.json", "--input @no.json", "No such file"),
    Slip("submit --definition no.yaml", "--definition no.yaml", "No such file"),
    Slip("submit add --api-url ftp://x", "--api-url", "http://host:port"),
    Slip("submit add -P a=\udcff", "a=\\udcff", "should be UTF-8"),
    Slip(f"submit \udcff {NOBODY}", "\\udcff", "should be UTF-8"),
    Slip(f"submit add --worker \udcff {NOBODY}", "\\udcff", "should be UTF-8"),
    Slip(f"explain \udcff {NOBODY}", "\\udcff", "should be UTF-8"),
    # status
    Slip("status", "no running host found in", "start one: flowherd run APP"),
    Slip("status --pid 1", "--pid 1", "running: none"),
    Slip("status --admin 9464", "--admin 9464", "HOST:PORT or unix:PATH"),
    Slip("status --admin 127.0.0.1:9", "--admin 127.0.0.1:9", "no answer", code=1),
    Slip("status --admin ::1:9", "--admin ::1:9", "no answer", code=1),
    Slip("status --admin [::1]:9", "--admin [::1]:9", "no answer", code=1),
    Slip("status --admin 127.0.0.1:²", "--admin 127.0.0.1:²", "HOST:PORT or unix:PATH"),
    Slip("status --admin [::1", "--admin [::1", "HOST:PORT or unix:PATH"),
    Slip("status --admin \udcff:1", "--admin", "HOST:PORT or unix:PATH"),
    Slip("status --admin a..b:80", "--admin a..b:80", "no answer", code=1),
    Slip("status --admin off", "--admin off", "HOST:PORT or unix:PATH"),
    # ctl
    Slip("ctl scale", "N", "flowherd ctl scale --help"),
    Slip("ctl scale many", "many", "flowherd ctl scale --help"),
    Slip("ctl relod", "relod", 'Did you mean "reload"?'),
    Slip("ctl drain", "no running host found in", "start one: flowherd run APP"),
    Slip("ctl quiet --pid 1", "--pid 1", "running: none"),
    Slip("ctl cancel \udcff --admin 127.0.0.1:9", "\\udcff", "should be UTF-8"),
    Slip("ctl reload --admin 9464", "--admin 9464", "HOST:PORT or unix:PATH"),
    Slip("ctl reload --admin 127.0.0.1:9", "--admin 127.0.0.1:9", "no answer", code=1),
    # top
    Slip("top --once", "no running host found in", "start one: flowherd run APP"),
    Slip("top --onec", "--onec", "Did you mean --once?"),
    # init, dev
    Slip("init --name 2fast", "--name 2fast", "such as my_app"),
    Slip("init --name json", "--name json", "a module of your own"),
    Slip("init --name flowherd", "--name flowherd", "such as my_app"),
    Slip("init", "my_app.py", "there already; choose another folder, or --name", files={"my_app.py": ""}),
    Slip("init --unit my_app.service", "my_app.service", "choose another file", files={"my_app.service": ""}),
    Slip("init --unit x.service --name os", "--name os", "a module of your own"),
    Slip("init here/x", "here/x", "Not a directory", files={"here": ""}),
    Slip("dev", "APP", "flowherd dev --help"),
    Slip("dev app:registry -p many", "-p", "flowherd dev --help"),
    Slip("dev app:registry -p 0", "--processes", "at least 1", files={"app.py": ""}),
    Slip("dev app:registry --admin 9464", "--admin", "HOST:PORT", files={"app.py": ""}),
    Slip("dev app:registry --log-format yaml", "--log-format", "json", files={"app.py": ""}),
    Slip("init x\udcff", "x\\udcff", "should be UTF-8"),
    # engine
    Slip("engine --port 70000", "--port 70000", "1 to 65535"),
    Slip("engine --port http", "--port", "flowherd engine --help"),
    Slip(
        "engine --host 0.0.0.0", "0.0.0.0", "set --client-id and KRUXIAFLOW_CLIENT_SECRET, or bind 127.0.0.1"
    ),
    Slip("engine --client-id me", "client id", "KRUXIAFLOW_CLIENT_SECRET is not set"),
    Slip("engine --port 0 --db /nowhere/x.db", "/nowhere/x.db", "unable to open database file"),
    Slip("engine --default-lease 0", "--default-lease", "positive number of seconds"),
    Slip("engine --workflow-timeout 0", "--workflow-timeout", "positive number of seconds"),
    Slip("demo -p 0", "at least one process", "-p 1"),
]


@pytest.fixture(autouse=True)
def _title() -> Iterator[None]:
    """Restores the process title, which a run changes before it binds its sockets."""
    before = getproctitle()
    yield
    setproctitle(before)


@pytest.mark.parametrize("slip", SLIPS, ids=str)
def test_an_error_names_its_place_and_the_remedy(
    slip: Slip, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr and without a traceback; stdout stays empty."""
    monkeypatch.setenv("COLUMNS", "300")
    runtime = folder / "r"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    for name, value in slip.env.items():
        monkeypatch.setenv(name, value)
    for name, text in slip.files.items():
        (folder / name).write_text(text)
    with pytest.raises(SystemExit) as left:
        main(slip.words.split())
    out, err = capsys.readouterr()
    assert (left.value.code, out) == (slip.code, "")
    assert slip.place in err
    assert slip.remedy in err
    assert "Traceback" not in err


def test_an_explicit_admin_port_that_is_taken_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default one is only a warning."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SystemExit) as left:
            main(["run", "app:registry", "--admin", address])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert f"flowherd: --admin {address}: Address already in use; choose another, or off\n" in said


def test_the_catalogue_is_one() -> None:
    """The catalogue must not shrink unnoticed."""
    assert len(SLIPS) >= 45
    assert len({str(slip) + str(slip.env) + str(slip.files) for slip in SLIPS}) == len(SLIPS)
