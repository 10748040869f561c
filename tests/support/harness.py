"""Real programs for system tests: an engine and a supervisor."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowherd_supervisor.testkit import EngineProgram, SupervisorProgram, eventually
from flowherd_supervisor.testkit.programs import CEILING_S, clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

__all__ = [
    "APPS",
    "CEILING_S",
    "Engine",
    "Host",
    "clean_environment",
    "eventually",
    "running_engine",
    "running_host",
]


class Engine(EngineProgram):
    """The engine of the public testkit, with access to its journal."""

    def __init__(self, *flags: str, **options: Any) -> None:
        super().__init__(*flags, **options)
        self._seen = 0
        self._journal: list[dict[str, Any]] = []

    def journal(self, wait_s: float = 0.0) -> list[dict[str, Any]]:
        """Returns every claim and verdict so far; with `wait_s` waits for at least one more."""
        reply = self.http.get("/__test__/ledger", params={"after": self._seen, "wait_s": wait_s})
        fresh = reply.json()["entries"]
        self._journal += fresh
        self._seen = self._journal[-1]["seq"] if self._journal else 0
        return self._journal

    def wait_for(self, event: str, count: int, within_s: float = CEILING_S) -> list[dict[str, Any]]:
        """Waits until the journal holds `count` accepted entries of a kind, and returns them."""
        give_up_at = time.monotonic() + within_s
        while True:
            found = self.entries(event)
            if len(found) >= count:
                return found
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                tail = "\n".join(map(str, self._journal[-50:]))
                raise AssertionError(
                    f"{len(found)} of {count} {event} within {within_s} s; the journal ends:\n{tail}"
                )
            self.journal(wait_s=min(left_s, 5.0))

    def entries(self, event: str) -> list[dict[str, Any]]:
        """Returns the accepted entries of a kind so far."""
        return [
            entry for entry in self.journal() if entry["event"] == event and entry["verdict"] not in REFUSED
        ]

    def claims_per_activity(self) -> Counter[str]:
        """Returns the number of claims of each activity."""
        return Counter(entry["activity_id"] for entry in self.entries("claim"))

    def completions_per_activity(self) -> Counter[str]:
        """Returns the number of accepted completions of each activity, without repeats of the same."""
        return Counter(
            entry["activity_id"] for entry in self.entries("complete") if entry["attempt"] is not None
        )


REFUSED = frozenset({"gone", "conflict", "refused", "unknown", "not_found", "409", "404"})


class Host(SupervisorProgram):
    """The supervisor of the public testkit, with the apps of these tests; `url` overrides the engine's."""

    def __init__(self, folder: Path, app: str, *flags: str, url: str = "", **options: Any) -> None:
        self.folder = folder
        runtime = folder / "r"
        runtime.mkdir(mode=0o700, exist_ok=True)
        admin = ["--admin", options.pop("admin")] if "admin" in options else []
        options.setdefault("app_dir", APPS)
        super().__init__(
            folder, app, *(["--api-url", url] if url else []), *admin, *flags, runtime=runtime, **options
        )

    def get(self, path: str) -> httpx.Response:
        """Requests an admin page over the unix socket."""
        return self.ask("GET", path)

    def ready(self, processes: int) -> Host:
        """Waits until the given number of workers is ready."""
        self.wait_for_log("process_ready", processes + 1)
        return self

    def keeper(self) -> int:
        """Returns the keeper's pid."""
        return [line["pid"] for line in self.log("process_started") if line["process"] == "keeper"][-1]


APPS = Path(__file__).parents[1] / "system" / "apps"


@contextlib.contextmanager
def running_engine(*flags: str, **options: Any) -> Iterator[Engine]:
    """An engine that ends with the block."""
    with Engine(*flags, **options) as engine:
        yield engine


@contextlib.contextmanager
def running_host(folder: Path, app: str, *flags: str, **options: Any) -> Iterator[Host]:
    """A host that ends with the block."""
    with Host(folder, app, *flags, **options) as host:
        yield host
