"""A registry written for the stock SDK gives the same results under its own manager, flowherd and in isolates."""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import APPS, running_engine, running_host
from stock_kit import CREDENTIALS, Client, Report, Wire, stock_environment, stock_program, wire_to

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("kruxiaflow", reason="compares with the stock SDK: pip install kruxiaflow==0.4.0")

STOCK, OURS, ISOLATED = "stock", "ours", "isolated"
ONCE = {"retry": {"max_attempts": 1}}
TWICE = {"retry": {"max_attempts": 2, "strategy": "fixed", "base_seconds": 0}}


def step(
    name: str, key: str = "step", settings: dict[str, Any] | None = None, **parameters: Any
) -> dict[str, Any]:
    """One activity of a definition."""
    more = {"settings": settings} if settings else {}
    return {"key": key, "activity_name": name, "parameters": parameters, **more}


def cases(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Every workflow that both workers run, by name."""
    files = [
        step("make_file", "maker", ONCE, folder=str(folder), times=300, second="a-second_name.bin"),
        step("reverse_file", "reverser", ONCE, file="{{maker.b}}") | {"depends_on": ["maker"]},
    ]
    waiting = {"wait_for_signal": {"event_name": "go", "timeout_seconds": 60, "on_timeout": "fail"}}
    return {
        "computes": [step("compute", n=20_000)],
        "renamed": [step("renamed", a=1, b=[True, None, "ü"], c={"d": 1.5})],
        "several-outputs": [step("several")],
        "no-outputs": [step("nothing")],
        "cost": [step("priced", usd="0.000123")],
        "number-keys": [step("number_keys")],
        "refused-for-good": [step("refuses", settings=TWICE, retryable=False)],
        "refused-twice": [step("refuses", settings=TWICE, retryable=True)],
        "default-error": [step("fails_with_defaults", settings=ONCE)],
        "raised-value-error": [step("raises", settings=ONCE, kind="value")],
        "raised-key-error": [step("raises", settings=ONCE, kind="key")],
        "raised-os-error": [step("raises", settings=ONCE, kind="os")],
        "raised-group": [step("raises", settings=ONCE, kind="group")],
        "missing-parameter": [step("raises", settings=ONCE)],
        "second-attempt": [step("fails_once", settings=TWICE, folder=str(folder))],
        "not-a-result": [step("returns_a_dict", settings=ONCE)],
        "identified": [step("identify")],
        "signalled": [step("identify", settings=waiting)],
        "beats-and-logs": [step("beats_and_logs", word="flowherd")],
        "class-style": [step("scale", x=6)],
        "files": files,
        "odd-file-name": [step("make_file", settings=ONCE, folder=str(folder), times=1, second="two words")],
        "file-not-there": [step("miss_a_file", settings=ONCE)],
        "foreign-file": [step("reverse_file", settings=ONCE, file="s3://bucket/key")],
        "timed-out": [step("too_slow", settings={**ONCE, "timeout_seconds": 1})],
    }


OTHER_WORDS = {
    "timed-out": r"limit of 1 s",
    "raised-group": r"ValueError: one$",
    "odd-file-name": r"^1 validation errors? for FileMetadata: filename: (?!.*two words)",
}


class StockWorkerHangs(Exception):
    """The stock worker has lost a poll's batch, as it can (protocol.md §4); the lease would end after the test."""


class Comparison:
    """Both workers on one engine, and their results of every case."""

    def __init__(self, folder: Path, wire: Wire, client: Client, stack: ExitStack) -> None:
        app = str(APPS / "stock_app.py")
        self.client = client
        self.stock_log = stack.enter_context(stock_program(folder, app, url=wire.url, worker=STOCK))
        host = running_host(folder, "stock_app:main", "-p", "2", env=stock_environment(wire.url, OURS))
        self.host = stack.enter_context(host).ready(2)
        self._isolate_everything(folder / "isolated", wire, stack)
        self.reports: dict[str, tuple[Report, Report]] = {}
        self.isolated: dict[str, Report] = {}
        (folder / "files").mkdir()
        ids = {
            name: tuple(client.submit(name, steps, worker) for worker in (STOCK, OURS, ISOLATED))
            for name, steps in cases(folder / "files").items()
        }
        for workflow_id in ids["signalled"]:
            client.signal(workflow_id, "step", {"approved": True})
        for name, (stock, ours, isolated) in ids.items():
            mine, self.isolated[name] = client.report(ours), client.report(isolated)
            try:
                self.reports[name] = client.report(stock), mine
            except AssertionError as error:
                raise StockWorkerHangs(name) from error

    @staticmethod
    def _isolate_everything(folder: Path, wire: Wire, stack: ExitStack) -> None:
        """A second host, whose activities all run in isolates by a settings file alone."""
        folder.mkdir()
        names = {item["activity_name"] for steps in cases(folder).values() for item in steps}
        moved = "".join(f'[activities.{name}]\noffload = "process"\n' for name in sorted(names))
        (folder / "flowherd.toml").write_text(moved)
        environment = stock_environment(wire.url, ISOLATED)
        flags = ("-p", "1", "-c", "4", "--config", "flowherd.toml")
        stack.enter_context(running_host(folder, "stock_app:main", *flags, env=environment)).ready(1)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comparison]:
    """Runs every case once on each worker; repeats it if the stock worker has lost a batch, never for ours."""
    for tries_left in (2, 1, 0):
        with ExitStack() as stack:
            engine = stack.enter_context(running_engine(credentials=CREDENTIALS))
            wire = stack.enter_context(wire_to(engine.url))
            client = Client(engine.url, wire)
            stack.callback(client.close)
            try:
                made = Comparison(tmp_path_factory.mktemp("c"), wire, client, stack)
            except StockWorkerHangs:
                if not tries_left:
                    raise
                continue
            yield made
            return


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", [name for name in cases(Path()) if name not in OTHER_WORDS])
def test_both_workers_report_the_same_outputs_failures_costs_and_files(
    comparison: Comparison, name: str
) -> None:
    """The promise to users of the stock SDK: the registry runs unchanged."""
    stock, ours = comparison.reports[name]
    assert ours == stock


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", cases(Path()))
def test_isolates_report_the_same_as_the_loop(comparison: Comparison, name: str) -> None:
    """Files, costs and failures, too: a move by configuration must have no effect."""
    _, ours = comparison.reports[name]
    assert comparison.isolated[name] == ours


@pytest.mark.timeout(120)
def test_the_cases_show_what_they_are_meant_to_show(comparison: Comparison) -> None:
    """Otherwise two workers that do nothing would be equal."""
    ours = {name: report for name, (_, report) in comparison.reports.items()}
    assert ours["computes"].outputs["step"] == {"total": sum(n * n for n in range(20_000))}
    assert ours["several-outputs"].outputs["step"].keys() == {"text", "nested"}
    assert ours["cost"].costs == {"step": "0.000123"}
    assert ours["refused-for-good"].failures == [
        {"code": "NOT_FOUND", "message": "no such customer", "retryable": False}
    ]
    assert len(ours["refused-twice"].failures) == 2
    assert ours["raised-key-error"].failures == [
        {"code": "EXECUTION_ERROR", "message": "'missing'", "retryable": True}
    ]
    assert ours["second-attempt"].outputs["step"] == {"attempts": 2}
    assert ours["signalled"].outputs["step"]["context"]["signal"] == {"approved": True}
    assert ours["class-style"].outputs["step"] == {"scaled": 42}
    content = bytes(range(256)) * 300
    assert ours["files"].files == {
        "maker/bytes.bin": content,
        "maker/a-second_name.bin": content,
        "reverser/reversed.bin": content[::-1],
    }


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "words"), OTHER_WORDS.items())
def test_some_failures_have_words_of_their_own(comparison: Comparison, name: str, words: str) -> None:
    """Same code and retryability; the message names limits and a group's exceptions, and quotes no value."""
    stock, ours = comparison.reports[name]
    assert replace(ours, errors={}, failures=[]) == replace(stock, errors={}, failures=[])
    [theirs], [failure] = stock.failures, ours.failures
    assert failure | {"message": ""} == theirs | {"message": ""}
    assert re.search(words, failure["message"])
    assert not re.search(words, theirs["message"])


@pytest.mark.timeout(120)
def test_the_handlers_log_lines_come_out(comparison: Comparison) -> None:
    """`ctx.logger` keeps its name, so that users' logging configuration still fits."""
    lines = [line for line in comparison.host.log() if "of flowherd" in str(line.get("event"))]
    assert [line["event"] for line in lines] == [f"step {number} of flowherd" for number in range(20)]
    assert comparison.stock_log.read_text().count("of flowherd") == 20


@pytest.mark.timeout(120)
def test_state_of_a_class_style_activity_lives_as_long_as_its_process(comparison: Comparison) -> None:
    """One instance a process: each counts its own calls, none begins anew."""
    client = comparison.client
    calls = [step("scale", f"call-{number}", count=True) for number in range(30)]
    report = client.report(client.submit("counting", calls, OURS))
    seen: dict[int, list[int]] = {}
    for output in report.outputs.values():
        seen.setdefault(output["state"]["pid"], []).append(output["state"]["calls"])
    assert seen.keys() <= set(comparison.host.children().values())
    for counts in seen.values():
        assert sorted(counts) == list(range(min(counts), min(counts) + len(counts)))
