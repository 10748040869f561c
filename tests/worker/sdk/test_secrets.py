"""Secrets that a handler was given show in no text of its failure (faults.md A12, N19)."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from typing import Any

import pytest
from isolate_kit import running_forker, workplace
from pydantic import BaseModel, SecretStr
from runner_kit import Runner

from flowherd import ActivityContext, ActivityError, ActivityResult, Registry, activity
from flowherd.activities_and_outcomes import Completed
from flowherd.execution.in_thread import ThreadPool
from flowherd.execution.run_environment import RunEnvironment
from flowherd.sdk import redaction
from flowherd.sdk.redaction import mask, secrets_in
from flowherd.settings.worker_config import WorkerConfig
from flowherd.testing import make_activity

CEILING_S = 30.0
CANARY = "canary-5up3r"


async def outcome_of(handler: Any, parameters: Any, environment: RunEnvironment | None = None) -> Any:
    registry, config = Registry.of([handler]), WorkerConfig(worker_id="test")
    runner = Runner(registry, config, ThreadPool(2), environment or RunEnvironment())
    [definition] = registry
    run = runner.start(make_activity(definition.name, parameters))
    outcome = await asyncio.wait_for(run.outcome(), CEILING_S)
    await asyncio.wait_for(run.ended(), CEILING_S)
    return outcome


def logged(caplog: pytest.LogCaptureFixture) -> str:
    return "".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)


def first_text(value: Any) -> str:
    """The first text in a nested value."""
    while not isinstance(value, str):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value


@activity
async def on_loop(params: dict) -> None:
    raise ValueError(f"refused {first_text(params)}")


@activity
def in_thread(params: dict) -> None:
    raise ValueError(f"refused {first_text(params)}")


@activity(name="own_loop", offload="thread")
async def on_a_loop_of_its_own(params: dict) -> None:
    raise ValueError(f"refused {first_text(params)}")


@pytest.mark.parametrize("handler", [on_loop, in_thread, on_a_loop_of_its_own])
@pytest.mark.parametrize(
    "parameters",
    [
        {"password": CANARY},
        {"db": {"DB-Passwd": CANARY}},
        {"x": [{"client_secret": CANARY}]},
        {"accessToken": CANARY},
        {"api_key": CANARY},
        {"X-Api-Key": CANARY},
        {"headers": {"Authorization": CANARY}},
        {"private-key": CANARY},
        {"tokens": [CANARY, "another"]},
        {"secret": {"value": CANARY}},
    ],
)
async def test_a_parameter_with_a_telling_name_is_masked_in_message_and_log(
    handler: Any, parameters: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """N19: the engine puts `{{SECRET.x}}` into parameters in clear text."""
    with caplog.at_level(logging.DEBUG):
        outcome = await outcome_of(handler, parameters)
    assert outcome.message == "refused ***"
    assert CANARY not in logged(caplog)


async def test_a_final_failure_and_one_that_is_returned_are_masked_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """N19."""

    @activity
    async def raises(password: str) -> None:
        raise ActivityError(f"no {password}", code="REFUSED", retryable=False)

    @activity
    async def returns(password: str) -> ActivityResult:
        return ActivityResult.error(f"no {password}", code="REFUSED")

    with caplog.at_level(logging.DEBUG):
        outcomes = [await outcome_of(each, {"password": CANARY}) for each in (raises, returns)]
    assert [outcome.message for outcome in outcomes] == ["no ***", "no ***"]
    assert CANARY not in logged(caplog)


async def test_a_variable_with_a_telling_name_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """N19: read when the failure is described, so that what the app's start-up has set counts."""

    @activity
    async def work() -> None:
        raise ValueError(f"refused {os.environ['MY_DB_PASSWORD']} of {os.environ['MY_HOST']}")

    monkeypatch.setenv("MY_DB_PASSWORD", CANARY)
    monkeypatch.setenv("MY_HOST", "example")
    assert (await outcome_of(work, {})).message == "refused *** of example"


async def test_a_name_of_the_settings_counts_too() -> None:
    """N19: `secret_names`."""

    @activity
    async def work(params: dict) -> None:
        raise ValueError(f"{params['card-number']} {params['other']}")

    parameters = {"card-number": "4111-1111", "other": "plain"}
    assert (await outcome_of(work, parameters)).message == "4111-1111 plain"
    environment = RunEnvironment(secret_names=("Card_Number",))
    assert (await outcome_of(work, parameters, environment)).message == "*** plain"


class Login(BaseModel):
    user: str
    pin: SecretStr


async def test_a_pydantic_secret_given_by_keyword_is_masked() -> None:
    """N19: only positional arguments were looked at."""

    @activity
    async def work(*, login: Login, n: int) -> None:
        raise ValueError(f"{n} {login.user}:{login.pin.get_secret_value()}")

    parameters = {"login": {"user": "me", "pin": "hunter2!"}, "n": 7}
    assert (await outcome_of(work, parameters)).message == "7 me:***"


async def test_a_long_list_before_it_hides_no_secret_from_the_search() -> None:
    """N19: what lies on the surface is looked at first."""

    @activity
    async def work(rows: list[int], login: Login, password: str) -> None:
        raise ValueError(f"{login.pin.get_secret_value()} {password}")

    parameters = {
        "password": CANARY,
        "login": {"user": "me", "pin": "hunter2!"},
        "rows": list(range(200_000)),
    }
    assert (await outcome_of(work, parameters)).message == "*** ***"


@pytest.mark.parametrize("before", [8180, 990, 2990])
async def test_the_place_where_a_text_is_cut_shows_no_half_of_a_secret(
    before: int, caplog: pytest.LogCaptureFixture
) -> None:
    """N19: a text that was cut first held half of the secret, which nothing matched."""

    @activity
    async def work(password: str) -> None:
        raise ValueError("x" * before + password + "y" * 9000)

    with caplog.at_level(logging.DEBUG):
        outcome = await outcome_of(work, {"password": CANARY})
    assert "canar" not in outcome.message + logged(caplog)


async def test_a_cause_and_a_stream_that_breaks_off_are_masked(caplog: pytest.LogCaptureFixture) -> None:
    """N19."""

    class Heard:
        def __init__(self) -> None:
            self.ends: list[str | None] = []

        def open(self, activity_id: str) -> Heard:
            return self

        def put(self, text: str) -> None: ...

        def end(self, error: str | None) -> None:
            self.ends.append(error)

    @activity
    async def work(ctx: ActivityContext, password: str) -> None:
        async with ctx.stream():
            try:
                {}[password]
            except KeyError as error:
                raise ValueError(f"no {password}") from error

    heard = Heard()
    with caplog.at_level(logging.DEBUG):
        await outcome_of(work, {"password": CANARY}, RunEnvironment(streams=heard))
    assert heard.ends == ["no ***"]
    assert CANARY not in logged(caplog)


def test_the_forms_in_which_a_text_shows_a_secret_are_masked() -> None:
    """Quoted by repr() or JSON, in a URL, without its line end or scheme, and a long line of a key alone."""
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASC\n"
    assert mask(repr({"k": key}), [key]) == r"{'k': '***\n'}"
    assert mask(json.dumps('pä"ss'), ['pä"ss']) == '"***"'
    assert mask("postgres://me:p%40ss%2Fw@host", ["p@ss/w"]) == "postgres://me:***@host"
    assert mask("got hunter2.", ["hunter2\n"]) == "got ***."
    assert mask("sent abcdef.ghi", ["Bearer abcdef.ghi"]) == "sent ***"
    assert mask("at MIIEvQIBADANBgkqhkiG9w0B", [key]) == "at ***"


def test_short_and_trivial_values_are_left_alone() -> None:
    """They would mask ordinary words: `tokenizers_parallelism: false`, `max_tokens: 100`."""
    given = {
        "token": True, "secret": None, "password": "none", "a_token": "False", "max_tokens": 100,
        "token_weight": "-0.5", "api_key": "abc", "passwd": 12345,
    }  # fmt: skip
    text = "True None none False 100 -0.5 abc 12345"
    assert mask(text, secrets_in([given])) == "True None none False 100 -0.5 abc ***"
    assert list(secrets_in(["plain", 12345, {"name": "plain"}])) == []


async def test_a_success_looks_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hot path pays nothing."""

    @activity
    async def work(ctx: ActivityContext, password: str) -> int:
        ctx.logger.info("begun")
        return 1

    looked: list[Any] = []
    monkeypatch.setattr(redaction, "secrets_in", lambda *given: looked.append(given) or ())
    await outcome_of(work, {"password": CANARY})
    assert looked == []


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
async def test_a_line_of_the_activitys_own_logger_that_speaks_of_a_failure_is_masked(
    level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """N19: a handler that logs its exception and raises another one."""

    @activity
    async def work(ctx: ActivityContext, password: str) -> None:
        try:
            {}[password]
        except KeyError:
            ctx.logger.log(level, "no %s", password, exc_info=True, extra={"detail": f"a {password}"})
        ctx.logger.log(level, "plain %d", 7)

    with caplog.at_level(logging.DEBUG):
        await outcome_of(work, {"password": CANARY})
    masked, plain = (record for record in caplog.records if record.name == "flowherd.activity")
    assert CANARY not in f"{masked.getMessage()} {masked.__dict__} {caplog.text}"
    assert (masked.getMessage(), masked.detail) == ("no ***", "a ***")  # type: ignore[attr-defined]
    assert "KeyError" in masked.exception  # type: ignore[attr-defined]
    assert (plain.msg, plain.args, plain.filename) == ("plain %d", (7,), "test_secrets.py")
    assert masked.filename == "test_secrets.py"


async def test_a_line_that_cannot_be_formatted_fails_no_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with every logger: its handlers deal with it."""

    class Mute:
        def __str__(self) -> str:
            raise OSError

    @activity
    async def work(ctx: ActivityContext, password: str) -> int:
        ctx.logger.warning("%d", password)
        ctx.logger.warning("%s", Mute())
        return 1

    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr(logging.getLogger("flowherd.activity"), "propagate", False)
    assert isinstance(await outcome_of(work, {"password": CANARY}), Completed)


@pytest.mark.fork
@pytest.mark.timeout(60)
async def test_a_failure_in_an_isolate_is_masked_wherever_it_shows(caplog: pytest.LogCaptureFixture) -> None:
    """N19: message, traceback, its logger's lines, a variable, and a name of the settings."""
    parameters = {"login": {"password": CANARY, "pin_code": "canary-pin"}}
    with running_forker() as forker, caplog.at_level(logging.DEBUG):
        async with workplace(forker, env={"MY_API_KEY": "canary-env"}) as place:
            outcome = await asyncio.wait_for(place.outcome("leak", parameters), CEILING_S)
    assert outcome.message == "refused ***, ***, ***"
    assert "activity_failed" in logged(caplog)
    assert "canary" not in logged(caplog)
