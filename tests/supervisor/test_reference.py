"""The reference pages say what the code says: they are up to date, and their lists leave nothing out."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flowherd.failure_codes import FAILURE_CODES
from flowherd.log_events import WORKER_EVENTS
from flowherd_supervisor import reference
from flowherd_supervisor.log_events import SUPERVISOR_EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

TOP = Path(__file__).parents[2]
EVENTS = {**WORKER_EVENTS, **SUPERVISOR_EVENTS}
INTERNAL = frozenset({"late_news", "order_not_for_workers", "order_not_for_keepers", "isolate_key_taken"})
LOGS = frozenset({"debug", "info", "warning", "error", "exception", "log", "note", "say", "_say", "partial"})
LOUD = re.compile(r"\b(?:WARNING|ERROR)\b")
TABLES = ("failure_codes.py", "log_events.py")


@pytest.mark.parametrize("path", reference.PAGES)
def test_a_reference_page_is_what_the_code_says(path: str) -> None:
    """`python -m flowherd_supervisor.reference` writes it anew."""
    assert (TOP / path).read_text(encoding="utf-8") == reference.PAGES[path]()


def test_the_options_of_an_activity_are_linked() -> None:
    """They are a type that nobody imports, described further down."""
    assert "see [options of @activity](#options-of-activity)" in reference.PAGES["worker/docs/api.md"]()


@cache
def calls() -> tuple[ast.Call, ...]:
    """All calls in the code of worker and supervisor, without the demo."""
    return tuple(
        node
        for root in ("worker/flowherd", "supervisor/flowherd_supervisor")
        for path in sorted((TOP / root).rglob("*.py"))
        if not {"demo", "bench", "testkit"} & {*path.parts} and path.name not in TABLES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    )


def texts(node: ast.AST) -> Iterator[str]:
    """The constant texts of an argument; both where it is one or the other."""
    for part in (node.body, node.orelse) if isinstance(node, ast.IfExp) else (node,):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def logged() -> dict[str, set[bool]]:
    """Each event that the code logs above debug, and whether as a warning or an error."""
    found: dict[str, set[bool]] = defaultdict(set)
    for call in calls():
        name, arguments = name_of(call), [*call.args, *(keyword.value for keyword in call.keywords)]
        if name not in LOGS or "DEBUG" in ast.unparse(call) or name == "debug":
            continue
        events = [
            text for each in call.args[:3] for text in texts(each) if re.fullmatch(r"[a-z]+(_[a-z]+)*", text)
        ]
        is_loud = name in {"warning", "error", "exception"} or any(
            LOUD.search(ast.unparse(each)) for each in arguments
        )
        for event in events[: 1 if name != "note" else 2]:
            found[event].add(is_loud)
    return found


def test_every_event_of_the_log_is_explained_and_none_that_there_is_not() -> None:
    """Somebody who finds a line in a log finds it on the page."""
    known = logged()
    assert len(known) > 90
    assert known.keys() - EVENTS.keys() - INTERNAL == set(), "not explained in a log_events.py"
    chosen = {"stdout", "activity_stdout", "activity_stderr"}  # by what has printed, and where
    assert EVENTS.keys() - known.keys() - chosen == set(), "explained, but never logged"


def test_the_level_of_an_event_is_the_one_it_is_logged_at() -> None:
    """A warning that the page calls information is overlooked."""
    for event, louds in logged().items():
        if event in EVENTS:
            said = EVENTS[event].partition(":")[0]
            assert any(word in said for word in ("warning", "error")) in louds, event


def test_every_code_of_a_failure_is_explained_and_none_that_there_is_not() -> None:
    """Codes are texts where they are made: this finds each of them."""
    made = {
        text
        for call in calls()
        for each in [*call.args[:2], *(word.value for word in call.keywords if word.arg == "code")]
        if name_of(call)
        in {"Failed", "failed", "_fail_one", "_requeue", "error", "ActivityError", "__init__"}
        for text in texts(each)
        if re.fullmatch(r"[A-Z]+(_[A-Z]+)*", text)
    }
    source = (TOP / "worker/flowherd/errors.py").read_text(encoding="utf-8")
    made |= set(re.findall(r'(?:_code|code)\b[^\n=]*= "([A-Z_]+)"', source))
    for path in (TOP / "worker/flowherd").rglob("*.py"):
        if path.name not in TABLES and "stock_sdk" not in path.parts:
            text = path.read_text(encoding="utf-8")
            made |= set(re.findall(r'(?:code(?:, message)?|SHUTDOWN) = "([A-Z_]+)"', text))
    assert made == FAILURE_CODES.keys()


def test_a_code_is_retried_as_the_table_says() -> None:
    """Where the code says it as a constant."""
    checked = 0
    for call in calls():
        retryable = {
            word.value.value
            for word in call.keywords
            if word.arg == "retryable" and isinstance(word.value, ast.Constant)
        }
        codes = {text for each in call.args[:2] for text in texts(each)} & FAILURE_CODES.keys()
        for code in codes if retryable else ():
            assert FAILURE_CODES[code].retried != ("no" if True in retryable else "yes"), code
            checked += 1
    assert checked > 10
