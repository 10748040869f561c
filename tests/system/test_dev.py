"""`flowherd dev` and `--reload`: from nothing to the user's own activity, and to its next version by a save."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from harness import clean_environment, eventually, running_host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness import Engine

pytestmark = pytest.mark.timeout(200)
BIN = Path(sys.executable).parent
CEILING_S = 60.0  # for four Python programs that start one after the other
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
HOSTILE = {
    "KRUXIAFLOW_API_URL": "http://127.0.0.1:9",
    "KRUXIAFLOW_CLIENT_ID": "nobody",
    "KRUXIAFLOW_WORKER_PROCESSES": "0",
    "WORKER_TYPE": "java",
}
APP = "from flowherd import activity\n\n\n@activity\nasync def version() -> int:\n    return {}\n"


class Dev:
    """A running `flowherd dev` and its output."""

    def __init__(self, process: subprocess.Popen[bytes], said: Path) -> None:
        self.process = process
        self._said = said

    def text(self) -> str:
        return self._said.read_text()

    def wait_for(self, pattern: str, count: int = 1) -> str:
        def look() -> list[str]:
            found = re.findall(pattern, self.text())
            assert len(found) >= count or self.process.poll() is None, self.text()
            return found if len(found) >= count else []

        return eventually(look, f"{count} x {pattern} in {self._said}", CEILING_S)[-1]

    @property
    def url(self) -> str:
        return self.wait_for(r"--api-url (http://\S+)")

    def submit(self, name: str, *words: str) -> str:
        command = [str(BIN / "flowherd"), "submit", name, *words, "--api-url", self.url]
        done = subprocess.run(
            command, env=clean_environment(), capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr + self.text()
        return done.stdout

    def engine_answers(self, url: str) -> bool:
        try:
            return httpx.get(f"{url}/health", timeout=5, trust_env=False).is_success
        except httpx.TransportError:
            return False


@contextmanager
def running(folder: Path, command: str) -> Iterator[Dev]:
    """Runs a shell line with its own folder for sockets; ends the rest afterwards."""
    said = folder / "said.txt"
    (folder / "r").mkdir()
    env = clean_environment(XDG_RUNTIME_DIR=str(folder / "r"), **HOSTILE)
    with said.open("wb") as sink:
        process = subprocess.Popen(["bash", "-c", command], cwd=folder, env=env, stdout=sink, stderr=sink)
    try:
        yield Dev(process, said)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(20)


def test_three_commands_lead_from_a_clone_to_ones_own_activity(tmp_path: Path) -> None:
    """As in the README; settings of a real engine are ignored; Ctrl-C ends everything in order."""
    [block] = [
        text for text in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL) if "flowherd init" in text
    ]
    install, *rest = block.strip().splitlines()
    assert len(rest) == 2
    assert install == "pip install -q -e '.[engine,reload]'"
    line = re.sub("^flowherd ", f"{BIN}/flowherd ", " && ".join(rest))
    ours = f"exec {BIN}/flowherd dev --port 0 --admin off --log-format json"
    with running(tmp_path, line.replace("flowherd dev", ours)) as dev:
        dev.wait_for('"event": "process_ready"', 3)
        assert '"hello Ada"' in dev.submit("greet", "-P", "name=Ada")
        url = dev.url
        dev.process.send_signal(signal.SIGINT)
        assert dev.process.wait(20) == 0
        assert "draining" in dev.text()
        assert not dev.engine_answers(url)


def test_saving_a_file_brings_the_next_version_and_a_broken_one_leaves_the_old(tmp_path: Path) -> None:
    """As a reload in production: the old version runs until the new one is ready."""
    app = tmp_path / "my_app.py"
    app.write_text(APP.format(1))
    command = f"exec {BIN}/flowherd dev my_app --port 0 -p 1 --admin off --log-format json"
    with running(tmp_path, command) as dev:
        dev.wait_for('"event": "app_loaded"')
        assert "result: 1" in dev.submit("version")
        dev.wait_for('"level": "info", "event": "activity_completed"')  # shows that it has run
        app.write_text(APP.format("2 +"))
        dev.wait_for('"event": "(?:reload_failed|preload_failed|boot_failed)"')
        assert "result: 1" in dev.submit("version")
        app.write_text(APP.format(3))
        dev.wait_for('"event": "reloaded"')
        assert "result: 3" in dev.submit("version")


def test_a_first_import_that_fails_is_logged_once_and_tried_again_at_the_next_save(tmp_path: Path) -> None:
    """An unfinished app must not end the engine or require the command again."""
    app = tmp_path / "my_app.py"
    app.write_text("1 / 0\n")
    command = f"exec {BIN}/flowherd dev my_app --port 0 -p 1 --admin off --log-format json"
    with running(tmp_path, command) as dev:
        dev.wait_for("the next change of a file in . is tried")
        assert dev.text().count("Traceback (most recent call last)") == 1
        url = dev.url
        app.write_text("from flowherd import activity\n")  # imports, but has no activities: exit code 2
        dev.wait_for("the next change of a file in . is tried", 2)
        assert "my_app holds no activities" in dev.text()
        app.write_text(APP.format(1))
        dev.wait_for('"event": "app_loaded"')
        assert "result: 1" in dev.submit("version")
        assert dev.url == url
        dev.process.send_signal(signal.SIGINT)
        assert dev.process.wait(20) == 0


def test_ctrl_c_ends_the_wait_for_a_save(tmp_path: Path) -> None:
    """With the exit code of the failed host."""
    (tmp_path / "my_app.py").write_text("1 / 0\n")
    with running(tmp_path, f"exec {BIN}/flowherd dev my_app --port 0 --admin off") as dev:
        dev.wait_for("the next change of a file in . is tried")
        url = dev.url
        dev.process.send_signal(signal.SIGINT)
        assert dev.process.wait(20) == 3
        assert not dev.engine_answers(url)


@pytest.mark.parametrize(("words", "code"), [("my_app --no-reload", 3), ("not_there", 2)])
def test_what_no_save_can_mend_ends_dev(tmp_path: Path, words: str, code: int) -> None:
    """A name without a file is a usage error; without reloading, files are not watched."""
    (tmp_path / "my_app.py").write_text("1 / 0\n")
    with running(tmp_path, f"exec {BIN}/flowherd dev {words} --port 0 --admin off") as dev:
        assert dev.process.wait(40) == code


def test_a_dev_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    """A leftover engine would block the port for the next one."""
    (tmp_path / "my_app.py").write_text(APP.format(1))
    command = f"exec {BIN}/flowherd dev my_app --port 0 -p 1 --admin off --log-format json"
    with running(tmp_path, command) as dev:
        dev.wait_for('"event": "app_loaded"')
        url = dev.url
        host = int(dev.wait_for(r'"starting".*"pid": (\d+)'))
        dev.process.kill()
        eventually(lambda: not dev.engine_answers(url), "the engine's end")
        eventually(lambda: not Path(f"/proc/{host}").exists(), "the host's end")


def test_a_port_that_is_taken_is_said_by_the_engine(engine: Engine, tmp_path: Path) -> None:
    """Exit 2, and nothing else is started."""
    command = f"exec {BIN}/flowherd dev my_app --port {engine.url.rpartition(':')[2]}"
    with running(tmp_path, command) as dev:
        assert dev.process.wait(20) == 2
        assert "choose another port" in dev.text()


def test_run_reloads_too_and_its_watcher_ends_with_it(engine: Engine, tmp_path: Path) -> None:
    """`--reload` starts a separate process."""
    app = tmp_path / "my_app.py"
    app.write_text(APP.format(1))
    with running_host(tmp_path, "my_app", "-p", "1", "--reload", url=engine.url, app_dir=tmp_path) as host:
        host.ready(1)
        [watcher] = eventually(lambda: watchers_of(host.pid), "a watcher that has become its program")

        def saved_and_heard() -> bool:
            app.write_text(APP.format(2))  # again, until the watcher has begun to watch
            return bool(host.log("reloading"))

        eventually(saved_and_heard, "a reload", CEILING_S)
        eventually(lambda: host.log("reloaded"), "its end, now that nothing is saved any more", CEILING_S)
        host.signal(signal.SIGTERM)
        assert host.wait() == 0
        eventually(lambda: not Path(f"/proc/{watcher}").exists(), "the watcher's end")


def watchers_of(pid: int) -> list[int]:
    return [child for child in children_of(pid) if "flowherd_supervisor.cli.watch_files" in command_of(child)]


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


@pytest.mark.parametrize("listens", [True, False])
def test_a_change_before_the_supervisor_listens_is_no_end_of_it(tmp_path: Path, *, listens: bool) -> None:
    """HUP kills a process without a handler, which a starting supervisor does not have yet."""
    ready, told = os.pipe()
    handler = "signal.signal(signal.SIGHUP, lambda *_: print('reloads', flush=True)); " if listens else ""
    code = f"import os, signal, sys; {handler}os.write({told}, b'x'); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[told],
        text=True,
    ) as process:
        os.read(ready, 1)
        words = [sys.executable, "-m", "flowherd_supervisor.cli.watch_files", str(tmp_path), str(process.pid)]
        with subprocess.Popen(words) as watcher:
            assert process.stdin is not None
            assert process.stdout is not None
            if listens:
                for number in range(200):  # until the watcher has begun to watch
                    (tmp_path / "app.py").write_text(f"x = {number}")
                    if heard_within(process.stdout, 0.1):
                        break
                assert process.stdout.readline() == "reloads\n"
            else:
                for number in range(20):
                    (tmp_path / "app.py").write_text(f"x = {number}")
                    assert not heard_within(process.stdout, 0.1)
                assert process.poll() is None
            process.stdin.close()
            assert process.wait(10) == 0
            assert watcher.wait(10) == 0, "it ends with the supervisor"
    os.close(ready)
    os.close(told)


def heard_within(stream: object, seconds: float) -> bool:
    import select

    return bool(select.select([stream], [], [], seconds)[0])
