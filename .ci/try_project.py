"""Tries a project that `flowherd init` has made: `try_project.py BIN FOLDER`, with the programs of one environment.

The engine is that of the environment which runs this: the tried one has no extras.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from flowherd_supervisor.testkit import EngineProgram
from flowherd_supervisor.testkit.programs import clean_environment

RUN = ("flowherd", "run", "my_app:registry", "-p", "2", "--burst", "--burst-idle", "1", "--admin", "off")
TEST = "import test_my_app as tests; [test() for name, test in vars(tests).items() if name[:5] == 'test_']"
PLACE = "import sys, flowherd; print(flowherd.__file__, sys.version.split()[0])"


def run(command: tuple[str, ...], programs: Path, project: Path, **variables: str) -> str:
    """The output of a program that must succeed within its time."""
    words, environment = [str(programs / command[0]), *command[1:]], clean_environment(**variables)
    done = subprocess.run(
        words, cwd=project, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{words} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def main(programs: Path, project: Path) -> None:
    """Runs an activity of the project on two processes, and then its tests."""
    place, python = run(("python", "-c", PLACE), programs, project).split()
    if not Path(place).is_relative_to(programs.parent):
        sys.exit(f"{place} is not of the environment that is tried, {programs.parent}")
    with EngineProgram(hooked=False) as engine:
        [workflow] = engine.submit("greet", name="Ada")
        run(RUN, programs, project, KRUXIAFLOW_API_URL=engine.url)
        if engine.output(workflow) != {"greeting": "hello Ada"}:
            sys.exit(f"the activity came to {engine.output(workflow)}")
    run(("python", "-c", TEST), programs, project)
    sys.stdout.write(f"the wheel works without extras on Python {python}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())
