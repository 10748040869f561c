"""The Dockerfile's steps, executed in a Debian root built from packages, and its CMD as process 1."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from container_kit import Container, Network, pid_in_its_namespace, see_an_orphan_reaped
from deploy_kit import DEPLOY
from harness import eventually
from image_kit import Build, Image, debian_with_python

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.soak, pytest.mark.fork, pytest.mark.timeout(1200)]
APP = Path(__file__).parent / "apps" / "orphan_app.py"
OF_A_USER = 'FROM flowherd\nCOPY orphan_app.py /app/my_app.py\nCMD ["run", "my_app:registry"]\n'


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image of a user, on top of ours, as the Dockerfile's first lines say; with the engine in it."""
    if os.geteuid() != 0:
        pytest.skip("only root may make a Debian root")
    folder = tmp_path_factory.mktemp("image")
    try:
        bases = {"python:3.11-slim": debian_with_python(folder / "debian")}
        arguments = {"PYTHON": "3.11", "EXTRAS": "[engine]"}
        ours = Build(DEPLOY.parent, bases, folder, arguments).carry_out((DEPLOY / "Dockerfile").read_text())
        (folder / "user").mkdir()
        yield Build(APP.parent, {"flowherd": ours}, folder / "user", {}).carry_out(OF_A_USER)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def network() -> Iterator[Network]:
    """A network of its own: the image's port is taken nowhere else."""
    with Network() as network:
        yield network


def test_the_image_holds_what_it_needs_and_nothing_of_what_it_was_built_from(image: Image) -> None:
    """Sources and pip's leftovers stay in the first stage."""
    assert (image.root / "venv/bin/flowherd").exists()
    assert not (image.root / "src").exists()
    assert not list((image.root / "root").glob(".cache/pip"))
    assert image.entrypoint + image.cmd == ("flowherd", "run", "my_app:registry")


@pytest.mark.parametrize("strict", [False, True], ids=["as Docker runs it", "as the manifest demands"])
def test_its_process_1_becomes_healthy_works_reaps_orphans_and_drains(
    image: Image, network: Network, tmp_path: Path, *, strict: bool
) -> None:
    """From start to stop as a container lives; the engine is another one of the same image, and comes later."""
    log = tmp_path / "log"
    with Container(image, network, log, strict=strict) as host:
        assert pid_in_its_namespace(host.process_1.pid) == 1
        assert set(host.process_1.uids()) | set(host.process_1.gids()) == {10001}
        eventually(lambda: _events(log, "process_ready"), "processes")
        assert not host.healthy(), "without an engine there is no work to be had"
        with Container(image, network, tmp_path / "engine", "engine", strict=strict):
            eventually(host.healthy, f"good health; see {log.read_text()}")
            assert not _completed(host.execute(*_submit("leave_an_orphan")).stdout)
            see_an_orphan_reaped(host.process_1)
            pipe = host.path("/tmp/pipe")
            os.mkfifo(pipe)
            pipe.chmod(0o644)
            submitted = host.begin(*_submit("hear", 'pipe="/tmp/pipe"'))
            with pipe.open("w") as speech:  # opens once the activity listens
                host.process_1.send_signal(signal.Signals[image.stopsignal])
                eventually(lambda: _events(log, "draining"), "a drain")
                speech.write("heard in the end")
            assert host.wait() == 0, log.read_text()
            assert _completed(submitted.communicate(timeout=60)[0]) == {"result": "heard in the end"}


def _submit(name: str, *parameters: str) -> list[str]:
    given = [word for parameter in parameters for word in ("-P", parameter)]
    return ["flowherd", "submit", name, *given, "--json"]


def _completed(said: str) -> Any:
    """The output of what was submitted."""
    answer = json.loads(said)
    assert answer["status"] == "completed", said
    return answer["output"]


def _events(log: Path, name: str) -> list[dict[str, Any]]:
    """What it logged under that name: every line of a container is JSON."""
    lines = log.read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]
