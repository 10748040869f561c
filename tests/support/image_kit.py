"""Executes a Dockerfile's steps in folders, as `docker build` does, for the instructions that ours uses."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deploy_kit import find_tool

STEP_CEILING_S = 500  # installing from a registry
SAID_BY_DOCKER = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
LENT = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs")  # mounted only during a RUN
# $1 is the root, $2 the folder in it, $3 the files mounted for it, then the command.
RUN = """
root=$1 folder=$2 lent=$3; shift 3
for path in $lent; do mount --bind "$path" "$root$path"; done
exec unshare --pid --fork --mount-proc --kill-child --root="$root" --wd="$folder" -- "$@"
"""


@dataclass(frozen=True)
class Image:
    """A root with its image configuration."""

    root: Path
    environment: dict[str, str] = field(default_factory=lambda: dict(SAID_BY_DOCKER))
    folder: str = "/"
    user: str = "0:0"
    stopsignal: str = "SIGTERM"
    healthcheck: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()


def instructions(text: str) -> list[tuple[str, str]]:
    """Yields a Dockerfile's instructions with their arguments; joins continued lines, omits comments."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in joined.splitlines()]


class Build:
    """One build with the stages so far.

    Args:
        context: the folder that COPY copies from.
        bases: the root to use for each image that FROM names.
        folder: the folder for the stages' roots.
        arguments: values as of `--build-arg`.

    Raises:
        KeyError: FROM names an image that is not in `bases`.
        ValueError: an instruction is not supported here.
        CalledProcessError: a step failed; its output went to standard output.

    """

    def __init__(
        self, context: Path, bases: dict[str, Image], folder: Path, arguments: dict[str, str]
    ) -> None:
        self.context, self.bases, self.folder, self.arguments = context, bases, folder, arguments
        self.stages: dict[str, Image] = {}
        self.for_from: dict[str, str] = {}  # declared before the first stage
        self.declared: dict[str, str] = {}  # of this stage

    def carry_out(self, text: str) -> Image:
        """Executes all steps in order and returns the last stage."""
        image: Image | None = None
        for name, rest in instructions(text):
            if name == "ARG":
                key, _, default = rest.partition("=")
                where = self.for_from if image is None else self.declared
                where[key] = self.arguments.get(key, default.strip('"'))
            elif name == "FROM":
                image = self._begin(expand(rest, self.for_from))
                self.declared = {}
            elif image is None:
                raise ValueError(f"{name} before FROM")
            else:
                image = self._step(image, name, rest)
        if image is None:
            raise ValueError("no FROM")
        return image

    def _begin(self, rest: str) -> Image:
        base, *as_name = rest.split()
        name = as_name[1] if as_name else str(len(self.stages))
        root = self.folder / name
        subprocess.run(["cp", "-a", "--reflink=auto", self.bases[base].root, root], check=True)
        self.stages[name] = replace(self.bases[base], root=root)
        return self.stages[name]

    def _step(self, image: Image, name: str, rest: str) -> Image:
        noted: dict[str, Any] = {}
        match name:
            case "COPY":
                self._copy(image, rest)
            case "RUN":
                run_step(image, ["/bin/sh", "-c", rest], self.declared)
            case "ENV":
                pairs = (word.partition("=") for word in shlex.split(expand(rest, image.environment)))
                noted["environment"] = image.environment | {key: value for key, _, value in pairs}
            case "WORKDIR":
                _inside(image, rest).mkdir(parents=True, exist_ok=True)
                noted["folder"] = rest
            case "USER" | "STOPSIGNAL":
                noted[name.lower()] = rest
            case "HEALTHCHECK":
                noted[name.lower()] = tuple(json.loads(rest.partition("CMD ")[2]))
            case "ENTRYPOINT" | "CMD":
                noted[name.lower()] = tuple(json.loads(rest))
            case "EXPOSE":
                pass  # documentation only
            case _:
                raise ValueError(f"{name} is not known here")
        return replace(image, **noted)

    def _copy(self, image: Image, rest: str) -> None:
        """Copies the contents of folders; copies files into a folder if the target is one or ends in a slash."""
        *sources, to = rest.split()
        source_root, ignored = (
            self.context,
            shutil.ignore_patterns("__pycache__"),
        )  # excluded by the ignore file
        if sources[0].startswith("--from="):
            source_root, ignored = self.stages[sources.pop(0).partition("=")[2]].root, None
        target = _inside(image, to)
        for source in sources:
            path = source_root / source.lstrip("/")
            if path.is_dir():
                shutil.copytree(path, target, symlinks=True, dirs_exist_ok=True, ignore=ignored)
            else:
                if to.endswith("/"):
                    target.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)


def run_step(image: Image, words: list[str], extra: dict[str, str]) -> None:
    """Runs a command in the image's root with the network and the package settings of this machine."""
    lent = " ".join(path for path in LENT if Path(path).exists() and (image.root / path[1:]).exists())
    environment = _package_settings() | image.environment | extra | {"HOME": "/root"}
    command = [find_tool("unshare"), "--mount", "sh", "-ec", RUN, "sh", image.root, image.folder, lent]
    subprocess.run([*command, *words], check=True, timeout=STEP_CEILING_S, env=environment)


def debian_with_python(folder: Path) -> Image:
    """Builds a root with Debian's Python from the packages of this machine's apt sources."""
    maker = find_tool("mmdebstrap")
    line = f"$(ORIGIN) deb [signed-by={KEYS}] $(REPO_URI) $(RELEASE) $(COMPONENT)"
    said = _output(find_tool("apt-get"), "indextargets", "--format", line, "Created-By: Packages")
    sources = [line.partition(" ")[2] for line in said.splitlines() if line.startswith("Debian ")]
    proxies = _output("apt-config", "dump", "Acquire::http::Proxy", "Acquire::https::Proxy").splitlines()
    flags = ["--quiet", "--variant=minbase", "--include=python3-venv,python-is-python3,ca-certificates"]
    flags += ["--dpkgopt=force-unsafe-io"]  # lives for minutes, so it need not survive a power cut
    flags += [f"--aptopt={line.rstrip(';')}" for line in proxies]
    command = [find_tool("unshare"), "--mount", maker, *flags, "", str(folder), "-"]
    subprocess.run(command, input="\n".join(sources), text=True, check=True, timeout=STEP_CEILING_S)
    return Image(folder)


def expand(text: str, values: dict[str, str]) -> str:
    """Expands `$NAME` and `${NAME}`; unset names become ""."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda found: values.get(found[1] or found[2], ""), text)


def _inside(image: Image, path: str) -> Path:
    return image.root / str(Path(image.folder) / path).lstrip("/")


def _package_settings() -> dict[str, str]:
    """Returns this machine's pip settings, from file or variables, and its proxies as variables."""
    found: dict[str, str] = {}
    for line in _output(sys.executable, "-m", "pip", "config", "list").splitlines():
        key, _, value = line.partition("=")
        if key.startswith((":env:", "global.")):
            name = "PIP_" + key.rpartition(".")[2].upper().replace("-", "_")
            found.setdefault(name, " ".join(shlex.split(value)))
    return found


def _output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
