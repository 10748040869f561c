"""The program's name in hints, and completion scripts, tried in the installed shells."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deploy_kit import find_tool

from flowherd_supervisor.cli.program_name import called_from


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files with the completion script of each shell."""
    folder = tmp_path_factory.mktemp("scripts")
    made = {shell: folder / shell for shell in ("bash", "zsh", "fish")}
    for shell, path in made.items():
        command = [sys.executable, "-m", "flowherd_supervisor", "completion", shell]
        path.write_bytes(subprocess.run(command, capture_output=True, timeout=30, check=True).stdout)
    return made


def said(*words: str) -> str:
    """Runs a shell and returns stdout and stderr."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


def test_bash_completes_a_command_with_what_it_is_given(scripts: dict[str, Path]) -> None:
    """A script that does not parse would print errors in every new shell."""
    ask = "COMP_WORDS=(flowherd ctl re); COMP_CWORD=2; _flowherd; printf '%s\\n' \"${COMPREPLY[@]}\""
    assert {"reload", "resume"} <= set(
        said("bash", "--norc", "-c", f"source {scripts['bash']}; {ask}").split()
    )


def test_zsh_takes_it_by_source_and_by_fpath(scripts: dict[str, Path], tmp_path: Path) -> None:
    """Sourcing a `#compdef` file alone has no effect in zsh."""
    zsh, start = find_tool("zsh"), "autoload -Uz compinit; compinit -u -D"
    shutil.copy(scripts["zsh"], tmp_path / "_flowherd")
    assert (
        said(zsh, "-f", "-c", f"{start}; source {scripts['zsh']}; print $+functions[$_comps[flowherd]]")
        == "1\n"
    )
    assert (
        said(zsh, "-f", "-c", f"fpath=({tmp_path} $fpath); {start}; print $_comps[flowherd]") == "_flowherd\n"
    )
    assert "first start completion" in said(zsh, "-f", "-c", f"source {scripts['zsh']}")


def test_fish_completes_a_command_with_what_it_is_given(scripts: dict[str, Path]) -> None:
    """As the help says: through `source`."""
    answer = said(
        find_tool("fish"), "--no-config", "-c", f"source {scripts['fish']}; complete -C 'flowherd ctl re'"
    )
    assert {"reload", "resume"} <= set(answer.split())


def test_what_is_printed_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who calls it by its path in an environment has no `flowherd` on the shell's path."""
    own = Path(sys.executable).with_name("flowherd")
    monkeypatch.setenv("PATH", str(own.parent))
    assert called_from(tmp_path) == "flowherd"
    monkeypatch.setenv("PATH", os.defpath)
    nearby = own.parent.parent / "a folder"
    for folder in (tmp_path, nearby):
        [word] = shlex.split(called_from(folder))
        assert (folder.resolve() / word).resolve() == own.resolve()
    assert called_from(nearby) == "../bin/flowherd"
