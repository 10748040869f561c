"""One process imports the app and forks all others: nothing unsafe is shared, and it may die."""

from __future__ import annotations

import importlib.util
import os
import signal
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from harness import eventually, running_host

if TYPE_CHECKING:
    from pathlib import Path

    from harness import Engine, Host

APP = "preload_app:registry"


def start(folder: Path, engine: Engine, *flags: str, does: str = "") -> Any:
    """With so few slots that a process cannot fetch all that `ask_all` submits: a sibling is woken for the rest."""
    flags = ("-p", "2", "--concurrency", "4", *flags)
    return running_host(folder, APP, *flags, url=engine.url, env={"PRELOAD_DOES": does})


def ask_all(engine: Engine, host: Host, activity: str) -> dict[int, dict[str, Any]]:
    """Runs the activity until each worker has; the first output of each, by pid."""
    pids = set(host.children().values())
    outputs: dict[int, dict[str, Any]] = {}

    def look() -> bool:
        for workflow in engine.submit(activity, 12):
            eventually(lambda one=workflow: engine.workflow(one)["status"] == "completed", "an answer")
            output = engine.output(workflow)
            outputs.setdefault(output["pid"], output)
        return set(outputs) >= pids

    eventually(look, f"an answer of each of {pids}")
    return outputs


def zygote(host: Host) -> int:
    return host.log("preload_started")[-1]["pid"]


def test_workers_are_forked_from_what_was_imported_once_and_are_the_supervisors_children(
    engine: Engine, tmp_path: Path
) -> None:
    """The supervisor is the parent, which reaps them; a normal start has no warning and no duplicate output."""
    with start(tmp_path, engine) as host:
        host.ready(2)
        outputs = ask_all(engine, host, "where")
        assert {output["imported_by"] for output in outputs.values()} == {zygote(host)}
        assert {output["parent"] for output in outputs.values()} == {host.pid}
        assert len(os.listdir(f"/proc/{zygote(host)}/task")) == 1
        assert os.getpgid(zygote(host)) == zygote(host)
        host.signal(signal.SIGTERM)
        assert host.wait() == 0
        assert not host.tree()
        assert not [line for line in host.log() if line.get("level") in {"warning", "error"}]
        assert host.log_path.read_text().count("importing") == 1


@pytest.mark.parametrize(
    ("does", "found"), [("thread", "the thread pool-1, in "), ("socket", "a socket, connected to 127.0.0.1:")]
)
def test_an_app_that_does_not_survive_a_fork_works_all_the_same_with_one_warning(
    engine: Engine, tmp_path: Path, does: str, found: str
) -> None:
    """Each process imports it then."""
    with start(tmp_path, engine, does=does) as host:
        host.ready(2)
        outputs = ask_all(engine, host, "where")
        assert all(output["imported_by"] == pid for pid, output in outputs.items())
        [warning] = host.log("preload_unsafe")
        [named] = [one for one in warning["found"] if found in one]
        assert does != "thread" or named.endswith(" refresh"), "the line of the app's own code"
        assert "--preload" in warning["remedy"]
        eventually(lambda: zygote(host) not in host.tree(), "the end of what nobody needs")


def test_an_explicit_preload_overrides_the_check_and_not_the_warning(engine: Engine, tmp_path: Path) -> None:
    """The user may know better."""
    with start(tmp_path, engine, "--preload", does="socket") as host:
        host.ready(2)
        outputs = ask_all(engine, host, "where")
        assert {output["imported_by"] for output in outputs.values()} == {zygote(host)}
        assert len(host.log("preload_unsafe")) == 1


def test_without_preload_each_process_imports_the_app(engine: Engine, tmp_path: Path) -> None:
    """--no-preload, as before there was a zygote."""
    with start(tmp_path, engine, "--no-preload") as host:
        host.ready(2)
        outputs = ask_all(engine, host, "where")
        assert all(output["imported_by"] == pid for pid, output in outputs.items())
        assert not host.log("preload_started")


def test_an_app_that_lets_the_kernel_reap_does_not_confuse_the_zygote(engine: Engine, tmp_path: Path) -> None:
    """SIGCHLD ignored at import: waiting for a child is an error then."""
    with start(tmp_path, engine, does="reap") as host:
        host.ready(2)
        assert len(ask_all(engine, host, "where")) == 2


@pytest.mark.parametrize("does", ["random", "numpy"])
def test_two_workers_never_draw_the_same_numbers(engine: Engine, tmp_path: Path, does: str) -> None:
    """A generator that was seeded before the fork would be the same in all of them."""
    if does == "numpy" and importlib.util.find_spec("numpy") is None:
        pytest.skip("numpy is not installed")
    with start(tmp_path, engine, does=does) as host:
        host.ready(2)
        outputs = ask_all(engine, host, "chance").values()
        assert len(outputs) == 2
        assert len({output["random"] for output in outputs}) == 2
        assert (does == "random") == (None in {output["numpy"] for output in outputs})
        assert does == "random" or len({output["numpy"] for output in outputs}) == 2


def test_a_killed_zygote_is_replaced_without_effect_on_workers(engine: Engine, tmp_path: Path) -> None:
    """The workers stay as they are; what dies after it is forked from the next."""
    with start(tmp_path, engine) as host:
        host.ready(2)
        before = host.children()
        os.kill(zygote(host), signal.SIGKILL)
        host.wait_for_log("preload_ready", 2)
        assert host.children() == before
        os.kill(before[0], signal.SIGKILL)
        host.wait_for_log("process_ready", 4)
        outputs = ask_all(engine, host, "where")
        assert outputs[host.children()[0]]["imported_by"] == zygote(host)


def test_a_frozen_zygote_is_replaced_when_a_worker_is_needed(engine: Engine, tmp_path: Path) -> None:
    """SIGSTOP: it does not answer, which shows only at the next order."""
    with start(tmp_path, engine) as host:
        host.ready(2)
        frozen = zygote(host)
        os.kill(frozen, signal.SIGSTOP)
        os.kill(host.children()[1], signal.SIGKILL)
        host.wait_for_log("process_ready", 4)
        assert zygote(host) != frozen
        assert len(host.log("preload_late")) == 1
        assert len(ask_all(engine, host, "where")) == 2


def test_p1_nothing_of_it_outlives_a_killed_supervisor(engine: Engine, tmp_path: Path) -> None:
    """Faults P1: workers release and exit; the zygote holds nothing."""
    with start(tmp_path, engine) as host:
        host.ready(2)
        pids = [zygote(host), *host.children().values(), host.keeper()]
        seen = [psutil.Process(pid) for pid in pids]
        os.kill(host.pid, signal.SIGKILL)
        psutil.wait_procs(seen, timeout=10)
        assert not host.tree()
