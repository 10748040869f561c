"""Runs every bench, beside the stock worker: `python tests/bench/everything.py`.

    python tests/bench/everything.py [--quick] [--only NAME ...] [--json FILE]
                                     [--tuned auto|no|PYTHON] [--rust auto|no|PROGRAM]

Each bench is a program of its own; its table is printed as it ends, and one that fails stops no other. At the end
stand the gates that were missed, what was not measured and why, and what failed. The exit code is 1 if something
failed, or could not be measured though it should have been, not if a gate was missed: on a machine that others use
too, that says little.

`--quick` runs everything, small, in about five minutes: it shows that the benches work, its figures mean little. All
of it takes hours. `--tuned auto` makes an environment with sniffio and uvloop for the stock worker, `--rust auto`
builds the worker for the public Rust SDK, the first time for minutes; what cannot be had is left out by name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from bench.made import Unavailable, rust_program, tuned_python
from bench.parts import PARTS, Part
from bench.sheet import RUST, TUNED, Sheet, headline, machine, omissions, table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

HERE = Path(__file__).parent
GRACE_S = 60.0  # for a bench that is interrupted to show what it has


@dataclass(frozen=True)
class Result:
    """The result of a bench: its sheet, if there is one, and the reason of a failure."""

    name: str
    sheet: Sheet | None
    trouble: str
    took_s: float

    @property
    def failed(self) -> bool:
        """True if something could not be measured."""
        return bool(self.trouble or (self.sheet and self.sheet.failed))


@dataclass(frozen=True)
class Rivals:
    """The rivals: the flags that name them, and the reasons for leaving others out."""

    flags: dict[str, str]
    left_out: dict[str, str]

    @classmethod
    def found(cls, options: argparse.Namespace, folder: Path) -> Rivals:
        """Builds the rivals that must be built."""
        rivals = cls({}, {})
        rivals._add(TUNED, "--tuned", options.tuned, lambda: tuned_python(folder))
        rivals._add(RUST, "--rust", options.rust, rust_program)
        return rivals

    def _add(self, who: str, flag: str, wanted: str, make: Callable[[], str]) -> None:
        if wanted == "no":
            self.left_out[who] = f"{flag} no"
            return
        try:
            self.flags[flag] = make() if wanted == "auto" else wanted
        except Unavailable as reason:
            self.left_out[who] = str(reason)

    def words(self, part: Part) -> Iterator[str]:
        """Returns the flags for the command line of a bench."""
        for flag, value in self.flags.items():
            if flag == "--tuned" or part.has_rust:
                yield from (flag, value)


def one(part: Part, rivals: Rivals, *, is_quick: bool, folder: Path = HERE) -> Result:
    """Runs a bench to its end, or to its ceiling."""
    begun_at = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        file, said = Path(scratch) / "sheet.json", Path(scratch) / "said"
        words = [sys.executable, str(folder / f"{part.program}.py"), *part.words(is_quick=is_quick)]
        with said.open("wb") as output:
            trouble = ran(
                [*words, *rivals.words(part), "--json", str(file)], output, part.ceiling_s(is_quick)
            )
        sheet = Sheet.read(json.loads(file.read_text())) if file.exists() else None
        if sheet is None:
            last = " ".join(said.read_text(errors="replace").split())[-500:]
            trouble = f"{trouble or 'it showed nothing'}: {last}"
    if sheet is not None:
        sheet.bench = part.name
        sheet.left_out |= {who: why for who, why in rivals.left_out.items() if who in sheet.left_out}
    return Result(part.name, sheet, trouble, time.monotonic() - begun_at)


def ran(words: list[str], output: Any, ceiling_s: float, grace_s: float = GRACE_S) -> str:
    """Runs a program; returns why it did not finish, or "". A contender that failed is in its sheet."""
    process = subprocess.Popen(words, stdout=output, stderr=output, start_new_session=True)
    try:
        code = process.wait(ceiling_s)
    except subprocess.TimeoutExpired:
        return f"not done within {ceiling_s:g} s"
    finally:
        end(process, grace_s)
    return "" if code in {0, 1} else f"ended with {code}"


def end(process: subprocess.Popen[Any], grace_s: float) -> None:
    """Interrupts it, so that it can print its results, then kills it."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def shown(result: Result) -> Iterator[str]:
    """Returns the lines of one result."""
    if result.sheet is not None:
        yield from table([result.sheet])
        yield from omissions([result.sheet])
    if result.trouble:
        yield f"FAILED: {result.name}: {result.trouble}"
    yield f"({result.name} took {result.took_s:.0f} s)\n"


def summary(results: Iterable[Result]) -> Iterator[str]:
    """Returns missed gates, omissions and failures."""
    sheets = [result.sheet for result in results if result.sheet is not None]
    judged = [
        (met, f"{sheet.bench}: {row.figure}, {row.who}: {row.measured}, asked for {gate}")
        for sheet in sheets
        for row in sheet.rows()
        for gate, met in row.gates
    ]
    kept = sum(met is True for met, _ in judged)
    yield f"{kept} of {len(judged)} gates met"
    yield from (f"MISSED: {text}" for met, text in judged if met is False)
    yield from (f"not measured: {text}" for met, text in judged if met is None)
    yield from omissions(sheets)
    yield from (f"FAILED: {result.name}: {result.trouble}" for result in results if result.trouble)


def document(results: Iterable[Result], *, is_quick: bool) -> dict[str, Any]:
    """Returns every sheet as its bench wrote it, for JSON."""
    return {
        "machine": machine(),
        "is_quick": is_quick,
        "sheets": [result.sheet.document() for result in results if result.sheet is not None],
        "took_s": {result.name: round(result.took_s, 1) for result in results},
        "troubles": {result.name: result.trouble for result in results if result.trouble},
    }


def main(words: list[str] | None = None, parts: tuple[Part, ...] = PARTS, folder: Path = HERE) -> int:
    """Runs the benches that were asked for, one after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [part.name for part in parts]
    parser.add_argument("--quick", action="store_true", help="small: about five minutes")
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names)
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--tuned", default="auto", metavar="auto|no|PYTHON")
    parser.add_argument("--rust", default="auto", metavar="auto|no|PROGRAM")
    options = parser.parse_args(words)
    results: list[Result] = []
    print(headline(), flush=True)
    with tempfile.TemporaryDirectory() as made, contextlib.suppress(KeyboardInterrupt):
        rivals = Rivals.found(options, Path(made))
        for part in parts:
            if part.name in options.only:
                results.append(one(part, rivals, is_quick=options.quick, folder=folder))
                print(*shown(results[-1]), sep="\n", flush=True)
                if options.json is not None:  # each time: all of it takes hours
                    options.json.write_text(json.dumps(document(results, is_quick=options.quick), indent=1))
    print(headline(), *summary(results), sep="\n")
    if options.quick:
        print("All of it was small, for --quick: the figures mean little.")
    is_whole = len(results) == len(set(options.only))
    return 0 if is_whole and not any(result.failed for result in results) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
