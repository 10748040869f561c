"""The warnings of `flowherd submit --definition`: keys, queues, names and inputs that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowherd_supervisor.cli.ask_local_hosts import Served
from flowherd_supervisor.cli.definition_check import warnings_of, workers_of
from flowherd_supervisor.testkit.definition_reader import read_definition

HOST = Served(
    pid=7, app="orders:registry", engine="http://e", worker="py-std", polled_s_ago=0.1, free_slots=4,
    activities={"count_primes": ["below"], "price_order": None},
)  # fmt: skip
STEP = """name: two
activities:
  - key: primes
    worker: py-std
    activity_name: count_primes
    parameters: {below: "{{INPUT.below}}"}
"""

IGNORED = "Engines ignore unknown keys"


def said(text: str, *hosts: Served, **inputs: Any) -> list[str]:
    document = read_definition(text.encode())
    assert document is not None
    return warnings_of(document, inputs, hosts)


def test_a_definition_that_fits_has_no_warning() -> None:
    assert said(STEP, HOST, below=3) == []


@pytest.mark.parametrize("written", ["dependz_on", "depends on"])
def test_an_unknown_key_of_a_step_is_named_with_the_one_that_was_meant(written: str) -> None:
    assert said(f"{STEP}    {written}: []\n", below=3) == [
        f"step primes: unknown key {written!r}: did you mean 'depends_on'? {IGNORED}"
    ]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("    setings: {}", "step primes: unknown key 'setings': did you mean 'settings'?"),
        (
            "    settings: {retry: {max_attemps: 2}}",
            "step primes, settings.retry: unknown key 'max_attemps': did you mean 'max_attempts'?",
        ),
        (
            "    depends_on: [x, {activity_key: x, iff: y}]",
            "step primes, depends_on[1]: unknown key 'iff': known: activity_key, condition, conditions.",
        ),
        ("activites: []", "unknown key 'activites': did you mean 'activities'?"),
        ("7: x", "unknown key '7': known: activities, name, settings."),
    ],
)
def test_an_unknown_key_is_named_with_its_place(more: str, words: str) -> None:
    assert said(f"{STEP}{more}\n", below=3) == [f"{words} {IGNORED}"]


def test_what_a_user_names_himself_is_no_unknown_key() -> None:
    """Parameters and the workflow's settings have any keys."""
    text = STEP.replace('below: "{{INPUT.below}}"', "any: {depth: 1}") + "settings: {mine: 1}\n"
    assert said(text) == []


NO_WORKER = STEP.replace("    worker: py-std\n", "")


def test_a_step_without_a_worker_type_names_the_queue_and_the_remedy() -> None:
    """The engine's default is `std`, which flowherd does not poll by default."""
    [words] = said(NO_WORKER, HOST, below=3)
    assert words == (
        "step primes has no worker:, so it waits in queue 'std'; orders:registry, pid 7 has count_primes and polls "
        "py-std. Add worker: py-std"
    )


def test_a_step_of_another_worker_type_is_named_if_a_host_here_has_its_activity_in_another_queue() -> None:
    [words] = said(STEP.replace("py-std", "pystd"), HOST, below=3)
    assert words == (
        "step primes waits in queue 'pystd'; orders:registry, pid 7 has count_primes and polls py-std. "
        "Is worker: py-std meant?"
    )


@pytest.mark.parametrize("text", [STEP, NO_WORKER])
@pytest.mark.parametrize("name", ["http_request", "llm"])
def test_an_activity_of_another_queue_that_no_host_here_has_is_left_alone(text: str, name: str) -> None:
    """Another machine, or the server's own worker, may have it."""
    written = text.replace("count_primes", name).replace("worker: py-std", "worker: other")
    assert said(written, HOST, below=3) == []
    assert said(STEP, below=3) == [], "no host is here"


def test_a_name_that_the_hosts_of_its_queue_do_not_have_is_named() -> None:
    [words] = said(STEP.replace("count_primes", "count_prime"), HOST, below=3)
    assert words.startswith(
        "step primes: no host on this machine has an activity 'count_prime': did you mean 'count_primes'?"
    )


def test_a_parameter_that_the_activity_does_not_take_is_named() -> None:
    [words] = said(STEP.replace("{below:", "{belw:"), HOST, below=3)
    assert words.startswith("step primes: count_primes takes no parameter 'belw': did you mean 'below'?")


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"belw": 1}, ["the definition uses INPUT.below, which was not given; it does not use belw"]),
        ({}, ["the definition uses INPUT.below, which was not given"]),
        ({"below": 1, "x": 2, "y": 3}, ["the definition does not use the inputs x, y"]),
        ({"below": 1}, []),
    ],
)
def test_inputs_and_their_uses_are_compared(inputs: dict[str, Any], words: list[str]) -> None:
    """A missing one is null, which the handler reports as a wrong type."""
    assert said(STEP, **inputs) == words


@pytest.mark.parametrize(
    "written",
    [
        "{{INPUT.below | default(3)}}",
        "{% if INPUT.below %}1{% endif %}",
        "{{ INPUT }}",
        "{{ INPUT['below'] or 3 }}",
    ],
)
def test_an_input_whose_use_is_not_plain_may_be_there_or_not(written: str) -> None:
    text = STEP.replace("{{INPUT.below}}", written)
    assert said(text) == said(text, below=1) == []


@pytest.mark.parametrize("text", [b"a: [", b"- 1", b"\xff", b"", b"1", b"activities: 3"])
def test_what_is_no_definition_is_left_to_the_engine(text: bytes) -> None:
    document = read_definition(text)
    assert document is None or (
        workers_of(document) == {} and isinstance(warnings_of(document, {}, []), list)
    )


def test_the_worker_types_of_the_steps_are_known() -> None:
    document = read_definition(f"{STEP}  - key: next\n  - 7\n  - worker: x\n".encode())
    assert document is not None
    assert workers_of(document) == {"primes": "py-std", "next": "std"}


@pytest.mark.parametrize("path", sorted(Path("worker/examples").rglob("*.yaml")), ids=str)
def test_the_examples_have_no_unknown_key(path: Path) -> None:
    document = read_definition(path.read_bytes())
    assert document is not None
    assert [words for words in warnings_of(document, {}, []) if "unknown key" in words] == []
