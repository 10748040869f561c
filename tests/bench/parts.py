"""The benches in the order in which `everything.py` runs them, with their flags."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One bench.

    Attributes:
        name: name for `--only`.
        program: the file that measures it.
        flags: flags of every run.
        quick: flags of a small run, which replace or extend those.
        has_rust: True if it can compare with the Rust SDK.

    """

    name: str
    program: str
    flags: str = ""
    quick: str = ""
    has_rust: bool = False

    def words(self, *, is_quick: bool) -> list[str]:
        """Returns the flags of such a run; of two equal flags the last one counts."""
        return [*self.flags.split(), *(self.quick.split() if is_quick else ())]

    def ceiling_s(self, is_quick: bool) -> float:  # noqa: FBT001
        """Seconds after which it counts as hung."""
        return 180.0 if is_quick else 7200.0


PARTS = (
    Part("light", "light_beside_heavy", quick="--seconds 3 --drain 4 --repeat 1"),
    Part("unnamed", "unnamed_blockers", quick="--seconds 6 --repeat 1"),
    Part("noop", "noop_cost", quick="--activities 500 --repeat 1", has_rust=True),
    Part(
        "noop-5ms", "noop_cost", "--delay-ms 5 --slots 16 --activities 3000",
        quick="--activities 400 --repeat 1", has_rust=True,
    ),
    Part(
        "noop-5ms-256", "noop_cost", "--delay-ms 5 --slots 256 --activities 4000",
        quick="--activities 600 --repeat 1", has_rust=True,
    ),
    Part("scaling", "cpu_scaling", quick="--activities 60 --repeat 1 --tries 1", has_rust=True),
    Part("polling", "polling", quick="--seconds 1 --lone 3 --stream 20 --steps 20 --repeat 1"),
    Part("skew", "skew", quick="--counts 12,5 --seconds 0.1 --repeat 1"),
    Part("beats", "beats_blocked", quick="--seconds 2 --repeat 1"),
    Part("memory", "fork_cost", quick="--activities 200 --restarts 1 --transports direct"),
    Part("crash", "crash_requeue", quick="--kills 2 --lease 3"),
    Part("offload", "offload_cost", quick="--calls 40 --large 4 --repeat 1"),
    Part("start", "isolate_start", quick="--starts 3"),
    Part("soak", "noop_soak", quick="--activities 10000 --every 1000"),
    Part("threads", "thread_offload", quick="--batches 1 --batch 6 --waits 32"),
    Part("transports", "transport_cost", quick="--calls 400 --repeat 1"),
    Part("asked", "beats_under_load", quick="--processes 4 --seconds 7"),
    Part("scrape", "scrape_cost", quick="--rounds 5 --repeat 1"),
    Part("seen", "kill_seen", quick="--rounds 1"),
    Part("ledger", "ledger_cost", quick="--activities 2000 --repeat 3"),
)  # fmt: skip
