"""The README's commands and snippets work as written."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

from harness import Engine, clean_environment, running_host

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def flowherd(*words: str, env: dict[str, str]) -> str:
    """Runs a command of the README and returns its output."""
    command = [sys.executable, "-m", "flowherd_supervisor", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_activity_is_run_and_answers(engine: Engine, tmp_path: Path) -> None:
    """Both activities of the snippet, submitted as the README submits them."""
    [module] = [block for block in blocks("python") if block.startswith("# my_app.py")]
    (tmp_path / "my_app.py").write_text(module, encoding="utf-8")
    shell = "".join(blocks("sh"))
    assert "flowherd run my_app:registry -p 2 &" in shell
    with running_host(tmp_path, "my_app:registry", "-p", "2", url=engine.url, app_dir=tmp_path) as host:
        host.ready(2)
        env = clean_environment(KRUXIAFLOW_API_URL=engine.url, XDG_RUNTIME_DIR=str(tmp_path / "r"))
        [submit] = re.findall(r"flowherd (submit .*)", shell)
        assert '"hello Ada"' in flowherd(*submit.split(), env=env)
        assert "result: 3" in flowherd("submit", "count_words", "-P", "text=one two three", env=env)
        assert "2 of 2 processes ready" in flowherd("status", env=env)
        assert '"ready":2' in flowherd("status", "--json", env=env)


def test_every_command_and_flag_it_names_exists() -> None:
    """A renamed flag must not live on in prose."""
    env = clean_environment()

    @functools.cache
    def help_of(command: str) -> str:
        return flowherd(command, "--help", env=env)

    commands = set(re.findall(r"flowherd ([a-z]+)", README)) - {"hosts", "engine", "has", "is"}
    for command in commands & {"run", "demo", "submit", "status", "check", "config", "engine", "bench"}:
        assert "Usage" in help_of(command)
    known = "".join(map(help_of, ("run", "demo", "submit", "status", "engine")))
    for flag in set(re.findall(r"`(--[a-z-]+)", README)):
        assert flag in known, f"{flag} is in the README, but no command knows it"


def test_both_commands_for_newcomers_are_the_ones_that_ci_runs() -> None:
    """.ci/run ends with the very test command of the README."""
    ci = (Path(__file__).parents[2] / ".ci" / "run").read_text(encoding="utf-8")
    test_command = next(block for block in blocks("sh") if "pytest" in block).strip().split("&& ")[-1]
    assert ci.rstrip().endswith(test_command)
    assert any(block.strip().endswith("flowherd demo") for block in blocks("sh"))
