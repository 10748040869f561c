"""The commands as users type them, on real engines and supervisors."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from harness import APPS, CEILING_S, Engine, Host, clean_environment, eventually, running_engine, running_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Flowherd = Callable[..., subprocess.CompletedProcess[str]]

APP = "sample_app:registry"
ROOT = Path(__file__).resolve().parent.parent.parent
MODULE = ("-m", "flowherd_supervisor")
SUPERVISOR_PROGRAM = ("-c", "from flowherd_supervisor.cli.main import main_supervisor; main_supervisor()")
HOSTILE = {
    "KRUXIAFLOW_API_URL": "http://127.0.0.1:9",
    "KRUXIAFLOW_CLIENT_ID": "production",
    "KRUXIAFLOW_CLIENT_SECRET": "production",
    "KRUXIAFLOW_CLIENT_SECRET_FILE": "/nowhere/secret",
    "KRUXIAFLOW_WORKER": "another",
    "KRUXIAFLOW_WORKER_CONFIG": "/nowhere/flowherd.toml",
    "KRUXIAFLOW_WORKER_PROCESSES": "no number",
    "KRUXIAFLOW_QUEUE_DEFAULT_TIMEOUT": "0",
    "KRUXIAFLOW_LOG_LEVEL": "shouting",
    "WORKER_TYPE": "another",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
}
TWO_STEPS = """
name: two-steps
activities:
  - key: first
    worker: py-std
    activity_name: hello
    parameters: {name: "{{INPUT.who}}"}
  - key: second
    worker: py-std
    activity_name: hello
    parameters: {name: "{{first.greeting}}"}
    depends_on: [first]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Host]]:
    """An engine and a host that serves it, for all tests that change neither."""
    with running_engine() as engine:
        folder = tmp_path_factory.mktemp("h")
        with running_host(folder, APP, "-p", "2", url=engine.url) as host:
            yield engine, host.ready(2)


@pytest.fixture
def flowherd(served: tuple[Engine, Host], tmp_path: Path) -> Flowherd:
    """Runs one command to its end, beside that engine and that host."""
    engine, host = served

    def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        env = {"XDG_RUNTIME_DIR": str(host.folder / "r"), "KRUXIAFLOW_API_URL": engine.url} | env
        return subprocess.run(
            [sys.executable, *MODULE, *words],
            capture_output=True, text=True, cwd=tmp_path, env=clean_environment(**env), timeout=30, check=False,
        )  # fmt: skip

    return run


# submit


def test_submit_runs_an_activity_and_prints_its_output(flowherd: Flowherd) -> None:
    """The whole path: deployed, claimed, run, read."""
    done = flowherd("submit", "hello", "-P", "name=you")
    assert (done.returncode, done.stderr) == (0, "")
    head, output = done.stdout.splitlines()
    assert head.startswith("flowherd-hello ")
    assert head.endswith(": completed")
    assert output == '  greeting: "hello you"'


def test_submit_refuses_a_parameter_that_the_host_of_this_machine_does_not_take(
    flowherd: Flowherd, served: tuple[Engine, Host]
) -> None:
    """Before anything is queued; for a host of another engine, which may have another version, it is a warning."""
    engine, host = served
    before = engine.client.total("completed")
    done = flowherd("submit", "hello", "-P", "nmae=you")
    assert done.returncode == 2
    assert done.stderr == (
        f"flowherd: hello takes no parameter 'nmae': did you mean 'name'? it takes name ({APP}, pid {host.pid})\n"
    )
    done = flowherd("submit", "hello", "-P", "nmae=you", "--worker", "another", "--no-wait")
    assert done.returncode == 0
    assert "warning: hello takes no parameter 'nmae'" in done.stderr
    assert engine.client.total("completed") == before


def test_submit_of_a_definition_runs_its_steps_in_order(flowherd: Flowherd, tmp_path: Path) -> None:
    """YAML with depends_on and templates, inputs from a file."""
    (tmp_path / "two.yaml").write_text(TWO_STEPS)
    (tmp_path / "in.json").write_text('{"who": "you"}')
    done = flowherd("submit", "--definition", "two.yaml", "--input", "@in.json", "--json")
    line = json.loads(done.stdout)
    assert (done.returncode, line["status"], line["error"]) == (0, "completed", None)
    assert line["output"] == {"first": {"greeting": "hello you"}, "second": {"greeting": "hello hello you"}}


def test_submit_of_several_says_which_failed(flowherd: Flowherd) -> None:
    """One line each; exit 1 when any failed."""
    done = flowherd("submit", "noop", "hello", "--json")
    noop, hello = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 1
    nothing = {"output": None, "error": None, "code": None, "attempts": None}
    assert noop == {"id": noop["id"], "status": "completed"} | nothing
    assert (hello["status"], hello["error"]) == ("failed", "name: Field required")
    assert (hello["code"], hello["attempts"]) == ("INVALID_PARAMETERS", 1)


# status


def test_status_finds_the_only_supervisor(flowherd: Flowherd, served: tuple[Engine, Host]) -> None:
    """The document has the public keys, with consistent numbers."""
    engine, host = served
    done = flowherd("status", "--json")
    seen = json.loads(done.stdout)
    assert done.returncode == 0
    assert (seen["pid"], seen["state"], seen["processes"]) == (host.pid, "running", {"wanted": 2, "ready": 2})
    assert seen["engine"]["url"] == engine.url
    assert seen["engine"]["reachable"] is True
    assert seen["engine"]["rtt_ms"] > 0
    assert seen["concurrency"] == {"total": 16, "in_use": 0}
    assert {"claimed", "completed", "failed", "lost", "settled_after_crash"} <= seen["totals"].keys()
    child_keys = (
        "process pid incarnation phase slots in_flight completed failed loop_lag_ms rss_mb uss_mb cpu_percent"
    )
    for row in seen["children"]:
        assert {*child_keys.split(), "uptime_s", "restarts"} <= row.keys()
    assert {row["process"]: row["pid"] for row in seen["children"]} == host.children()


def test_status_takes_a_pid_or_a_socket(flowherd: Flowherd, served: tuple[Engine, Host]) -> None:
    """--pid and --admin unix:PATH lead to the same."""
    _, host = served
    path = host.folder / "r" / "flowherd" / f"{host.pid}.sock"
    for words in (["--pid", str(host.pid)], ["--admin", f"unix:{path}"]):
        done = flowherd("status", *words)
        assert done.returncode == 0
        assert done.stdout.startswith(f"flowherd 0.1.0, pid {host.pid}, running for ")


def test_on_a_terminal_of_80_columns_no_line_of_status_is_cut(
    flowherd: Flowherd, served: tuple[Engine, Host], tmp_path: Path
) -> None:
    """In a real terminal, whose width rich determines."""
    _, host = served
    ours, theirs = pty.openpty()
    env = clean_environment(XDG_RUNTIME_DIR=str(host.folder / "r"), COLUMNS="80", TERM="dumb")
    with subprocess.Popen(
        [sys.executable, *MODULE, "status"], stdout=theirs, env=env, cwd=tmp_path
    ) as process:
        assert process.wait(CEILING_S) == 0
    text = os.read(ours, 65_536).decode()
    os.close(ours)
    os.close(theirs)
    assert "…" not in text
    assert len([line for line in text.splitlines() if " running " in line and "/8" in line]) == 2
    assert max(map(len, text.splitlines())) <= 80


def test_with_two_supervisors_status_asks_which(
    served: tuple[Engine, Host], flowherd: Flowherd, tmp_path: Path
) -> None:
    """With several supervisors it lists them."""
    engine, host = served
    words = [
        *MODULE,
        "run",
        APP,
        "-p",
        "1",
        "--api-url",
        engine.url,
        "--app-dir",
        str(APPS),
        "--admin",
        "off",
    ]
    env = {"XDG_RUNTIME_DIR": str(host.folder / "r")}
    with program(*words, folder=tmp_path, env=env) as other:
        said(tmp_path, "app_loaded")
        done = flowherd("status")
        assert done.returncode == 2
        for pid in (host.pid, other.pid):
            assert f"  --pid {pid} sample_app:registry in {APPS}\n" in done.stderr
        assert f"pid {other.pid}," in flowherd("status", "--pid", str(other.pid)).stdout


# Programs


@contextlib.contextmanager
def program(
    *words: str, folder: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A program that ends with the block; its stderr goes to a file."""
    environment = clean_environment(**({"XDG_RUNTIME_DIR": str(folder)} | dict(env or {})))
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=folder, env=environment,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=CEILING_S)


def said(folder: Path, text: str) -> str:
    """Waits until stderr holds a text, and returns it all."""
    eventually(lambda: text in (folder / "stderr").read_text(), f"{text!r} on stderr")
    return (folder / "stderr").read_text()


@pytest.mark.parametrize(
    "words",
    [[str(ROOT / "supervisor"), "run", APP], [*SUPERVISOR_PROGRAM, APP]],
    ids=["from a clone", "supervisor"],
)
def test_a_supervisor_runs_from_a_clone_and_by_its_own_name(
    engine: Engine, tmp_path: Path, words: list[str]
) -> None:
    """`python supervisor run APP -p 2` without installing, and `flowherd-supervisor APP -p 2`."""
    flags = ["-p", "2", "--api-url", engine.url, "--app-dir", str(APPS), "--log-format", "text"]
    with program(*words, *flags, "--admin", f"unix:{tmp_path}/a.sock", folder=tmp_path) as process:
        said(tmp_path, "app_loaded")
        engine.submit("hello", 2, name="x")
        engine.wait_for("complete", 2)
        shown = subprocess.run(
            [sys.executable, *MODULE, "status", "--admin", f"unix:{tmp_path}/a.sock"],
            capture_output=True, text=True, cwd=tmp_path, env=clean_environment(), timeout=30, check=False,
        )  # fmt: skip
        assert "2 completed" in shown.stdout
        process.send_signal(signal.SIGTERM)
        assert process.wait(CEILING_S) == 0
    banner = (tmp_path / "stderr").read_text()
    assert banner.startswith("flowherd\n  version      0.1.0, Python ")
    assert "  concurrency  16 = 8+8 (auto)\n" in banner
    assert not (tmp_path / "a.sock").exists()


def test_a_taken_default_port_is_one_warning_and_the_socket_serves(engine: Engine, tmp_path: Path) -> None:
    """A second supervisor on a host must start, too."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # in use by another program, which is as good
            stack.enter_context(socket.create_server(("127.0.0.1", 9464)))
        words = [*MODULE, "run", APP, "-p", "1", "--api-url", engine.url, "--app-dir", str(APPS)]
        with program(*words, folder=tmp_path) as process:
            log = said(tmp_path, '"event": "process_ready", "process": 0')
            assert log.count("admin_port_taken") == 1
            assert "127.0.0.1:9464" in log
            transport = httpx.HTTPTransport(uds=f"{tmp_path}/flowherd/{process.pid}.sock")
            with httpx.Client(transport=transport, base_url="http://flowherd") as client:
                assert client.get("/api/status").json()["pid"] == process.pid


def test_the_engine_reads_no_variable_but_its_own_secret(tmp_path: Path) -> None:
    """Users of the engine have them exported: even hostile values have no effect."""
    (tmp_path / "flowherd.toml").write_text("this is = not [toml")
    with program(*MODULE, "engine", "--port", "0", folder=tmp_path, env=HOSTILE) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        with httpx.Client(base_url=url, trust_env=False) as client:
            assert client.get("/health").json()["insecure_dev"] is True
            assert client.get("/api/v1/workflows").status_code == 200
    words = [*MODULE, "engine", "--port", "0", "--client-id", "mine"]
    with program(*words, folder=tmp_path, env=HOSTILE | {"KRUXIAFLOW_CLIENT_SECRET": "mine too"}) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        with httpx.Client(base_url=url, trust_env=False) as client:
            assert client.get("/api/v1/workflows").status_code == 401
            form = {"grant_type": "client_credentials", "client_id": "mine", "client_secret": "mine too"}
            assert client.post("/api/v1/oauth/token", data=form).status_code == 200


# What a new user meets


def test_without_arguments_it_prints_its_help(flowherd: Flowherd) -> None:
    """Exit 0, since this is no error."""
    done = flowherd()
    assert done.returncode == 0
    assert "Usage: flowherd COMMAND" in done.stdout
    for command in ("run", "demo", "engine", "submit", "check", "status", "advise"):
        assert f" {command} " in done.stdout


def test_an_engine_that_is_away_is_logged_once_and_found_again(tmp_path: Path) -> None:
    """E1: one line per process, not one per try; status shows it; then work goes on by itself."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with running_host(tmp_path, APP, "-p", "2", url=f"http://127.0.0.1:{port}") as host:
        host.ready(2)
        host.wait_for_log("engine_unreachable", 2)
        eventually(lambda: host.status()["state"] == "running", "a status")
        assert host.status()["engine"]["reachable"] is False
        with running_engine(port=port) as engine:
            host.wait_for_log("engine_reachable_again", 2)
            engine.submit("hello", 2, name="x")
            engine.wait_for("complete", 2)
            eventually(lambda: host.status()["engine"]["reachable"], "an engine that can be reached")
        host.wait_for_log("engine_unreachable", 4)
        eventually(lambda: not host.status()["engine"]["reachable"], "an engine that is away again")
        assert len(host.log("engine_unreachable")) == 4


def test_an_engine_that_needs_a_token_is_reported_with_the_remedy(tmp_path: Path) -> None:
    """Missing credentials are a common mistake and must not be a crash."""
    with (
        running_engine(credentials=("me", "canary")) as engine,
        running_host(tmp_path, APP, "-p", "1", url=engine.url) as host,
    ):
        [line] = host.wait_for_log("engine_refuses_our_token")
        assert "set KRUXIAFLOW_CLIENT_ID and KRUXIAFLOW_CLIENT_SECRET" in line["reason"]
        assert host.process.poll() is None


def test_what_is_unwise_is_a_warning_at_the_start(tmp_path: Path) -> None:
    """S13, S14: one warning, and it runs."""
    secret = tmp_path / "secret"
    secret.write_text("canary")
    secret.chmod(0o644)
    env = {"KRUXIAFLOW_CLIENT_SECRET_FILE": str(secret)}
    flags = ("-p", "1", "--client-id", "me")
    with running_host(tmp_path, APP, *flags, url="http://192.0.2.1:9", env=env) as host:
        notes = [line["note"] for line in host.wait_for_log("unwise_setting", 2)]
        assert notes[0].endswith(f"chmod 600 {secret}")
        assert "in the clear" in notes[1]
        host.ready(1)


def test_dependencies_planted_beside_the_app_are_not_ours(engine: Engine, tmp_path: Path) -> None:
    """S17: the app's folder is put first on the import path only after our own imports."""
    apps = tmp_path / "apps"
    apps.mkdir()
    (apps / "planted_app.py").write_text((APPS / "sample_app.py").read_text())
    for name in ("httpx", "httpcore", "h11", "anyio", "msgspec", "structlog", "uvloop", "pydantic", "psutil"):
        (apps / f"{name}.py").write_text(f"raise RuntimeError('planted {name}')")
    with running_host(tmp_path, "planted_app:registry", "-p", "2", url=engine.url, app_dir=apps) as host:
        engine.submit("hello", 4, name="x")
        engine.submit("kill_self", settings={"retry": {"max_attempts": 1}})
        engine.wait_for("complete", 4)
        host.wait_for_log("process_ready", 4)
        host.signal(signal.SIGTERM)
        assert host.wait() == 0
        assert "planted " not in host.log_path.read_text().replace("planted_app", "")
