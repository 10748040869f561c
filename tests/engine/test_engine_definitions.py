"""Definitions: YAML as the server reads it, one normal form, and expansion bombs that are refused."""

from __future__ import annotations

import pytest

from flowherd_engine.definitions import DefinitionInvalid, parse, restore

ONE = "name: f\nactivities: [{key: a, worker: py, parameters: %s}]"


def errors(text: str) -> dict:
    with pytest.raises(DefinitionInvalid) as caught:
        parse(text)
    return dict(caught.value.field_errors)


def test_yaml_scalars_follow_the_core_schema():
    """The server reads YAML 1.2: no, on and dates are text."""
    text = ONE % "{a: no, b: on, c: 2024-01-01, d: 0x10, e: 1e3, f: ~, g: true, h: 012, i: '1', j: 1_000}"
    assert parse(text).steps[0].parameters == {
        "a": "no",
        "b": "on",
        "c": "2024-01-01",
        "d": 16,
        "e": 1000.0,
        "f": None,
        "g": True,
        "h": 12,
        "i": "1",
        "j": "1_000",
    }


def test_json_and_yaml_of_the_same_definition_are_equal():
    json = '{"name": "f", "activities": [{"key": "a", "depends_on": []}, {"key": "b", "depends_on": ["a"]}]}'
    yaml = "name: f\nactivities:\n- {key: a, dependency_of: [b]}\n- key: b\n  worker: std\n"
    assert parse(json).document == parse(yaml).document
    assert restore(parse(json).document) == parse(json)


def test_settings_reach_the_worker_complete_and_without_unknown_keys():
    """protocol.md §4, §8.1."""
    text = (
        "name: f\nactivities: [{key: a, streaming: {enabled: true},"
        " settings: {retry: {}, timeout_seconds: 5, junk: 1}}]"
    )
    step = parse(text).steps[0]
    assert step.settings.document(step.streaming) == {
        "timeout_seconds": 5,
        "retry": {
            "max_attempts": 1,
            "strategy": "exponential",
            "base_seconds": 2,
            "factor": 2.0,
            "max_seconds": 300,
        },
        "cache": False,
        "streaming": {"enabled": True},
    }


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("name: ''\nactivities: []", {"name", "activities"}),
        ("name: a b\nactivities: [{key: a}]", {"name"}),
        (
            "name: f\nactivities: [{key: a}, {key: a, worker: ''}]",
            {"activities[1].key", "activities[1].worker"},
        ),
        ("name: f\nactivities: [{key: 'a/b'}]", {"activities[0].key"}),
        (
            "name: f\nactivities: [{key: a, depends_on: [z], dependency_of: [y]}]",
            {"activity.a.depends_on", "activity.a.dependency_of"},
        ),
        ("name: f\nactivities: [{key: a, settings: {delay: 5s, scheduled_for: x}}]", {"activity.a.settings"}),
        ("name: f\nactivities: [{key: a, depends_on: [b]}, {key: b, depends_on: [a]}]", {"activities"}),
        ("name: f\nactivities: [{key: a, depends_on: [a]}]", {"activities"}),
        ("activities: [{key: a}]", {"definition"}),
        ("name: f\nactivities: [{key: a, settings: {timeout_seconds: -1}}]", {"definition"}),
        ("name: f\nactivities: [{key: a, settings: {retry: {strategy: lucky}}}]", {"definition"}),
        ("name: f\nactivities: [{key: a, parameters: {x: .inf}}]", set()),
        ('{"name": "f", "activities": [{"key": "a", "parameters": {"x": "\\u0000"}}]}', {"definition"}),
        ("- x", {"definition"}),
        ("", {"definition"}),
    ],
)
def test_each_fault_is_named_at_its_field(text, fields):
    if fields:
        assert set(errors(text)) == fields
    else:
        assert parse(text).steps[0].parameters == {"x": ".inf"}


def test_aliases_that_unfold_into_billions_are_refused():
    text = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    assert "more than" in errors(text)["definition"][0]


def test_an_alias_to_itself_is_refused():
    assert "levels" in errors("name: f\nx: &x [*x]")["definition"][0]


def test_deep_text_is_refused_and_does_not_crash():
    assert errors("[" * 20_000)["definition"]
    assert errors('{"x":' + "[" * 20_000 + "]" * 20_000 + "}")["definition"]


@pytest.mark.parametrize(
    ("retry", "delays"),
    [
        ("{}", [2, 4, 8]),
        ("{factor: 0.5, base_seconds: 4}", [4, 2, 1]),
        ("{factor: 1.0e+300, base_seconds: 1}", [1, 300, 300]),
        ("{factor: -2, base_seconds: 3}", [3, 0, 12]),
        ("{strategy: fixed, base_seconds: 500}", [300, 300, 300]),
    ],
)
def test_backoff_never_leaves_its_bounds(retry, delays):
    step = parse(f"name: f\nactivities: [{{key: a, settings: {{retry: {retry}}}}}]").steps[0]
    assert [step.settings.retry.backoff_s(attempt) for attempt in (1, 2, 3)] == delays
