"""Words for what went wrong in a handler: short for the engine, complete for the log, never values."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError
from pydantic_core.core_schema import ErrorType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_MESSAGE_BYTES = 8192  # protocol.md §7: the message is shown in the API
MAX_REPORT_CHARS = 3000  # a log line holds 4 KiB
MAX_CHAIN = 10  # causes and group members written to the log

_SURROGATES_AND_NUL = dict.fromkeys((0, *range(0xD800, 0xE000)), "\ufffd")

# Kinds of pydantic errors whose message may quote the input; the others speak of types and limits only.
_QUOTING = frozenset(
    """value_error assertion_error union_tag_invalid url_parsing url_syntax_violation json_invalid
    iteration_error get_attribute_error mapping_type uuid_parsing bytes_invalid_encoding date_parsing
    time_parsing datetime_parsing datetime_object_invalid date_from_datetime_parsing
    time_delta_parsing""".split()  # noqa: SIM905  # shorter so
)
_QUOTABLE = frozenset(get_args(ErrorType)) - _QUOTING


def clean_message(text: str) -> str:
    """Returns `text` as the engine can store it: no NUL or surrogate, at most 8 KiB of UTF-8, never blank."""
    shown = text[:MAX_MESSAGE_BYTES].translate(_SURROGATES_AND_NUL)
    encoded = shown.encode()
    if len(encoded) > MAX_MESSAGE_BYTES or len(text) > MAX_MESSAGE_BYTES:
        shown = encoded[: MAX_MESSAGE_BYTES - 3].decode(errors="ignore") + "…"
    return shown if shown.strip() else "no message"


def describe_exception(exc: BaseException, hide: Callable[[str], str] = str) -> str:
    """Returns one clean line or more that say what happened, the class name when the exception says nothing.

    An exception group is described by its first leaf; a pydantic error by field paths without values.

    Args:
        exc: what was raised.
        hide: takes secrets out before the text is cut: half of one would match nothing.

    """
    return clean_message(hide(_describe(exc)))


def _describe(exc: BaseException) -> str:
    if isinstance(exc, ValidationError):
        return f"{exc.error_count()} validation errors for {exc.title}: {describe_validation(exc)}"
    text = _text_of(exc)
    if isinstance(exc, BaseExceptionGroup):
        leaf = _first_leaf(exc)
        return f"{text.partition(chr(10))[0]}: {type(leaf).__name__}: {_text_of(leaf)}"
    name = type(exc).__name__
    if not text.strip() or (isinstance(exc, SystemExit) and exc.code is None):
        return name
    return text if isinstance(exc, Exception) else f"{name}: {text}"  # the text of an exit is but a number


def _text_of(exc: BaseException) -> str:
    try:
        return str(exc)
    except BaseException as failure:  # noqa: BLE001  # a hostile __str__ must not decide how we report
        return f"{type(exc).__name__} (its text cannot be shown: {type(failure).__name__})"


def _first_leaf(exc: BaseException) -> BaseException:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc


def describe_validation(exc: ValidationError, prefix: tuple[str, ...] = ()) -> str:
    """Lists at most ten field paths with what each needs; input values never appear (faults.md A11)."""
    errors = exc.errors(include_url=False, include_context=False, include_input=False)
    shown = [f"{field_path((*prefix, *error['loc']))}: {_need(error)}" for error in errors[:10]]
    if len(errors) > len(shown):
        shown.append(f"and {len(errors) - len(shown)} more")
    return "; ".join(shown)


def _need(error: Any) -> str:
    return str(error["msg"]) if error["type"] in _QUOTABLE else f"is not valid ({error['type']})"


def field_path(parts: Iterable[str | int]) -> str:
    """Writes a path as `items[0].price`; a part is cut at 64 characters."""
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part[:64]}" if path else part[:64]
    return path or "parameters"


def report(exc: BaseException, hide: Callable[[str], str] = str) -> str:
    """Returns the traceback for the log, innermost cause first, bounded, with described messages only.

    See `describe_exception` for the arguments.
    """
    parts: list[str] = []
    for link in reversed(list(_chain(exc))):
        frames = traceback.format_list(traceback.extract_tb(link.__traceback__, limit=-12))
        parts.append(f"{hide(''.join(frames))}{type(link).__qualname__}: {hide(_describe(link))[:1000]}")
    text = "\n\n".join(parts).translate(_SURROGATES_AND_NUL)
    return text if len(text) <= MAX_REPORT_CHARS else "…" + text[-MAX_REPORT_CHARS:]


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """The exception, then its causes and group members, each once, at most `MAX_CHAIN` in all."""
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
