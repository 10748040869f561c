"""Where handlers run: each kind of handler in each place, however that is said."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from typing import Any

import pytest
from isolate_kit import CEILING_S, FOLDER, running_forker, workplace
from runner_kit import Runner

from flowherd import RegistryError
from flowherd.activities_and_outcomes import Completed
from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.load_app import load_app
from flowherd.execution.run_environment import RunEnvironment
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import make_activity

APP = "offload_app:registry"
pytestmark = [pytest.mark.fork, pytest.mark.timeout(60)]

ON_THE_LOOP = "on the worker's loop"
IN_A_THREAD = "in a thread of the worker"
ON_A_THREADS_LOOP = "on a loop of a thread of the worker"
IN_AN_ISOLATE = "in an isolate"
ON_AN_ISOLATES_LOOP = "on a loop of an isolate"

BY_DECORATOR = [
    ("async", ON_THE_LOOP),
    ("async on the loop", ON_THE_LOOP),
    ("async in a thread", ON_A_THREADS_LOOP),
    ("async in a thread, as others spell it", ON_A_THREADS_LOOP),
    ("async in a process", ON_AN_ISOLATES_LOOP),
    ("def", IN_A_THREAD),
    ("def in a thread", IN_A_THREAD),
    ("def in a process", IN_AN_ISOLATE),
]
BY_CONFIGURATION = [
    ("async", "thread", ON_A_THREADS_LOOP),
    ("async", "process", ON_AN_ISOLATES_LOOP),
    ("async in a thread", "loop", ON_THE_LOOP),
    ("async in a thread", "process", ON_AN_ISOLATES_LOOP),
    ("async in a process", "loop", ON_THE_LOOP),
    ("async in a process", "thread", ON_A_THREADS_LOOP),
    ("def", "thread", IN_A_THREAD),
    ("def", "process", IN_AN_ISOLATE),
    ("def in a process", "thread", IN_A_THREAD),
    ("stock", "loop", ON_THE_LOOP),
    ("stock", "thread", ON_A_THREADS_LOOP),
    ("stock", "process", ON_AN_ISOLATES_LOOP),
]
CASES = [(name, {}, where) for name, where in (*BY_DECORATOR, ("stock", ON_THE_LOOP))]
CASES += [(name, {name: {"offload": offload}}, where) for name, offload, where in BY_CONFIGURATION]


@pytest.fixture(scope="module")
def forker():
    """One for all cells."""
    with running_forker(APP) as made:
        yield made


def where(seen: dict[str, Any]) -> str:
    """In words, as seen from the loop that is running here."""
    if seen["pid"] != os.getpid():
        return ON_AN_ISOLATES_LOOP if seen["loop"] else IN_AN_ISOLATE
    if seen["thread"] != threading.get_ident():
        return ON_A_THREADS_LOOP if seen["loop"] else IN_A_THREAD
    assert seen["loop"] == id(asyncio.get_running_loop())
    return ON_THE_LOOP


@pytest.mark.parametrize(("name", "changes", "expected"), CASES)
async def test_a_handler_runs_where_its_decorator_or_the_settings_say(
    forker, name: str, changes: dict[str, dict[str, str]], expected: str
) -> None:
    """Six cells, of which one is refused; ours and the stock SDK's, whose decorator knows no offload."""
    async with workplace(forker, app=APP) as place:
        registry = load_app(APP, FOLDER).for_type("py-std").configured(changes)
        config = WorkerConfig(worker_id="t", concurrency=2)
        runner = Runner(registry, config, ThreadPool(2), RunEnvironment(), place.isolates)
        run = runner.start(make_activity(name, {}))
        outcome = await asyncio.wait_for(run.outcome(), CEILING_S)
        assert isinstance(outcome, Completed), outcome
        output = json.loads(outcome.output)
        assert where(output.get("place", output)) == expected


@pytest.mark.parametrize("name", ["def", "def in a thread", "def in a process"])
def test_a_def_is_never_put_on_the_loop(name: str) -> None:
    """The sixth cell: it would block the loop, so it is refused with the remedy."""
    registry = load_app(APP, FOLDER).for_type("py-std")
    with pytest.raises(RegistryError, match=r"make it async def"):
        registry.configured({name: {"offload": "loop"}})
