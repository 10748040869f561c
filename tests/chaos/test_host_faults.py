"""What happens to a host from outside (faults.md P5 to P15, C6): terminals, freezes, clocks, limits, many signals."""

from __future__ import annotations

import json
import os
import pty
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from chaos.proxy import Fate
from chaos.world import CHAOS_APPS
from harness import clean_environment, eventually

if TYPE_CHECKING:
    from chaos.world import World

HARMLESS = (
    signal.SIGUSR1, signal.SIGTSTP, signal.SIGCONT, signal.SIGTTIN, signal.SIGTTOU,
    signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG, signal.SIGHUP,
)  # fmt: skip


def test_a_worker_killed_in_mid_report_has_one_completion(world: World) -> None:
    """C6: the engine has committed, the reply is held, the worker dies: the kept result is sent again, and accepted."""
    host = world.start_host(processes=1, slots=2)
    world.proxy.holds = {"complete"}
    world.submit_work(1, (0.01, 0.02))
    eventually(lambda: world.proxy.count("complete")[Fate.HELD], "a report in flight")
    [victim] = host.children().values()
    world.proxy.holds = set()
    world.kill(victim)
    [settled] = host.wait_for_log("activity_settled")
    assert settled["outcome"] == "completed from the kept result"
    verdicts = [e["verdict"] for e in world.engine.journal() if e["event"] == "complete"]
    assert verdicts == ["accepted", "repeated"]
    assert not world.engine.entries("fail")
    assert len(world.notes("start")) == 1


def test_a_process_that_scribbles_in_shared_memory_is_named_and_ended_and_the_host_goes_on(
    world: World,
) -> None:
    """The rest of its work is requeued; keeper and other workers are not affected."""
    host = world.start_host(processes=2, slots=4)
    keeper, before = host.keeper(), set(host.children().values())
    world.engine.submit("scribble", 1, settings={"retry": {"max_attempts": 1}})
    [line] = host.wait_for_log("segment_damaged")
    assert line["pid"] in before
    world.engine.wait_for("fail", 1)
    world.submit_work(10, (0.05, 0.2))
    world.engine.wait_for("complete", 10)
    assert host.keeper() == keeper
    assert len(before & set(host.children().values())) == 1
    [died] = host.log("process_died")
    assert (died["process"], died["pid"]) == (line["process"], line["pid"])
    assert not host.log("supervisor_error")


def test_ctrl_c_in_a_terminal_ends_in_one_summary_without_tracebacks(world: World, tmp_path: Path) -> None:
    """P5: the terminal signals the whole foreground group; only the supervisor listens."""
    world.submit_work(4, (1.0, 1.0))
    words = [
        sys.executable,
        "-m",
        "flowherd_supervisor",
        "run",
        "chaos_app:registry",
        "--app-dir",
        str(CHAOS_APPS),
    ]
    words += ["-p", "2", "-c", "4", "--admin", "off", "--api-url", world.proxy.url]
    env = clean_environment(XDG_RUNTIME_DIR=str(tmp_path), CHAOS_NOTES=str(world.notes_path), COLUMNS="200")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, words, env)
    screen = bytearray()
    try:
        eventually(lambda: len(world.notes("start")) == 4, "4 running activities")
        os.write(terminal, b"\x03")
        _read_to_the_end(terminal, screen)
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    text = screen.decode(errors="replace")
    assert os.waitstatus_to_exitcode(status) == 0, text
    assert "Traceback" not in text
    assert text.count("KeyboardInterrupt") == 0
    assert len(world.engine.entries("complete")) == 4


def _read_to_the_end(terminal: int, screen: bytearray) -> None:
    try:
        while data := os.read(terminal, 65536):
            screen += data
    except OSError:
        return  # Linux's error for a terminal without another end


def test_workers_do_not_judge_a_frozen_supervisor_dead(world: World) -> None:
    """P8: only the end of the link counts; work goes on, and so does the supervisor afterwards."""
    host = world.start_host(processes=2, slots=4)
    workers = set(host.children().values())
    host.signal(signal.SIGSTOP)
    try:
        world.submit_work(30, (0.3, 0.6))
        world.until_done(30)
        assert world.ended() == 30
        assert all(Path(f"/proc/{pid}").exists() for pid in workers)
    finally:
        host.signal(signal.SIGCONT)
    assert set(host.children().values()) == workers
    assert not host.log("process_died")
    assert not host.log("keeper_died")
    host.signal(signal.SIGTERM)
    assert host.wait() == 0


def test_a_wall_clock_that_jumps_by_a_day_changes_nothing(world: World, tmp_path: Path) -> None:
    """P9: leases, limits, backoffs and restarts go by the monotonic clock."""
    jump = tmp_path / "jump"
    env = {
        "PYTHONPATH": os.pathsep.join([str(CHAOS_APPS / "clock"), *sys.path[1:]]),
        "CHAOS_CLOCK_FILE": str(jump),
    }
    host = world.start_host(processes=2, slots=8, env=env)
    world.submit_work(60, (0.2, 0.5))
    offsets = iter((86_400, -86_400, 0, -172_800, 0))
    last_s = -1.0

    def leap(passed_s: float) -> None:
        nonlocal last_s
        if passed_s - last_s > 0.5:
            last_s = passed_s
            jump.write_text(str(next(offsets, 0)))

    world.until_done(30, leap)
    assert any(abs(note.at_s - time.time()) > 80_000 for note in world.notes("start")), (
        "the clock has not jumped"
    )
    assert set(world.engine.claims_per_activity().values()) == {1}
    assert len(world.engine.completions_per_activity()) == 60
    assert not host.log("process_died")
    assert not host.log("keeper_late")


def test_a_supervisor_without_descriptors_says_so_and_recovers(world: World) -> None:
    """P13: one worker cannot be replaced for a while; the other works on."""
    host = world.start_host(processes=2, slots=4)
    used = len(os.listdir(f"/proc/{host.pid}/fd"))
    soft, hard = resource.prlimit(host.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(host.pid, resource.RLIMIT_NOFILE, (used - 2, hard))
    world.kill_a_worker()
    said = host.wait_for_log("process_not_started")
    assert "Too many open files" in str(said[0])
    world.submit_work(10, (0.01, 0.05))
    world.until_done(20)
    assert world.ended() == 10
    resource.prlimit(host.pid, resource.RLIMIT_NOFILE, (soft, hard))
    eventually(lambda: len(host.children()) == 2, "two workers")
    host.wait_for_log("process_ready", 4)


def test_simultaneous_exits_are_all_noticed(world: World) -> None:
    """P14: one SIGCHLD may stand for several exits."""
    host = world.start_host("--max-restarts", "0", processes=6, slots=12)
    for round_number in (1, 2, 3):
        for pid in host.children().values():
            world.kill(pid)
        host.wait_for_log("process_died", 6 * round_number)
        eventually(
            lambda: len(host.children()) == 6 and host.status()["processes"]["ready"] == 6, "six workers"
        )
    world.submit_work(12, (0.01, 0.05))
    world.until_done(20)
    assert world.ended() == 12
    host.signal(signal.SIGTERM)
    assert host.wait() == 0
    assert not host.tree()


@pytest.mark.timeout(120)
def test_five_hundred_harmless_signals_have_no_effect(world: World) -> None:
    """P15: at random moments, also of restarts; handlers only write to the wakeup descriptor.

    Leases of 60 s outlast the test, so that work a process has not released is missing at the end.
    """
    seed = random.SystemRandom().randrange(1 << 32)
    rng = random.Random(seed)
    host = world.start_host("--max-restarts", "0", processes=2, slots=8)
    world.submit_work(100, (0.05, 0.3))
    for number in range(500):
        weights = [4] * (len(HARMLESS) - 1) + [1]
        host.signal(rng.choices(HARMLESS, weights)[0])
        if number % 100 == 50:
            world.kill_a_worker_between_polls()
    host.signal(signal.SIGCONT)  # the last: the kernel drops a waiting CONT when TSTP, TTIN or TTOU comes
    world.until_done(45)
    assert _owed(world) == [], f"seed {seed}"
    assert set(world.engine.completions_per_activity().values()) == {1}, f"seed {seed}"
    host.signal(signal.SIGTERM)
    assert host.wait(40) == 0, f"seed {seed}"
    assert not [line for line in host.log() if line.get("event") == "internal_error"], f"seed {seed}"


def _owed(world: World) -> list[tuple[str, str, str]]:
    """Returns the activities that have not ended: id, status and last worker_id."""
    rows = world.engine.http.get("/__test__/activities").json()["activities"]
    owed = [row for row in rows if row["status"] != "completed"]
    return [(row["activity_id"], row["status"], row["claimed_by"]) for row in owed]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become somebody whom RLIMIT_NPROC binds")
def test_a_supervisor_that_may_not_fork_keeps_the_other_worker_and_recovers(world: World) -> None:
    """P12: RLIMIT_NPROC 0 after the boot, as an ordinary user."""
    host = _host_of_nobody(world)
    try:
        _limit_processes(world, "0")
        ready = _pids(world)
        os.kill(ready[0], signal.SIGKILL)
        eventually(lambda: "process_not_started" in _log(world), "the refused fork")
        assert "Resource temporarily unavailable" in _log(world)
        world.submit_work(6, (0.01, 0.05))
        world.until_done(20)
        assert world.ended() == 6
        _limit_processes(world, "1000")
        eventually(lambda: _log(world).count('"process_ready"') >= 4, "the replacement")
    finally:
        host.terminate()
        assert host.wait(20) == 0


NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")


def _limit_processes(world: World, soft: str) -> None:
    """Limits the process that forks workers, as its owner: root may lack the right to limit other users' processes."""
    [zygote] = [json.loads(line)["pid"] for line in _log(world).splitlines() if "preload_started" in line]
    subprocess.run([*NOBODY, "prlimit", f"--pid={zygote}", f"--nproc={soft}:"], check=True)


def _host_of_nobody(world: World) -> subprocess.Popen[bytes]:
    probe = [*NOBODY, sys.executable, "-c", "import flowherd"]
    try:
        if subprocess.run(probe, check=False, capture_output=True, cwd="/").returncode:
            pytest.skip("this interpreter is not readable by others")
    except FileNotFoundError:
        pytest.skip("setpriv is not installed")
    folder = world.folder
    for path in (folder, *folder.parents[:3]):
        if path.stat().st_uid == os.geteuid() and path != Path("/tmp"):
            path.chmod(0o755)
    for name in ("n", "r"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    words = [*NOBODY, sys.executable, "-m", "flowherd_supervisor", "run", "chaos_app:registry"]
    words += ["--app-dir", str(CHAOS_APPS), "-p", "2", "-c", "4", "--admin", "off", "--log-format", "json"]
    words += ["--api-url", world.proxy.url]
    env = clean_environment(
        CHAOS_NOTES=str(folder / "n" / "notes"), XDG_RUNTIME_DIR=str(folder / "r"), HOME=str(folder / "n")
    )
    (folder / "r").chmod(0o700)
    os.chown(folder / "r", 65534, 65534)
    with (folder / "log").open("wb") as log:
        host = subprocess.Popen(words, stdout=log, stderr=log, env=env, cwd=folder)
    eventually(lambda: _log(world).count('"process_ready"') >= 3, "two workers and a keeper")
    return host


def _log(world: World) -> str:
    return (world.folder / "log").read_text()


def _pids(world: World) -> list[int]:
    lines = [json.loads(line) for line in _log(world).splitlines() if "process_started" in line]
    return [line["pid"] for line in lines if line["process"] != "keeper"]
