"""flowherd beside the stock worker and beside task queues: two processes each, late acknowledgement.

    python tests/bench/peers/compare.py [--repeat 3] [--only PART] [--folder DIR] [--json FILE]
                                        [--phase rest|memory|work]

Needs Debian's redis-server and postgresql-15, starts them itself on free ports of 127.0.0.1, and installs what
`requirements.txt` pins below `--folder`, once. There are three kinds of rounds. *Rest*: all contenders at the same
time, each with a broker of its own, once with its own defaults (idle load, kill -9, TERM) and once with a lease of 5 s
(kill -9, a handler that blocks). *Memory*: all at the same time, after no-ops. *Work*: one after the other (no-ops,
memory, light tasks beside heavy ones). Shows the sheet of all readings, then the page's table. The figures mean little
while others use the machine.
"""

from __future__ import annotations

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_kit import arguments
from contenders import CONTENDERS, Contender, installed, paragraphs
from hosting import Hosted
from scenarios import (
    COLUMNS,
    KILLED,
    KILLED_LEASE,
    KILLED_S,
    LEASE_S,
    LEASED_S,
    PSS_BESIDE,
    at_rest,
    at_work,
    leased,
    noops,
)
from sheet import Sheet, headline, shown

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

CEILINGS = {KILLED: KILLED_S, KILLED_LEASE: LEASED_S}


class Comparison:
    """All rounds of one run."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.sheet = Sheet("peers", "two processes each, late acknowledgement")
        self.asked = [one for one in CONTENDERS if options.only.lower() in one.name.lower()]
        options.folder.mkdir(parents=True, exist_ok=True)
        self._paths = installed(options.folder, {one.name for one in self.asked})

    def rest(self) -> None:
        """All at the same time: first everybody starts, then everybody is measured."""
        places = [(who, lease_s) for who in self.asked for lease_s in (0.0, LEASE_S)]
        with ExitStack() as stack, ThreadPoolExecutor(4) as few, ThreadPoolExecutor(len(places)) as many:
            hosts = list(few.map(lambda place: self._hosted(*place, stack), places))
            list(
                many.map(
                    lambda host: self._measured(host, leased if host and host.lease_s else at_rest), hosts
                )
            )

    def memory(self) -> None:
        """All are alive while each is read, so that files that several map, as numpy's, count in part for each."""
        with ExitStack() as stack:
            hosts = [host for who in self.asked if (host := self._hosted(who, 0.0, stack))]
            for host in hosts:
                noops(host)
            for host in hosts:
                self._measured(host, lambda host: {PSS_BESIDE: host.pss_mb()})

    def work(self) -> None:
        """One after the other."""
        for who in self.asked:
            with ExitStack() as stack:
                self._measured(self._hosted(who, 0.0, stack), at_work)

    def _hosted(self, who: Contender, lease_s: float, stack: ExitStack) -> Hosted | None:
        path = ":".join(self._paths[name] for name in (who.name, "common") if name in self._paths)
        try:
            host = Hosted(stack.enter_context(ExitStack()), who, lease_s, path)
            host.ready()
        except Exception as error:  # noqa: BLE001 - the others are still of use
            self.sheet.failed[who.name] = f"{type(error).__name__}: {error}"
            return None
        return host

    def _measured(self, host: Hosted | None, scenario: Callable[[Hosted], dict[str, float]]) -> None:
        if host is None:
            return
        try:
            self.sheet.note(host.contender.name, scenario(host))
        except Exception as error:  # noqa: BLE001 - the others are still of use
            self.sheet.failed[host.contender.name] = f"{scenario.__name__}: {type(error).__name__}: {error}"

    def versions(self) -> str:
        """Every contender's version."""
        pins = {name: lines[0].split("==")[0].split("[")[0] for name, lines in paragraphs().items()}
        found = []
        for who in self.asked:
            paths = [self._paths[who.name]] if who.name in self._paths else sys.path
            name = pins.get(who.name) or ("kruxiaflow" if who.name == "stock" else "flowherd")
            version = next(one.version for one in distributions(path=paths, name=name))
            found.append(f"{who.name} {version}")
        return ", ".join(found)

    def table(self) -> list[str]:
        """The page's table: medians, a row for each contender."""
        lines = ["| | " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
        for who in self.asked:
            cells = [
                " / ".join(self._cell(figure, who.name) for figure in figures) for figures in COLUMNS.values()
            ]
            lines.append(f"| {who.name} | " + " | ".join(cells) + " |")
        return lines

    def _cell(self, figure: str, who: str) -> str:
        """A number, or that it has reached its ceiling."""
        median, ceiling = self.sheet.medians(figure).get(who), CEILINGS.get(figure)
        if median is None:
            return "-"
        return f"> {ceiling:g}" if ceiling and median >= ceiling else shown(median)


def main() -> int:
    """Runs all rounds."""
    parser = arguments(__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "peers")
    parser.add_argument("--phase", choices=["rest", "memory", "work"], help="only this one")
    options = parser.parse_args()
    comparison = Comparison(options)
    print(headline(), comparison.versions(), sep="\n", flush=True)
    try:
        for phase in ("rest", "memory", "work"):
            for _ in range(options.repeat if options.phase in {None, phase} else 0):
                getattr(comparison, phase)()
                print(f"{phase}: {headline()}", flush=True)
    except KeyboardInterrupt:
        comparison.sheet.failed["all"] = "interrupted"
    code = comparison.sheet.show(options.json)
    print(*comparison.table(), sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
