"""Runs an image's programs as a container engine does: process 1, a numeric user, namespaces."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil
from deploy_kit import find_tool
from harness import CEILING_S, eventually

if TYPE_CHECKING:
    from image_kit import Image

# A network with nothing in it but loopback: 0x8914 sets the flags of an interface, 1 is "up".
NETWORK = """
import fcntl, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", b"lo", 1))
print("up", flush=True)
sys.stdin.read()
"""
# $1 is the root, $2 the folder in it, $3 is set for a read-only root, then the command.
RUN = """
root=$1 folder=$2 strict=$3; shift 3
if [ "$strict" = yes ]; then
  mount --bind "$root" "$root" && mount -o remount,bind,ro "$root" && mount -t tmpfs tmpfs "$root/tmp"
fi
mount -t tmpfs tmpfs "$root/dev/shm"
exec unshare -pf --mount-proc --kill-child --root="$root" --wd="$folder" -- "$@"
"""
STRICT = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]


class Network:
    """A network namespace that several containers share, as those of one pod do; `with` ends it."""

    def __init__(self) -> None:
        command = [find_tool("unshare"), "--net", sys.executable, "-c", NETWORK]
        self._keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._keeper.stdout
        assert self._keeper.stdout.readline() == "up\n"

    @property
    def words(self) -> list[str]:
        """Returns the words that start a command in it."""
        return [find_tool("nsenter"), f"--net=/proc/{self._keeper.pid}/ns/net"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._keeper.communicate(timeout=CEILING_S)


class Container:
    """A running program of an image; `with` kills it at the end.

    Args:
        image: the image to run.
        network: the network to join.
        log: file for standard output and standard error.
        words: command in place of the image's CMD.
        strict: as in the Kubernetes manifest: read-only root, no capabilities, no new privileges.

    """

    def __init__(self, image: Image, network: Network, log: Path, *words: str, strict: bool = False) -> None:
        self.image = image
        user, group = image.user.split(":")
        drop = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        settings = {"HOME": "/"} | image.environment
        self._as_user = [*drop, *(STRICT if strict else [])]
        self._as_user += ["env", "-i", *(f"{name}={value}" for name, value in settings.items())]
        place = [str(image.root), image.folder, "yes" if strict else "no"]
        command = [*network.words, find_tool("unshare"), "--mount", "sh", "-ec", RUN, "sh", *place]
        command += [*self._as_user, *image.entrypoint, *(words or image.cmd)]
        with log.open("wb") as file:
            self._program = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            self.process_1 = eventually(self._find_process_1, "process 1")
        except BaseException:
            self._end()
            raise

    def _find_process_1(self) -> psutil.Process | None:
        """Waits until the last program of the start has become the image's own."""
        found = [one for one in psutil.Process(self._program.pid).children() if one.uids().real]
        return found[0] if found else None

    def execute(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the container to its end, as `docker exec` and a health check do."""
        return subprocess.run(self._inside(words), capture_output=True, text=True, timeout=60, check=False)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Starts a command in the container."""
        return subprocess.Popen(
            self._inside(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def healthy(self) -> bool:
        """Runs the image's HEALTHCHECK; True if it succeeds."""
        return self.execute(*self.image.healthcheck).returncode == 0

    def path(self, path: str) -> Path:
        """Returns the path on this host of a file in the container."""
        return Path(f"/proc/{self.process_1.pid}/root{path}")

    def wait(self) -> int:
        """Waits until it has ended and returns the exit code."""
        return self._program.wait(CEILING_S)

    def _inside(self, words: tuple[str, ...]) -> list[str]:
        target = f"--target={self.process_1.pid}"
        enter = [find_tool("nsenter"), target, "--net", "--mount", "--pid", "--root", "--wd"]
        return [*enter, "--", *self._as_user, *words]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        """Kills process 1, and with it all others; `--kill-child` is lost when a process changes its user."""
        if self._program.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in psutil.Process(self._program.pid).children():
                    process.kill()
            self._program.kill()
            self._program.wait(CEILING_S)


def see_an_orphan_reaped(process_1: psutil.Process) -> None:
    """Kills a `sleep` that process 1 inherited from an activity and asserts that no zombie is left."""

    def inherited() -> list[psutil.Process]:
        return [child for child in process_1.children() if name_of(child) == "sleep"]

    def name_of(child: psutil.Process) -> str:
        with contextlib.suppress(psutil.NoSuchProcess):  # reaped since it was listed
            return child.name()
        return ""

    [orphan] = eventually(inherited, "an orphan")
    orphan.kill()
    eventually(lambda: not inherited(), "the end of the orphan, reaped")


def pid_in_its_namespace(pid: int) -> int:
    """Returns its pid in its own namespace."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("NSpid:")]
    return int(line.split()[-1])
