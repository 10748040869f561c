"""Workflow definitions: parsing, checking and normal form (protocol.md §11)."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

import msgspec

from . import definition_schema as schema
from .templates import has_template

_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]+")
_encode = msgspec.json.Encoder(order="sorted").encode


class DefinitionInvalid(ValueError):
    """A definition that cannot run; `field_errors` goes into the 422 envelope unchanged."""

    def __init__(self, field_errors: Mapping[str, list[str]]) -> None:
        super().__init__("; ".join(text for texts in field_errors.values() for text in texts))
        self.field_errors = field_errors


@dataclass(frozen=True)
class Step:
    """An activity of a definition, in the form that is used for scheduling."""

    key: str
    worker: str
    activity_name: str
    parameters: Mapping[str, Any]
    dependencies: tuple[schema.Edge, ...]
    settings: schema.Settings
    outputs: Sequence[Mapping[str, str]] | None
    streaming: Any

    @cached_property
    def claim_tail(self) -> str:
        """The constant part of this step's item in a poll reply, encoded once."""
        document: dict[str, Any] = {
            "activity_key": self.key,
            "worker": self.worker,
            "activity_name": self.activity_name,
            "settings": self.settings.document(self.streaming),
            "timeout_seconds": self.settings.timeout_seconds,
        }
        if self.outputs is not None:
            document["output_definitions"] = self.outputs
        return msgspec.json.encode(document).decode()[1:]

    @cached_property
    def fixed_parameters(self) -> str | None:
        """The encoded parameters if they hold no template."""
        return None if has_template(self.parameters) else msgspec.json.encode(self.parameters).decode()

    @property
    def upstream(self) -> frozenset[str]:
        """The keys that this step waits for."""
        return frozenset(dependency.activity_key for dependency in self.dependencies)


@dataclass(frozen=True)
class Definition:
    """A checked definition; `document` is its normal form, equal for equal definitions."""

    name: str
    steps: tuple[Step, ...]
    document: bytes

    @cached_property
    def by_key(self) -> Mapping[str, Step]:
        """Steps by their key."""
        return {step.key: step for step in self.steps}

    @cached_property
    def dependents(self) -> Mapping[str, tuple[str, ...]]:
        """For each key, the steps that wait for it."""
        found: dict[str, list[str]] = {}
        for step in self.steps:
            for key in sorted(step.upstream):
                found.setdefault(key, []).append(step.key)
        return {key: tuple(keys) for key, keys in found.items()}


def parse(body: str) -> Definition:
    """Parses and checks a definition given as YAML or JSON.

    Raises:
        DefinitionInvalid: with `field_errors.definition` for a text that cannot be parsed, else by field.

    """
    try:
        raw = schema.read(body)
    except schema.Unreadable as error:
        raise DefinitionInvalid({"definition": [f"Failed to parse YAML: {error}"]}) from error
    errors: dict[str, list[str]] = {}
    _check_names(raw, errors)
    _check_references(raw, errors)
    if not errors:
        _check_order(raw, errors)
    if errors:
        raise DefinitionInvalid(errors)
    return _build(raw)


def restore(document: bytes) -> Definition:
    """Restores a definition from its stored normal form."""
    return _build(msgspec.json.decode(document, type=schema.Workflow))


def _build(raw: schema.Workflow) -> Definition:
    normal = _normalized(raw)
    return Definition(normal.name, tuple(_step(activity) for activity in normal.activities), _encode(normal))


def _step(activity: schema.Activity) -> Step:
    outputs = activity.outputs
    return Step(
        key=activity.key,
        worker=activity.worker,
        activity_name=activity.activity_name or "",
        parameters=activity.parameters or {},
        dependencies=tuple(map(schema.as_edge, activity.depends_on or ())),
        settings=activity.settings or schema.Settings(),
        outputs=None if outputs is None else [schema.as_output(output) for output in outputs],
        streaming=activity.streaming,
    )


def _normalized(raw: schema.Workflow) -> schema.Workflow:
    """Turns `dependency_of` into `depends_on`, so that each edge has one spelling."""
    added: dict[str, list[schema.Edge]] = {}
    for activity in raw.activities:
        for edge in map(schema.as_edge, activity.dependency_of or ()):
            added.setdefault(edge.activity_key, []).append(
                schema.Edge(activity.key, conditions=edge.conditions)
            )
    activities = []
    for activity in raw.activities:
        edges = [schema.as_edge(edge) for edge in activity.depends_on or ()] + added.get(activity.key, [])
        unique = {(edge.activity_key, edge.tests or ()): edge for edge in edges}
        ordered = [unique[mark] for mark in sorted(unique)]
        activities.append(msgspec.structs.replace(activity, depends_on=ordered or None, dependency_of=None))
    return msgspec.structs.replace(raw, activities=activities)


def _check_names(raw: schema.Workflow, errors: dict[str, list[str]]) -> None:
    def add(field: str, message: str) -> None:
        errors.setdefault(field, []).append(message)

    if not raw.name:
        add("name", "Workflow name cannot be empty")
    if not _IDENTIFIER.fullmatch(raw.name):
        add("name", "Workflow name must be a valid identifier (alphanumeric, hyphens, underscores)")
    if not raw.activities:
        add("activities", "Workflow must have at least one activity")
    seen: set[str] = set()
    for index, activity in enumerate(raw.activities):
        if activity.key in seen:
            add(f"activities[{index}].key", f"Duplicate activity key: {activity.key}")
        seen.add(activity.key)
        for field, message in _activity_faults(activity, f"activities[{index}]"):
            add(field, message)


def _activity_faults(activity: schema.Activity, at: str) -> Iterator[tuple[str, str]]:
    if not activity.key:
        yield f"{at}.key", "Activity key cannot be empty"
    if not _IDENTIFIER.fullmatch(activity.key):
        yield f"{at}.key", "Activity key must be a valid identifier"
    if not activity.worker:
        yield f"{at}.worker", "Activity worker cannot be empty"
    settings = activity.settings
    if settings and settings.delay is not None and settings.scheduled_for is not None:
        yield (
            f"activity.{activity.key}.settings",
            "Cannot specify both 'delay' and 'scheduled_for' - these fields are mutually exclusive",
        )


def _check_references(raw: schema.Workflow, errors: dict[str, list[str]]) -> None:
    keys = {activity.key for activity in raw.activities}
    for activity in raw.activities:
        for field in ("depends_on", "dependency_of"):
            for edge in map(schema.as_edge, getattr(activity, field) or ()):
                if edge.activity_key not in keys:
                    errors.setdefault(f"activity.{activity.key}.{field}", []).append(
                        f"Referenced activity not found: {edge.activity_key}"
                    )


def _check_order(raw: schema.Workflow, errors: dict[str, list[str]]) -> None:
    """Refuses cycles: the server loops over them, the embedded engine does not (a known difference)."""
    order = TopologicalSorter(
        {
            activity.key: {schema.as_edge(edge).activity_key for edge in activity.depends_on or ()}
            for activity in _normalized(raw).activities
        }
    )
    try:
        order.prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        errors["activities"] = [f"Workflow contains a cycle ({circle}): the embedded engine runs no loops"]
