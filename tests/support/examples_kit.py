"""Runs an example of `worker/examples` as its page says, in a copy of its folder; it asserts no outcome."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flowherd_supervisor.testkit import SupervisorProgram
from flowherd_supervisor.testkit.programs import CEILING_S, clean_environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness import Engine

EXAMPLES = Path(__file__).parents[2] / "worker" / "examples"


def commands(folder: Path) -> list[str]:
    """The lines of the `sh` blocks of its page."""
    page = (folder / "README.md").read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"^```sh\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    return "".join(blocks).splitlines()


class Example:
    """An example at work: the host that its page starts, until the `with` block ends.

    Args:
        name: of its folder.
        folder: an empty one, where it is copied to.
        engine: where it polls.
        env: the variables that the page exports, with the values of the test.

    Attributes:
        folder: the copy.
        host: the `flowherd run` of the page.

    """

    def __init__(self, name: str, folder: Path, engine: Engine, env: Mapping[str, str] | None = None) -> None:
        self.folder = Path(shutil.copytree(EXAMPLES / name, folder / name))
        self.engine = engine
        exported = {line.split()[1].partition("=")[0] for line in self._lines("export ")}
        assert exported <= {*(env or {})}, f"the page exports {exported}"
        self._env = dict(env or {})
        [run] = self._lines("flowherd run ")
        for line in self._lines("python "):
            self._program(*shlex.split(line)[1:])
        app, *flags = shlex.split(run.partition(" >")[0])[2:]
        self.host = SupervisorProgram(
            self.folder, app, *flags, engine=engine, app_dir=self.folder, env=self._env
        )

    def __enter__(self) -> Self:
        self.host.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.host.stop()

    def _lines(self, begins: str) -> list[str]:
        return [line for line in commands(self.folder) if line.startswith(begins)]

    def _program(self, *words: str) -> str:
        """The output of a program that is started in the copy."""
        environment = clean_environment(
            KRUXIAFLOW_API_URL=self.engine.url, XDG_RUNTIME_DIR=str(self.folder), **self._env
        )
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.folder, env=environment, capture_output=True, text=True, timeout=CEILING_S, check=False,
        )  # fmt: skip
        assert done.stdout or done.returncode == 0, (
            done.stderr
        )  # on a busy machine submit tells there that it waits
        return done.stdout

    def submit(self, **inputs: object) -> dict[str, Any]:
        """Runs the `flowherd submit` of the page, with these values in place of its own; returns its line of JSON."""
        [line] = self._lines("flowherd submit ")
        words = shlex.split(line)[1:]
        for name, value in inputs.items():
            [at] = [at for at, word in enumerate(words) if word.startswith(f"{name}=")]
            words[at] = f"{name}={value}"
        answer: dict[str, Any] = json.loads(self._program("-m", "flowherd_supervisor", *words, "--json"))
        return answer

    def start(self, **inputs: object) -> str:
        """Deploys its definition and starts a workflow, without waiting for its end; returns its id."""
        [definition] = self.folder.glob("*.yaml")
        client = self.engine.client
        return client.submit(client.deploy(definition.read_bytes()), inputs).id

    def file(self, reference: str) -> bytes:
        """The contents of a file that an output refers to."""
        workflow, key, name = reference.removeprefix("postgres://").split("/", 2)
        reply = self.engine.http.get(f"/api/v1/workflows/{workflow}/activities/{key}/files/{name}")
        assert reply.is_success, reply.text
        return reply.content
