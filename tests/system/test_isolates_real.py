"""Isolates under a real supervisor: started, stopped, killed, and ended with their worker."""

from __future__ import annotations

import os
import signal
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import Engine, Host, eventually, running_engine, running_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APP = "isolated_app:registry"
AGAIN = {"retry": {"max_attempts": 3}}
ONCE = {"retry": {"max_attempts": 1}}


@pytest.fixture
def host(engine: Engine, tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """Starts a host for the app; the rest of it ends with the test."""
    made: list[Any] = []

    def start(*flags: str, processes: int = 1) -> Host:
        manager = running_host(tmp_path, APP, "-p", str(processes), *flags, url=engine.url)
        made.append(manager)
        return manager.__enter__().ready(processes)

    yield start
    for manager in made:
        manager.__exit__(None, None, None)


def noted(folder: Path, count: int = 1) -> list[tuple[int, list[int]]]:
    """Waits for `count` begun attempts; returns their processes, each with its programs."""

    def look() -> list[tuple[int, list[int]]]:
        files = [path for path in folder.iterdir() if path.suffix != ".new" and path.suffix[1:].isdigit()]
        found = [(int(path.suffix[1:]), [int(pid) for pid in path.read_text().split()]) for path in files]
        return found if len(found) >= count else []

    return eventually(look, f"{count} attempts in {folder}")


def why_failed(engine: Engine, workflow: str) -> str:
    """Returns the failure of its only attempt."""
    return str(engine.workflow(workflow)["activities"][0]["error"])


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_an_isolate_works_logs_and_prints_under_its_worker(engine: Engine, host: Callable[..., Host]) -> None:
    """One isolate serves many activities; each process has its own."""
    running = host(processes=2)
    workers = set(running.children().values())
    ids = engine.submit("greet", 12, name="Ada")
    engine.wait_for("complete", 12)
    outputs = [engine.output(workflow) for workflow in ids]
    assert {output["greeting"] for output in outputs} == {"hello Ada"}
    pids = {output["pid"] for output in outputs}
    assert not pids & workers
    assert {output["process"] for output in outputs} <= {0, 1}
    lines = running.wait_for_log("activity_stdout", 12)
    assert {line["line"] for line in lines} == {"greeting Ada"}
    assert {line["activity_id"] for line in lines} == {e["activity_id"] for e in engine.entries("complete")}
    assert {line["whom"] for line in running.log("greeted")} == {"Ada"}
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
    assert all(map(is_gone, pids))


@pytest.mark.parametrize("flags", [(), ("--no-preload",)], ids=["forked from the preload", "forked directly"])
def test_an_isolate_calls_the_engine_with_the_token_of_the_host(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """The keeper has fetched it; the isolate does not know the secret."""
    client = ("the-client", "the-secret-of-the-client")
    with running_engine(credentials=client) as engine:
        words = ("-p", "1", "--client-id", client[0], *flags)
        env = {"KRUXIAFLOW_CLIENT_SECRET": client[1]}
        with running_host(tmp_path, APP, *words, url=engine.url, env=env) as running:
            running.ready(1)
            [workflow] = engine.submit("keep", folder=str(tmp_path))
            engine.wait_for("complete", 1)
            output = engine.output(workflow)
            assert (output["text"], output["resumed"]) == ("kept", {"step": 1})
            assert f"flowherd-files-{os.getuid()}" in output["folder"]
            eventually(lambda: not Path(output["folder"]).exists(), "the end of its folder")


def test_a17_a_crash_and_a_hang_in_isolates_cost_no_other_activity(
    engine: Engine, host: Callable[..., Host], tmp_path: Path
) -> None:
    """The worker lives on: the crash is retried, the hang killed with its program after its grace."""
    running = host("--cancel-grace", "0.5", "--activity-timeout", "1")
    crashes, hangs = tmp_path / "crashes", tmp_path / "hangs"
    crashes.mkdir()
    hangs.mkdir()
    [crashed] = engine.submit("crash_once", settings=AGAIN, folder=str(crashes))
    [hanging] = engine.submit("hang", settings=ONCE, folder=str(hangs))
    [(hung, [program])] = noted(hangs)
    engine.wait_for("complete", 1)
    engine.wait_for("fail", 2)
    assert "longer than its limit of 1 s" in why_failed(engine, hanging)
    assert "was killed by SIGSEGV" in {line["reason"] for line in running.log("isolate_died")}
    assert len(noted(crashes, 2)) == 2
    assert engine.output(crashed)["pid"] in {pid for pid, _ in noted(crashes, 2)}
    eventually(lambda: is_gone(hung) and is_gone(program), "the end of what hung")
    [row] = running.status()["children"]
    assert (row["incarnation"], row["restarts"]) == (1, 0)
    assert not running.log("process_exited")


def test_a_second_signal_ends_isolates_within_a_second(
    engine: Engine, host: Callable[..., Host], tmp_path: Path
) -> None:
    """P4: whatever they do."""
    running = host("--graceful-timeout", "30")
    ids = [engine.submit(name, settings=ONCE, folder=str(tmp_path))[0] for name in ("hang", "compute")]
    pids = [pid for pid, _ in noted(tmp_path, 2)]
    running.signal(signal.SIGTERM)
    running.wait_for_log("draining")
    since = time.monotonic()
    running.signal(signal.SIGTERM)
    assert running.wait() == 6
    assert time.monotonic() - since < 5.0  # with the machine busy; the scorecard measures it (M7b)
    engine.wait_for("fail", 2)
    assert all("was stopped before" in why_failed(engine, id_) for id_ in ids)
    eventually(lambda: all(map(is_gone, pids)), "the end of all isolates", within_s=5)


@pytest.mark.parametrize("who", ["supervisor", "worker"])
def test_isolates_end_with_their_worker_and_with_the_supervisor(
    engine: Engine, host: Callable[..., Host], tmp_path: Path, who: str
) -> None:
    """P1, P2: also those that ignore their stop, and the programs they have started."""
    running = host()
    [workflow] = engine.submit("hang", settings=ONCE, folder=str(tmp_path))
    [(isolate, [program])] = noted(tmp_path)
    victim = running.pid if who == "supervisor" else running.children()[0]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: is_gone(isolate), f"the end of the isolate of a killed {who}", within_s=5)
    engine.wait_for("fail", 1)
    words = {"worker": "was killed by SIGKILL", "supervisor": "was stopped before"}
    assert words[who] in why_failed(engine, workflow)
    eventually(lambda: is_gone(program), "the end of what it has started", within_s=5)


def test_a_stock_script_moves_to_isolates_by_configuration_alone(engine: Engine, tmp_path: Path) -> None:
    """The recipe of worker/docs/execution.md: each script can be killed, and its code is unchanged."""
    pytest.importorskip("kruxiaflow", reason="hosts the stock SDK's script: pip install kruxiaflow==0.4.0")
    (tmp_path / "flowherd.toml").write_text(
        '[activities.script]\noffload = "process"\nmax_memory_mb = 2000\ntimeout_s = 1\n'
    )
    app = "kruxiaflow.workers.script_activity:script_activity"
    flags = ("-p", "1", "-c", "4", "--worker", "py-std", "--cancel-grace", "0.5", "--config", "flowherd.toml")
    with running_host(tmp_path, app, *flags, url=engine.url) as running:
        running.ready(1)
        good = "import os\nOUTPUT = {'sum': sum(INPUT['numbers']), 'pid': os.getpid()}"
        bad = textwrap.dedent(
            """
            import time
            while True:
                try:
                    time.sleep(1)  # until it is killed: nothing else ends it
                except BaseException:
                    continue
            """
        )
        [endless] = engine.submit("script", settings=ONCE, script=bad, inputs={})
        [summed] = engine.submit("script", settings=ONCE, script=good, inputs={"numbers": [1, 2]})
        engine.wait_for("complete", 1)
        result = engine.output(summed)["result"]
        assert result["sum"] == 3
        assert result["pid"] not in running.children().values()
        engine.wait_for("fail", 1)
        assert "longer than its limit of 1 s" in why_failed(engine, endless)
        [row] = running.status()["children"]
        assert row["incarnation"] == 1
