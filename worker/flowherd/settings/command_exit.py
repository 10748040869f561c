"""Calls a command and returns its exit code; wrong arguments and settings become lines on stderr."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any, TypeVar

from flowherd.exit_codes import Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_Result = TypeVar("_Result")
_NO_OUTPUT = {errno.ENOSPC, errno.EDQUOT, errno.EPIPE}


def call(program: Callable[..., Any], name: str, words: Sequence[str]) -> Any:
    """Calls a cyclopts program as `exit_code_of` does; wrong words become lines on stderr too."""
    from cyclopts import CycloptsError  # noqa: PLC0415 - a host needs no parser

    def parsed() -> Any:
        try:
            return program(words, exit_on_error=False, print_error=True)
        except CycloptsError as error:
            command = " ".join((name, *(error.command_chain or ())))
            sys.stderr.write(f"flowherd: see {command} --help\n")
            return Exit.USAGE
        except UnicodeEncodeError:
            wrong = next((word for word in words if not _is_utf8(word)), None)
            if wrong is None:
                raise
            sys.stderr.write(f"flowherd: {wrong!r}: should be UTF-8\n")
            return Exit.USAGE

    return exit_code_of(parsed)


def _is_utf8(word: str) -> bool:
    return word == word.encode(errors="replace").decode()


def exit_code_of(command: Callable[[], _Result | None]) -> _Result | int:
    """Returns what a command returns, `Exit.CLEAN` for None; errors in settings become lines on stderr and a code."""
    try:
        result = command()
        sys.stdout.flush()
    except OSError as error:
        if error.errno not in _NO_OUTPUT:
            raise
        # the interpreter flushes stdout again at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stderr.write(f"flowherd: the output cannot be written: {error.strerror}\n")
        return Exit.INTERNAL
    except Exception as error:
        from flowherd.errors import ConfigurationError  # noqa: PLC0415 - 40 ms that --help need not take
        from flowherd.logs import visible  # noqa: PLC0415 - as above

        if not isinstance(error, ConfigurationError):
            raise
        for line in str(error).splitlines():
            sys.stderr.write(f"flowherd: {visible(line)}\n")
        return Exit.USAGE
    return Exit.CLEAN if result is None else result
