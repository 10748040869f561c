"""Finds what does not fit in a definition before `flowherd submit` deploys it: keys, queues, names and inputs.

All of it is a warning: another machine may have the activity, and only the engine refuses a definition.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

from flowherd_supervisor.cli.ask_local_hosts import not_taken, unknown_name
from flowherd_supervisor.testkit.definition_reader import unknown_keys
from flowherd_supervisor.testkit.workflow_client import DEFAULT_QUEUE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from flowherd_supervisor.cli.ask_local_hosts import Served

_STEP = re.compile(r"activities\[(\d+)\]\.?")
_TEMPLATE = re.compile(r"\{\{(.*?)\}\}|\{%(.*?)%\}", re.DOTALL)
_INPUT = re.compile(r"\bINPUT\b(?:\.(\w+)|\[\s*['\"]([^'\"]+)['\"]\s*\])?")
_PLAIN = re.compile(r"\s*INPUT\.(\w+)(?:\.\w+|\[\d+\])*\s*")


def workers_of(document: Mapping[str, Any]) -> dict[str, str]:
    """Returns the worker type of each step by its key."""
    return {step["key"]: step.get("worker", DEFAULT_QUEUE) for step in _steps(document)}


def warnings_of(document: Mapping[str, Any], inputs: Mapping[str, Any], hosts: Sequence[Served]) -> list[str]:
    """Returns the warnings.

    Args:
        document: a definition as written.
        inputs: the inputs of the workflow.
        hosts: the hosts on this machine that work for the same engine.

    """
    found = list(_unknown_keys(document))
    for step in _steps(document):
        found += _about_step(step, hosts)
    return [*found, *_about_inputs(document, inputs)]


def _steps(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the steps that have a key, and a worker type if they name one."""
    steps = document.get("activities")
    return [
        step
        for step in (steps if isinstance(steps, list) else ())
        if isinstance(step, dict)
        and isinstance(step.get("key"), str)
        and isinstance(step.get("worker", ""), str)
    ]


def _unknown_keys(document: Mapping[str, Any]) -> Iterator[str]:
    for place, key, known in unknown_keys(document):
        close = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}."
        yield f"{_named(place, document)}unknown key {key!r}: {hint} Engines ignore unknown keys"


def _named(place: str, document: Mapping[str, Any]) -> str:
    """Returns a place with the step's key instead of its number, as a prefix."""
    found = _STEP.match(place)
    step = document["activities"][int(found[1])] if found else {}
    if found and isinstance(step.get("key"), str):
        rest = place[found.end() :]
        place = f"step {step['key']}" + (f", {rest}" if rest else "")
    return f"{place}: " if place else ""


def _about_step(step: Mapping[str, Any], hosts: Sequence[Served]) -> Iterator[str]:
    key, name, queue = step["key"], step.get("activity_name"), step.get("worker", DEFAULT_QUEUE)
    if not isinstance(name, str):
        return
    polling = [host for host in hosts if host.worker == queue]
    having = [host for host in hosts if name in host.activities]
    if not polling and having:
        host = having[0]
        has = f"{host} has {name} and polls {host.worker}."
        if "worker" in step:
            yield f"step {key} waits in queue {queue!r}; {has} Is worker: {host.worker} meant?"
        else:
            yield f"step {key} has no worker:, so it waits in queue {queue!r}; {has} Add worker: {host.worker}"
    elif polling and not any(name in host.activities for host in polling):
        yield f"step {key}: {unknown_name(name, polling)}"
    elif isinstance(given := step.get("parameters"), dict):
        complaint = not_taken(name, map(str, given), polling)
        if complaint:
            yield f"step {key}: {complaint}"


def _about_inputs(document: Mapping[str, Any], inputs: Mapping[str, Any]) -> Iterator[str]:
    """Compares the given inputs with those that the definition uses; only a plain `{{INPUT.name}}` needs its input."""
    used, needed, uses_all = set(), set(), False
    for expression in _expressions(document):
        for mention in _INPUT.finditer(expression):
            name = mention[1] or mention[2]
            used.add(name)
            uses_all |= name is None
        if plain := _PLAIN.fullmatch(expression):
            needed.add(plain[1])
    missing = sorted(needed - inputs.keys())
    unused = [] if uses_all else sorted(inputs.keys() - used)
    if missing:
        names = ", ".join(f"INPUT.{name}" for name in missing)
        verb = "was" if len(missing) == 1 else "were"
        rest = f"; it does not use {', '.join(unused)}" if unused else ""
        yield f"the definition uses {names}, which {verb} not given{rest}"
    elif unused:
        yield f"the definition does not use the input{'s' * (len(unused) > 1)} {', '.join(unused)}"


def _expressions(value: Any) -> Iterator[str]:
    """Yields the inside of every template."""
    match value:
        case str():
            yield from (found[1] or found[2] or "" for found in _TEMPLATE.finditer(value))
        case list():
            for item in value:
                yield from _expressions(item)
        case dict():
            for item in value.values():
                yield from _expressions(item)
        case _:
            pass
