"""The bookkeeping of the command: no failure, missed gate or omission is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bench.everything import end, main, ran
from bench.parts import PARTS, Part
from bench.sheet import STOCK, TUNED, Gate, Sheet

HERE = Path(__file__).parent
ALONE = ["--tuned", "no", "--rust", "no"]
GOOD = """
import json, sys
words = sys.argv[1:]
sheet = json.loads(SHEET)
sheet["about"] = " ".join(words[:-2])
open(words[words.index("--json") + 1], "w").write(json.dumps(sheet))
sys.exit(1 if sheet["failed"] else 0)
"""
HANGING = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN if "deaf" in sys.argv else signal.default_int_handler)
try:
    print("waiting", flush=True)
    while True:
        signal.pause()
finally:
    print("shown", flush=True)
"""


def a_sheet() -> Sheet:
    """One gate of each kind."""
    sheet = Sheet("good", "", [Gate("CPU", "ours", "<=", limit) for limit in (60, 40)])
    sheet.gates.append(Gate("CPU", "theirs", "<=", 1))
    sheet.note(STOCK, {"CPU": 500})
    sheet.note("ours", {"CPU": 50})
    sheet.left_out[TUNED] = "no --tuned"
    return sheet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Programs that behave as benches do."""
    broken = a_sheet()
    broken.failed["ours"] = "TimeoutError"
    for name, text in {
        "good": GOOD.replace("SHEET", repr(json.dumps(a_sheet().document()))),
        "partly": GOOD.replace("SHEET", repr(json.dumps(broken.document()))),
        "broken": "raise RuntimeError('no such engine')",
        "hanging": HANGING,
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was printed last."""
    return capsys.readouterr().out.splitlines()


def test_a_bench_that_fails_stops_no_other_and_makes_the_exit_code_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(ALONE, (Part("first", "broken"), Part("second", "good")), folder)
    lines = lines_of(capsys)
    assert code == 1
    assert any(line.startswith("second: ") for line in lines)
    assert [line for line in lines if line.startswith("FAILED")][-1].endswith("RuntimeError: no such engine")


def test_a_contender_that_could_not_be_measured_makes_the_exit_code_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(ALONE, (Part("first", "partly"),), folder) == 1
    assert "FAILED: first, ours: TimeoutError" in lines_of(capsys)


def test_the_end_names_gates_that_were_missed_and_what_was_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missed gate is not a failure."""
    assert main(ALONE, (Part("first", "good"),), folder) == 0
    lines = lines_of(capsys)
    assert lines[-4:] == [
        "1 of 3 gates met",
        "MISSED: first: CPU, ours: 50, asked for <= 40",
        "not measured: first: CPU, theirs: -, asked for <= 1",
        "left out: first, stock, tuned: --tuned no",
    ]


def test_the_document_has_every_sheet_and_every_trouble(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "all.json"
    parts = (Part("first", "good", has_rust=True), Part("second", "broken"), Part("third", "good"))
    main([*ALONE, "--json", str(file), "--only", "first", "second"], parts, folder)
    document = json.loads(file.read_text())
    [sheet] = map(Sheet.read, document["sheets"])
    assert (sheet.bench, sheet.readings) == ("first", a_sheet().readings)
    assert [*document["troubles"]] == ["second"]
    assert [*document["took_s"]] == ["first", "second"]


@pytest.mark.parametrize(("words", "flags"), [([], "--size 9"), (["--quick"], "--size 9 --size 1")])
def test_each_bench_gets_its_flags_and_the_rivals_it_knows(
    folder: Path, tmp_path: Path, words: list[str], flags: str
) -> None:
    file = tmp_path / "all.json"
    given = [*words, "--tuned", "/tuned", "--rust", "/rust", "--json", str(file)]
    parts = (Part("first", "good", "--size 9", "--size 1", has_rust=True), Part("second", "good"))
    main(given, parts, folder)
    abouts = [sheet["about"] for sheet in json.loads(file.read_text())["sheets"]]
    assert abouts == [f"{flags} --tuned /tuned --rust /rust", "--tuned /tuned"]


@pytest.mark.parametrize(("words", "grace_s", "last"), [([], 30.0, "shown"), (["deaf"], 0.1, "")])
def test_a_bench_is_ended_so_that_it_can_show_what_it_has_or_else_for_good(
    folder: Path, words: list[str], grace_s: float, last: str
) -> None:
    program = [sys.executable, str(folder / "hanging.py"), *words]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        end(process, grace_s)
        assert process.stdout.read().strip() == last
        assert process.returncode is not None


def test_a_bench_that_hangs_has_a_ceiling(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "said").open("wb") as output:
        program = [sys.executable, str(folder / "hanging.py"), "deaf"]
        assert ran(program, output, ceiling_s=0.1, grace_s=0.1) == "not done within 0.1 s"


def test_every_bench_is_part_of_everything() -> None:
    """All that have the common flags, but for those that need a server somebody else has started."""
    programs = {
        path.stem: path.read_text() for path in HERE.glob("*.py") if not path.name.startswith("test_")
    }
    benches = {
        name
        for name, text in programs.items()
        if "= arguments(__doc__" in text and '"--engine-url"' not in text
    }
    assert benches == {part.program for part in PARTS}
    assert len({part.name for part in PARTS}) == len(PARTS)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_the_flags_of_a_bench_are_those_it_has(part: Part) -> None:
    known = (HERE / f"{part.program}.py").read_text() + (HERE / "bench_kit.py").read_text()
    flags = [word for word in part.words(is_quick=True) if word.startswith("--")]
    assert [flag for flag in flags if f'"{flag}"' not in known] == []
    assert part.has_rust == ("has_rust=True" in known.partition('"""What the benches share')[0])
