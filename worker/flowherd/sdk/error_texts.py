"""Describes a handler's exceptions: briefly for the engine, in full for the log, without parameter values."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError
from pydantic_core.core_schema import ErrorType

from flowherd import user_code
from flowherd.counted import counted
from flowherd.cut_middle import cut_middle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from flowherd.user_code import Frame

MAX_MESSAGE_BYTES = 8192  # protocol.md §7: the message is shown in the API
MAX_TRACE_CHARS = 2400  # a log line holds 4 KiB, including ids and escapes
_MAX_WORDS = 400  # characters of each exception's message in a traceback
_MAX_PART = 700  # characters of each exception in a chain that is too long
MAX_CHAIN = 10  # causes and group members written to the log

_SURROGATES_AND_NUL = dict.fromkeys((0, *range(0xD800, 0xE000)), "\ufffd")

# Kinds of pydantic errors whose message may quote the input; the other messages name types and limits only.
_QUOTING = frozenset(
    """value_error assertion_error union_tag_invalid url_parsing url_syntax_violation json_invalid
    iteration_error get_attribute_error mapping_type uuid_parsing bytes_invalid_encoding date_parsing
    time_parsing datetime_parsing datetime_object_invalid date_from_datetime_parsing
    time_delta_parsing""".split()  # noqa: SIM905  # shorter so
)
_QUOTABLE = frozenset(get_args(ErrorType)) - _QUOTING


def clean_message(text: str) -> str:
    """Returns `text` in a form the engine can store: no NUL or surrogate, at most 8 KiB of UTF-8, never blank."""
    shown = text[:MAX_MESSAGE_BYTES].translate(_SURROGATES_AND_NUL)
    encoded = shown.encode()
    if len(encoded) > MAX_MESSAGE_BYTES or len(text) > MAX_MESSAGE_BYTES:
        shown = encoded[: MAX_MESSAGE_BYTES - 3].decode(errors="ignore") + "…"
    return shown if shown.strip() else "no message"


def describe_exception(exc: BaseException, hide: Callable[[str], str] = str) -> str:
    """Returns the exception's message, or its class name when the message is empty.

    An exception group is described by its first leaf, a pydantic error by its field paths without values.

    Args:
        exc: the exception.
        hide: masks secrets; called before the text is cut, because half of a secret would match nothing.

    """
    return clean_message(hide(_describe(exc)))


def _describe(exc: BaseException) -> str:
    if isinstance(exc, ValidationError):
        return f"{counted(exc.error_count(), 'validation error')} for {exc.title}: {describe_validation(exc)}"
    text = _text_of(exc)
    if isinstance(exc, BaseExceptionGroup):
        leaf = _first_leaf(exc)
        return f"{text.partition(chr(10))[0]}: {type(leaf).__name__}: {_text_of(leaf)}"
    name = type(exc).__name__
    if not text.strip() or (isinstance(exc, SystemExit) and exc.code is None):
        return name
    return text if isinstance(exc, Exception) else f"{name}: {text}"  # a SystemExit's text is a number


def _text_of(exc: BaseException) -> str:
    try:
        return str(exc)
    except BaseException as failure:  # noqa: BLE001  # a __str__ that raises must not prevent the report
        return f"{type(exc).__name__} (its text cannot be shown: {type(failure).__name__})"


def _first_leaf(exc: BaseException) -> BaseException:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc


def describe_validation(exc: ValidationError, prefix: tuple[str, ...] = ()) -> str:
    """Lists at most ten field paths with pydantic's message for each; never input values but null (faults.md A11)."""
    errors = exc.errors(include_url=False, include_context=False)
    shown = [f"{field_path((*prefix, *error['loc']))}: {_need(error)}" for error in errors[:10]]
    if len(errors) > len(shown):
        shown.append(f"and {len(errors) - len(shown)} more")
    return "; ".join(shown)


def _need(error: Any) -> str:
    if error["type"] not in _QUOTABLE:
        return f"is not valid ({error['type']})"
    words = str(error["msg"])
    return f"{words}, not null" if error["input"] is None and words.startswith("Input should") else words


def field_path(parts: Iterable[str | int]) -> str:
    """Writes a path as `items[0].price`; each part is cut at 64 characters."""
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part[:64]}" if path else part[:64]
    return path or "parameters"


@dataclass(frozen=True, slots=True)
class Trace:
    """The traceback of an exception, for the log; never values.

    Attributes:
        text: the traceback from the first user frame on, root cause first, at most `MAX_TRACE_CHARS` long.
        at: the user's innermost frame, `file:line in function`; the first frame of an app that is an installed package;
            "" when only Python's and flowherd's code was called.
        distinct: a key that is equal for failures of the same classes from the same lines.

    """

    text: str
    at: str
    distinct: str


def trace_of(exc: BaseException, hide: Callable[[str], str] = str) -> Trace:
    """Returns the trace of an exception with its causes; see `describe_exception` for the arguments."""
    links = list(_chain(exc))
    stacks = [_stack(link) for link in links]
    places = [user_code.place_of(stack) for stack in stacks]
    described = [_named(type(link).__qualname__, hide(_describe(link))[:_MAX_WORDS]) for link in links]
    parts = [
        (stack, words.translate(_SURROGATES_AND_NUL))
        for stack, words in zip(reversed(stacks), reversed(described), strict=True)
    ]
    distinct = "|".join(
        f"{type(link).__qualname__}@{place}" for link, place in zip(links, places, strict=True)
    )
    return Trace(_fitting(parts, hide), next(filter(None, places), ""), distinct)


def _named(kind: str, words: str) -> str:
    """Returns `kind: words`, the last line of a traceback, or `words` when they begin with the kind already."""
    return words if words == kind or words.startswith(f"{kind}: ") else f"{kind}: {words}"


def report(exc: BaseException, hide: Callable[[str], str] = str) -> str:
    """Returns the text of `trace_of`."""
    return trace_of(exc, hide).text


def _stack(exc: BaseException) -> list[Frame]:
    """Returns the frames of an exception from the first user frame on."""
    return user_code.from_users(list(traceback.walk_tb(exc.__traceback__)))


def _fitting(parts: Sequence[tuple[list[Frame], str]], hide: Callable[[str], str]) -> str:
    """Returns the traceback with as many frames as fit; exceptions between the first and the last are cut first."""
    for most in (12, 6, 3, 2):
        text = "\n\n".join(_shown(stack, most, hide) + words for stack, words in parts)
        if len(text) <= MAX_TRACE_CHARS:
            return text
    ends = {0, len(parts) - 1}
    shown = [
        _shown(stack, 2, hide) + words if number in ends else words
        for number, (stack, words) in enumerate(parts)
    ]
    text = "\n\n".join(one if len(one) <= _MAX_PART else cut_middle(one, _MAX_PART) for one in shown)
    return cut_middle(text, MAX_TRACE_CHARS)


def _shown(stack: list[Frame], most: int, hide: Callable[[str], str]) -> str:
    """Formats at most `most` frames: the first third of them from the start of the stack, the others from its end."""
    if len(stack) <= most:
        return _lines_of(stack, hide)
    head = max(1, most // 3)
    tail = most - head
    left_out = f"  … {len(stack) - most} frames left out …\n"
    return _lines_of(stack[:head], hide) + left_out + _lines_of(stack[-tail:], hide)


def _lines_of(stack: list[Frame], hide: Callable[[str], str]) -> str:
    lines = traceback.StackSummary.extract(iter(stack)).format()
    return hide("".join(lines)).translate(_SURROGATES_AND_NUL)


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """Yields the exception, its causes and its group members, each once, at most `MAX_CHAIN` in all."""
    waiting, seen = [exc], set[int]()
    while waiting and len(seen) < MAX_CHAIN:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        if isinstance(link, BaseExceptionGroup):
            waiting.extend(link.exceptions[:MAX_CHAIN])
        cause = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
        if cause is not None:
            waiting.append(cause)
