"""The results of a bench in a common form: medians, spreads, ratios to stock, gates.

A *figure* is what is measured and its unit ("CPU, us"), *who* is the contender it was measured of. A sheet holds every
single reading; everything shown is computed from those, and the JSON holds both.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

STOCK, TUNED, RUST = "stock", "stock, tuned", "rust"
HEADER = ("figure", "who", "median (spread)", "of stock", "of tuned", "gate", "met?")


@dataclass(frozen=True)
class Gate:
    """A bound for a figure of a contender: at most or at least `limit`, relative to another's if `of` names one."""

    figure: str
    who: str
    bound: Literal["<=", ">="]
    limit: float
    of: str = ""

    def __str__(self) -> str:
        if not self.of:
            return f"{self.bound} {shown(self.limit)}"
        return f"{self.bound} {ratio_shown(self.limit)} of {self.of}"

    def is_met(self, medians: Mapping[str, float]) -> bool | None:
        """True if these medians of the figure, by contender, satisfy it; None if one of them is missing."""
        if self.who not in medians or (self.of and self.of not in medians):
            return None
        allowed = self.limit * (medians[self.of] if self.of else 1.0)
        return medians[self.who] <= allowed if self.bound == "<=" else medians[self.who] >= allowed


@dataclass(frozen=True)
class Row:
    """One figure of one contender; `gates` are texts of gates with True for those met."""

    figure: str
    who: str
    readings: list[float]
    ratios: dict[str, float]
    gates: list[tuple[str, bool | None]]

    @property
    def measured(self) -> str:
        """The median, and the least and the most if there are several readings."""
        if not self.readings:
            return "-"
        median = shown(statistics.median(self.readings))
        if len(self.readings) == 1:
            return median
        return f"{median} ({shown(min(self.readings))} - {shown(max(self.readings))})"

    def cells(self) -> tuple[str, ...]:
        """As the table has it."""
        ratios = [ratio_shown(self.ratios[base]) if base in self.ratios else "" for base in (STOCK, TUNED)]
        verdicts = {True: "yes", False: "NO", None: "not measured"}
        return (
            self.figure, self.who, self.measured, *ratios,
            "; ".join(text for text, _ in self.gates), "; ".join(verdicts[met] for _, met in self.gates),
        )  # fmt: skip


@dataclass
class Sheet:
    """All readings of one bench.

    Attributes:
        bench: its name.
        about: its description in one line.
        gates: bounds for its figures.
        readings: by figure, then by who.
        left_out: contenders that were not measured, and why.
        failed: contenders that could not be measured, and why.
        asides: figures of the surroundings, of which no ratio says anything.

    """

    bench: str
    about: str
    gates: list[Gate] = field(default_factory=list)
    readings: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    asides: list[str] = field(default_factory=list)

    def note(self, who: str, figures: Mapping[str, float]) -> None:
        """Adds a reading of each figure."""
        for figure, value in figures.items():
            self.readings.setdefault(figure, {}).setdefault(who, []).append(float(value))

    def add(self, other: Sheet) -> None:
        """Adds all readings of another sheet of the same bench."""
        for figure, found in other.readings.items():
            for who, readings in found.items():
                self.readings.setdefault(figure, {}).setdefault(who, []).extend(readings)

    def compare(self, figure: str, base: str) -> None:
        """Expresses the others' medians in those of a contender, if stock is not among them."""
        medians = self.medians(figure)
        if of := medians.get(base):
            for who, median in medians.items():
                self.note(who, {f"{figure}, of {base}": median / of} if who != base else {})

    def medians(self, figure: str) -> dict[str, float]:
        """Returns the medians of a figure by contender."""
        return {who: statistics.median(found) for who, found in self.readings.get(figure, {}).items()}

    def rows(self) -> list[Row]:
        """Returns every figure of every contender; a gate without a measurement has a row, too."""
        places = [(figure, who) for figure, found in self.readings.items() for who in found]
        places += [place for gate in self.gates if (place := (gate.figure, gate.who)) not in places]
        return [self._row(*place) for place in dict.fromkeys(places)]

    def _row(self, figure: str, who: str) -> Row:
        medians = self.medians(figure)
        is_compared = figure not in self.asides and who in medians and who not in {STOCK, TUNED}
        bases = [base for base in (STOCK, TUNED) if is_compared and medians.get(base)]
        ratios = {base: medians[who] / medians[base] for base in bases}
        gates = [gate for gate in self.gates if (gate.figure, gate.who) == (figure, who)]
        judged = [(str(gate), gate.is_met(medians)) for gate in gates]
        return Row(figure, who, self.readings.get(figure, {}).get(who, []), ratios, judged)

    def document(self) -> dict[str, Any]:
        """Returns the document for JSON: the readings, as `read` needs them, and the computed rows."""
        rows = [asdict(row) | {"measured": row.measured} for row in self.rows()]
        return asdict(self) | {"machine": machine(), "rows": rows}

    @classmethod
    def read(cls, document: dict[str, Any]) -> Sheet:
        """Restores a sheet from its document."""
        gates = [Gate(**gate) for gate in document["gates"]]
        rest = {
            name: document[name] for name in ("bench", "about", "readings", "left_out", "failed", "asides")
        }
        return cls(gates=gates, **rest)

    def show(self, file: Path | None) -> int:
        """Prints the table, and writes the document if a file is given; returns 1 if a contender has failed."""
        print(headline(), *table([self]), *omissions([self]), sep="\n")
        if file is not None:
            file.write_text(json.dumps(self.document(), indent=1))
        return 1 if self.failed else 0


def machine() -> dict[str, Any]:
    """Describes the machine and its load."""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cores": os.cpu_count(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def headline() -> str:
    """The machine in one line."""
    here = machine()
    load = " ".join(f"{one:.1f}" for one in here["load"])
    return (
        f"{here['at']}, {here['cores']} cores, load {load}, Python {here['python']}, Linux {here['kernel']}"
    )


def table(sheets: Sequence[Sheet]) -> list[str]:
    """Returns the lines of one table for all; each sheet has its heading."""
    parts = [(f"\n{sheet.bench}: {sheet.about}", [row.cells() for row in sheet.rows()]) for sheet in sheets]
    cells = [HEADER, *(line for _, lines in parts for line in lines)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]

    def ruled(line: tuple[str, ...]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()

    return [ruled(HEADER), *(line for heading, lines in parts for line in (heading, *map(ruled, lines)))]


def omissions(sheets: Iterable[Sheet]) -> list[str]:
    """Returns a line with the reason for everything that is not in the table."""
    return [
        f"{word}: {sheet.bench}, {who}: {why}"
        for sheet in sheets
        for word, whom in (("left out", sheet.left_out), ("FAILED", sheet.failed))
        for who, why in whom.items()
    ]


def shown(value: float) -> str:
    """Formats a number with its significant digits."""
    size = abs(value)
    if size < 1000 and value == int(value):
        return str(int(value))
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def ratio_shown(ratio: float) -> str:
    """`1/17` or `12 x`."""
    return f"1/{shown(1 / ratio)}" if 0 < ratio < 1 else f"{shown(ratio)} x"
