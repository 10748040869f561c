"""Masks secrets in the lines that a handler logs about a failure."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Any

from flowherd.sdk.error_texts import report
from flowherd.sdk.redaction import hiding

if TYPE_CHECKING:
    from flowherd.sdk.run_state import RunState


def masked_line(
    state: RunState, msg: Any, args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Returns message, arguments and options for the logger; those without a secret are unchanged.

    An exception whose traceback shows a secret becomes the line's `exception`, as masked text.
    """
    hide = hiding(state)
    try:
        text = str(msg) % _as_logging_takes(args) if args else str(msg)
    except Exception:  # noqa: BLE001 - a message's __str__ may raise anything
        return msg, args, options  # logging itself reports what is wrong with it
    if (shown := hide(text)) != text:
        msg, args = "%s", (shown,)
    options = dict(options)
    if extra := options.get("extra"):
        options["extra"] = {
            name: hide(value) if isinstance(value, str) else value for name, value in extra.items()
        }
    if (error := _error_of(options.get("exc_info"))) is not None:
        full = "".join(traceback.format_exception(error))
        if hide(full) != full:
            options["exc_info"] = None
            options["extra"] = {**(options.get("extra") or {}), "exception": report(error, hide)}
    return msg, args, options


def _as_logging_takes(args: tuple[Any, ...]) -> Any:
    """Returns a single mapping itself, as the standard library formats it; else the tuple."""
    return args[0] if len(args) == 1 and args[0] and isinstance(args[0], dict) else args


def _error_of(exc_info: Any) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info else None
