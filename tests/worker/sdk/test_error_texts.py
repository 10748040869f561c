"""Messages the engine can store and people can read (protocol.md §7, faults.md A5, A6, A12)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr, ValidationError

from flowherd.sdk.error_texts import MAX_MESSAGE_BYTES, clean_message, describe_exception, report
from flowherd.sdk.redaction import mask, secrets_in


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(st.sampled_from("a\0\ud800\udfffé😀 \n"), max_size=200), st.integers(1, 200))
def test_a_cleaned_message_can_always_be_stored(text, times):
    """A5: no NUL, no surrogate, at most 8 KiB, never blank."""
    cleaned = clean_message(text * times)
    assert cleaned.strip()
    assert "\0" not in cleaned
    assert len(cleaned.encode()) <= MAX_MESSAGE_BYTES


def test_a_message_of_10_mb_is_cut_and_says_so():
    cleaned = clean_message("é" * 10_000_000)
    assert cleaned.endswith("…")
    assert len(cleaned.encode()) <= MAX_MESSAGE_BYTES


def test_a_short_message_is_left_alone():
    assert clean_message("no answer in 30 s") == "no answer in 30 s"


class _Mute(Exception):
    def __str__(self):
        raise SystemExit(1)


@pytest.mark.parametrize(
    ("exc", "words"),
    [
        (ValueError(), "ValueError"),
        (ValueError("  "), "ValueError"),
        (ValueError("boom"), "boom"),
        (_Mute(), "_Mute (its text cannot be shown: SystemExit)"),
        (ExceptionGroup("two\nthings", [ExceptionGroup("in", [KeyError("k")])]), "two: KeyError: 'k'"),
        (ValueError("a\0b"), "a\ufffdb"),
    ],
)
def test_every_exception_has_words(exc, words):
    """A5, A6: an empty text is refused by the engine with 422."""
    assert describe_exception(exc).startswith(words)


_CANARY = "canary"


class _Model(BaseModel):
    n: int


def test_a_validation_error_of_the_handler_itself_shows_no_values():
    """A11: pydantic's own text quotes the input."""
    with pytest.raises(ValidationError) as caught:
        _Model(n=_CANARY)  # the report quotes source lines
    assert "canary" not in describe_exception(caught.value)
    assert "canary" not in report(caught.value)
    assert "n: Input should be a valid integer" in describe_exception(caught.value)


def _fail(words):
    try:
        {}["inner"]
    except KeyError as exc:
        raise ValueError(words) from exc


def test_the_report_names_causes_first():
    with pytest.raises(ValueError) as caught:
        _fail("outer")
    text = report(caught.value)
    assert text.index("KeyError: 'inner'") < text.index("ValueError: outer")
    assert "test_error_texts.py" in text


def test_the_report_stays_within_a_log_line():
    with pytest.raises(ValueError) as caught:
        _fail("outer" * 10_000)
    assert len(report(caught.value)) < 4000


def test_a_chain_that_bites_its_tail_ends():
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    assert report(first).count("ValueError") == 2


class _Login(BaseModel):
    user: str
    password: SecretStr
    keys: list[SecretStr]


def test_secrets_among_the_arguments_are_found_and_masked():
    """A12: a driver's exception may quote the password it was given."""
    login = _Login(user="me", password="hunter2!", keys=["abcdefgh"])
    found = list(secrets_in([{"login": login}]))
    assert sorted(found) == ["abcdefgh", "hunter2!"]
    assert mask("login me:hunter2! with abcdefgh failed", found) == "login me:*** with *** failed"


def test_longer_secrets_are_masked_first_and_tiny_ones_not_at_all():
    assert mask("abcdef abcd a", ["abcd", "abcdef", "a", ""]) == "*** *** a"


@pytest.mark.parametrize(
    ("exit_", "words"),
    [
        (SystemExit(3), "SystemExit: 3"),
        (SystemExit("no disk"), "SystemExit: no disk"),
        (SystemExit(), "SystemExit"),
        (KeyboardInterrupt("by hand"), "KeyboardInterrupt: by hand"),
    ],
)
def test_an_exit_is_named_as_one(exit_: BaseException, words: str) -> None:
    """A failure that reads "3" says nothing."""
    assert describe_exception(exit_) == words
