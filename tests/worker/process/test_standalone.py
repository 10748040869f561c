"""`python -m flowherd app`: one complete worker without a supervisor, against the embedded engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from engine_rig import brings, item
from harness import APPS, CEILING_S, Engine, clean_environment, eventually, running_engine
from scripted_engine import Play, scripted_engine

from flowherd.exit_codes import Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.fork
CREDENTIALS = ("w1", "s3cret-canary")


class Solo:
    """The program, its log as JSON lines in a file."""

    def __init__(self, folder: Path, app: str, *flags: str, env: dict[str, str] | None = None) -> None:
        self.log_path = folder / "log.jsonl"
        words = [
            sys.executable,
            "-m",
            "flowherd",
            app,
            "--app-dir",
            str(APPS),
            "--log-format",
            "json",
            *flags,
        ]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                words, stdout=log, stderr=log, cwd=folder, env=clean_environment(**(env or {}))
            )

    def log(self, event: str) -> list[dict[str, Any]]:
        lines = []
        for text in self.log_path.read_text().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(text))
        return [line for line in lines if line.get("event") == event]

    def ready(self) -> Solo:
        eventually(lambda: self.log("ready") or self.process.poll() is not None, "ready")
        assert self.process.poll() is None, self.log_path.read_text()
        return self

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(CEILING_S)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running_engine() as engine:
        yield engine


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Solo]]:
    started: list[Solo] = []

    def start(app: str, *flags: str, env: dict[str, str] | None = None) -> Solo:
        started.append(Solo(tmp_path, app, *flags, env=env))
        return started[-1]

    yield start
    for solo in started:
        if solo.process.poll() is None:
            solo.process.kill()
        solo.wait()


def test_it_completes_a_queue_and_ends_cleanly_on_a_signal(
    engine: Engine, start: Callable[..., Solo]
) -> None:
    """Law 1: one complete worker without the supervisor package."""
    engine.submit("noop", 50)
    (hello,) = engine.submit("hello", name="solo")
    solo = start("sample_app:registry", "--api-url", engine.url).ready()
    engine.wait_for("complete", 51)
    solo.signal(signal.SIGTERM)
    assert solo.wait() == Exit.CLEAN
    assert engine.output(hello) == {"greeting": "hello solo"}
    assert set(engine.claims_per_activity().values()) == {1}


def test_it_reads_the_variables_of_the_stock_worker(engine: Engine, start: Callable[..., Solo]) -> None:
    engine.submit("noop", 3)
    solo = start(
        "sample_app:registry",
        env={
            "KRUXIAFLOW_API_URL": engine.url,
            "KRUXIAFLOW_WORKER": "py-std",
            "KRUXIAFLOW_WORKER_MAX_ACTIVITIES": "3",
            "KRUXIAFLOW_WORKER_ID": "canary-host",
        },
    ).ready()
    claims = engine.wait_for("claim", 3)
    assert all(entry["worker_id"].startswith("canary-host-") for entry in claims)
    assert solo.log("ready")[0]["concurrency"] == 3


def test_it_reads_the_settings_file_that_flowherd_run_reads(
    engine: Engine, start: Callable[..., Solo], tmp_path: Path
) -> None:
    """One model for both programs; the number of processes is nothing to one."""
    (tmp_path / "flowherd.toml").write_text(f"api-url = '{engine.url}'\nconcurrency = 3\nprocesses = 8\n")
    assert start("sample_app:registry").ready().log("ready")[0]["concurrency"] == 3


def test_a_signal_lets_running_work_end(engine: Engine, start: Callable[..., Solo]) -> None:
    """Faults P2."""
    engine.submit("wait", seconds=1.0)
    solo = start("sample_app:registry", "--api-url", engine.url).ready()
    engine.wait_for("claim", 1)
    solo.signal(signal.SIGINT)
    assert solo.wait() == Exit.CLEAN
    assert len(engine.entries("complete")) == 1


def test_a_second_signal_gives_the_work_back_at_once(engine: Engine, start: Callable[..., Solo]) -> None:
    """Faults P4: exit 6 says that something was given back."""
    engine.submit("wait", 2, seconds=60.0)
    solo = start("sample_app:registry", "--api-url", engine.url).ready()
    engine.wait_for("claim", 2)
    solo.signal(signal.SIGTERM)
    eventually(lambda: solo.log("signal_received"), "the first signal")
    solo.signal(signal.SIGTERM)
    assert solo.wait() == Exit.RELEASED
    assert len(engine.wait_for("fail", 2)) == 2


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a21_a22_it_goes_on_when_its_loop_is_stopped_and_its_tasks_are_cancelled(
    engine: Engine, start: Callable[..., Solo], loop: str
) -> None:
    """Nobody would replace it."""
    solo = start("interfering_app:registry", "--api-url", engine.url, "--loop", loop).ready()
    engine.submit("stop_the_loop", 1, where="handler")
    engine.wait_for("complete", 1)
    engine.submit("cancel_all", 1, where="callback")
    engine.wait_for("complete", 2)
    engine.submit("neighbour", 1, seconds=0.1)
    engine.wait_for("complete", 3)
    solo.signal(signal.SIGTERM)
    assert solo.wait() == Exit.CLEAN
    assert (len(solo.log("loop_stop_ignored")), len(solo.log("cancel_ignored"))) == (1, 1)


def test_a23_it_gives_its_work_back_and_ends_when_cancels_do_not_stop(
    engine: Engine, start: Callable[..., Solo]
) -> None:
    """Whatever restarts it."""
    solo = start("interfering_app:registry", "--api-url", engine.url).ready()
    engine.submit("cancel_all", 1, where="handler", times=50)
    engine.wait_for("fail", 1)
    assert solo.wait() == Exit.INTERNAL
    assert [line["code"] for line in solo.log("activity_failed")] == ["WORKER_SHUTDOWN"]
    assert "was destroyed but it is pending" not in solo.log_path.read_text()


def test_a_lease_is_kept_while_handlers_work_longer_than_it(start: Callable[..., Solo]) -> None:
    """The thread beats, also while the loop is blocked: leases of one second outlive handlers of three."""
    with running_engine("--default-lease", "1") as engine:
        engine.submit("wait", seconds=3.0)
        engine.submit("block_loop", seconds=2.5)
        start("sample_app:registry", "--api-url", engine.url, "--default-lease", "1s").ready()
        engine.wait_for("complete", 2)
        assert set(engine.claims_per_activity().values()) == {1}
        assert len(engine.entries("heartbeat")) >= 8


async def test_a_result_it_could_not_deliver_is_delivered_by_its_keeper_at_the_end(
    start: Callable[..., Solo],
) -> None:
    """Faults C6: the result is kept in the ledger until it is delivered."""
    async with scripted_engine() as server:
        server.script("poll", brings(item(1, "noop")))
        server.script("complete", *[Play(503, b"", {"retry-after": "60"})] * 2)
        words = ("sample_app:registry", "--api-url", server.url, "--graceful-timeout", "0.3s")
        solo = await asyncio.get_running_loop().run_in_executor(None, lambda: start(*words).ready())
        await server.asked("complete")
        solo.signal(signal.SIGTERM)
        await server.asked("complete", 3)
        assert await asyncio.get_running_loop().run_in_executor(None, solo.wait) == Exit.RELEASED
        assert len({request.body for request in server.of("complete")}) == 1
        assert server.of("fail") == []


def test_it_fetches_one_token_and_says_nothing_of_the_secret(start: Callable[..., Solo]) -> None:
    """Faults S7, S8: never in argv, never in the log."""
    with running_engine(credentials=CREDENTIALS) as engine:
        engine.submit("noop", 20)
        solo = start(
            "sample_app:registry",
            "--api-url",
            engine.url,
            "--client-id",
            CREDENTIALS[0],
            "--log-level",
            "debug",
            env={"KRUXIAFLOW_CLIENT_SECRET": CREDENTIALS[1]},
        ).ready()
        engine.wait_for("complete", 20)
        solo.signal(signal.SIGTERM)
        assert solo.wait() == Exit.CLEAN
        text = solo.log_path.read_text()
        assert CREDENTIALS[1] not in text
        assert "eyJ" not in text


def test_refused_credentials_end_it_with_code_4(start: Callable[..., Solo]) -> None:
    with running_engine(credentials=CREDENTIALS) as engine:
        solo = start(
            "sample_app:registry",
            *("--api-url", engine.url, "--client-id", CREDENTIALS[0], "--auth-grace", "1s"),
            env={"KRUXIAFLOW_CLIENT_SECRET": "wrong"},
        )
        assert solo.wait() == Exit.CREDENTIALS_REFUSED
        assert "KRUXIAFLOW_CLIENT_SECRET" in solo.log("giving_up")[0]["reason"]


@pytest.mark.parametrize(
    ("words", "env", "said"),
    [
        (["nowhere:registry"], {}, "there is no module 'nowhere'"),
        (["sample_app:registri"], {}, "did you mean registry"),
        (["sample_app:registry", "--concurrency", "0"], {}, "concurrency"),
        (
            ["sample_app:registry"],
            {"KRUXIAFLOW_WORKER_POLL_MAX_ACTIVITIES": "many"},
            "ACTIVITIES: should be a whole number",
        ),
        (["sample_app:registry", "--api-url", "http://user:pw-canary@host"], {}, "user or password"),
        (["sample_app:registry", "--transport", "httpx-pool"], {}, "use direct, the default, or httpx"),
        (["sample_app:registry", "--client-id", "w1"], {}, "KRUXIAFLOW_CLIENT_SECRET"),
    ],
)
def test_a_wrong_setting_ends_it_with_code_2_and_one_line(
    start: Callable[..., Solo], words: list[str], env: dict[str, str], said: str
) -> None:
    """Faults S12."""
    solo = start(*words, env=env)
    assert solo.wait() == Exit.USAGE
    text = solo.log_path.read_text()
    assert said in text
    assert "Traceback" not in text
    assert "pw-canary" not in text


def test_an_app_that_cannot_be_imported_ends_it_with_code_3_and_its_traceback(
    start: Callable[..., Solo],
) -> None:
    """Faults C18."""
    solo = start("broken_app:registry")
    assert solo.wait() == Exit.BOOT_FAILED
    text = solo.log_path.read_text()
    assert text.count("ZeroDivisionError: division by zero") >= 1
    assert text.count("Traceback") == 1


def test_the_worker_package_needs_nothing_of_the_supervisor() -> None:
    """Law 1."""
    code = "import sys, flowherd.__main__; print(*(m for m in sys.modules if 'supervisor' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
