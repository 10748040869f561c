"""The stock SDK's standard worker, and other forms of stock apps, give the same results under flowherd."""

from __future__ import annotations

import textwrap
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from harness import running_engine, running_host
from stock_kit import CREDENTIALS, Client, Report, Wire, stock_environment, stock_program, wire_to

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("kruxiaflow", reason="compares with the stock SDK: pip install kruxiaflow==0.4.0")

STOCK, OURS = "stock", "ours"
SCRIPT_APP = "kruxiaflow.workers.script_activity:script_activity"
ONCE = {"retry": {"max_attempts": 1}}
SCRIPTS: dict[str, tuple[str, Any]] = {
    "sums": ("OUTPUT = {'sum': sum(INPUT['numbers']), 'key': activity_key}", {"numbers": [1, 2.5, -3]}),
    "functions-and-imports": (
        """
        import statistics
        from decimal import Decimal

        def spread(numbers):
            return max(numbers) - min(numbers)

        logger.info("computing")
        OUTPUT = {"spread": spread(INPUT["x"]), "mean": statistics.mean(INPUT["x"]), "d": str(Decimal("1.1"))}
        """,
        {"x": [3, 1, 2]},
    ),
    "no-output": ("x = 1", {}),
    "output-is-a-list": ("OUTPUT = [1, 'two', None]", {}),
    "not-json": ("OUTPUT = {'when': object}", {}),
    "top-level-await": ("import asyncio\nOUTPUT = await asyncio.sleep(0, {'x': 1})", {}),
    "syntax-error": ("def broken(:\n    pass", {}),
    "raises": ("OUTPUT = {'x': INPUT['missing']}", {}),
    "empty": ("", {}),
    "sees-no-other-script": ("leak = 1\nOUTPUT = {'names': sorted(n for n in globals() if n[0] != '_')}", {}),
}


def steps(name: str) -> list[dict[str, Any]]:
    """A workflow of one script."""
    script, inputs = SCRIPTS[name]
    parameters = {"script": textwrap.dedent(script), "inputs": inputs}
    return [{"key": "step", "activity_name": "script", "parameters": parameters, "settings": ONCE}]


@pytest.fixture(scope="module")
def backend() -> Iterator[tuple[Wire, Client]]:
    """An engine that requires tokens, as the stock worker does."""
    with ExitStack() as stack:
        engine = stack.enter_context(running_engine(credentials=CREDENTIALS))
        wire = stack.enter_context(wire_to(engine.url))
        client = Client(engine.url, wire)
        stack.callback(client.close)
        yield wire, client


@pytest.fixture(scope="module")
def reports(
    backend: tuple[Wire, Client], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Report, Report]]:
    """The reports of each script from `python -m kruxiaflow.workers` and from flowherd."""
    wire, client = backend
    folder = tmp_path_factory.mktemp("s")
    with (
        stock_program(folder, "-m", "kruxiaflow.workers", url=wire.url, worker=STOCK),
        running_host(
            folder, SCRIPT_APP, "-p", "2", "--worker", OURS, env=stock_environment(wire.url, "unused")
        ) as host,
    ):
        host.ready(2)
        ids = [(name, *(client.submit(name, steps(name), who) for who in (STOCK, OURS))) for name in SCRIPTS]
        return {name: (client.report(stock), client.report(ours)) for name, stock, ours in ids}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "not-json"])
def test_a_script_has_the_same_outcome_as_under_the_standard_worker(
    reports: dict[str, tuple[Report, Report]], name: str
) -> None:
    """Also where it fails: a top-level await is a syntax error there, too."""
    stock, ours = reports[name]
    assert ours == stock
    ends = {
        "top-level-await": "SYNTAX_ERROR",
        "syntax-error": "SYNTAX_ERROR",
        "raises": "SCRIPT_ERROR",
        "empty": "MISSING_SCRIPT",
    }
    assert [failure["code"] for failure in ours.failures] == ([ends[name]] if name in ends else [])


@pytest.mark.timeout(120)
def test_what_is_not_json_fails_for_good_and_says_where(reports: dict[str, tuple[Report, Report]]) -> None:
    """The stock worker reports a retryable failure, although no retry can succeed."""
    stock, ours = reports["not-json"]
    assert [(failure["code"], failure["retryable"]) for failure in stock.failures] == [
        ("EXECUTION_ERROR", True)
    ]
    assert [(failure["code"], failure["retryable"]) for failure in ours.failures] == [
        ("INVALID_OUTPUT", False)
    ]
    assert "result.when" in ours.failures[0]["message"]


@pytest.mark.parametrize("app", ["registry", "in_class_style", "greet"])
def test_a_registry_and_one_activity_of_either_style_are_apps_too(
    backend: tuple[Wire, Client], tmp_path: Path, app: str
) -> None:
    """`stock_shapes:registry` has two worker types; `stock_shapes:greet` fits any."""
    wire, client = backend
    with running_host(
        tmp_path, f"stock_shapes:{app}", "-p", "1", env=stock_environment(wire.url, OURS)
    ) as host:
        host.ready(1)
        greet = {"key": "step", "activity_name": "greet", "parameters": {"name": "Ada"}}
        report = client.report(client.submit("greet", [greet], OURS))
        assert report.outputs == {"step": {"greeting": "hello Ada"}}
