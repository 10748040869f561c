"""Masks known secrets in texts.

Secrets are looked up only when a failure has a text to mask, so a success costs nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydantic import BaseModel, Secret, SecretBytes, SecretStr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from flowherd.sdk.run_state import RunState

SECRET_NAMES = ("password", "passwd", "secret", "token", "api_key", "authorization", "private_key")
MASK = "***"
MIN_SECRET_CHARS = 4  # shorter ones would mask ordinary words
MIN_LINE_CHARS = 16  # a line of a multi-line secret that is at least this long is masked on its own
MAX_LOOKED_AT = 500_000  # values searched in one call
MAX_SECRETS = 10_000  # of one call: each is searched in each text
_PLAIN = (str, int, float, bytes, type(None))  # secret only under a secret name
_TRIVIAL = frozenset({"true", "false", "none", "null"})
_NUMBER = re.compile(r"[+-]?[\d.]+", re.ASCII)
_FEWEST_DIGITS = 4
_SCHEMES = frozenset({"bearer", "basic", "token"})


def hiding(state: RunState, *arguments: Any) -> Callable[[str], str]:
    """Looks up the secrets of one attempt and returns a function that masks them in a text (faults.md A12, N19).

    Args:
        state: the attempt's state; its raw parameters are searched.
        arguments: the arguments its handler was called with.

    """
    environment = state.environment
    values = (state.activity.parameters, *arguments)
    known = (
        *environment.secrets,
        *islice(secrets_in(values, environment.secret_names), MAX_SECRETS),
        *secrets_of_process(environment.secret_names),
    )
    return masking(known)


def mask(text: str, secrets: Iterable[str]) -> str:
    """Masks every secret that is not trivial, in each form in which a text may show it."""
    return masking(secrets)(text)


def masking(secrets: Iterable[str]) -> Callable[[str], str]:
    """Returns a function that works like `mask`, for many texts."""
    return partial(_replace, shown=_forms(secrets))


def secrets_of_process(names: Iterable[str] = ()) -> Iterator[str]:
    """Yields the values of environment variables with secret names."""
    tells = _Tells(names)
    for name in list(os.environ):
        if tells(name):
            yield os.environ.get(name, "")


def secrets_in(values: Iterable[Any], names: Iterable[str] = ()) -> Iterator[str]:
    """Yields the text of every pydantic secret in these values, and of every value under a secret name.

    The search is breadth-first, so a long list does not use up the limit before its siblings are searched.

    Args:
        values: parameters and arguments, which may be nested.
        names: secret names in addition to `SECRET_NAMES`.

    """
    tells = _Tells(names)
    waiting: deque[tuple[Any, bool]] = deque([(tuple(values), False)])
    left = MAX_LOOKED_AT
    while waiting:
        value, is_secret = waiting.popleft()
        match value:
            case SecretBytes():
                yield value.get_secret_value().decode(errors="replace")
            case SecretStr() | Secret():
                yield str(value.get_secret_value())
            case str() | int() | float():
                yield str(value)
            case bytes():
                yield value.decode(errors="replace")
        for name, item in islice(_pairs(value), left):
            left -= 1
            counts = is_secret or (name is not None and tells(name))
            if counts or not isinstance(item, _PLAIN):
                waiting.append((item, counts))


def _pairs(value: Any) -> Iterable[tuple[Any, Any]]:
    """Returns the names and values in a container; items of a list have the name None."""
    if isinstance(value, list | tuple | set | frozenset):
        return ((None, item) for item in value)
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, BaseModel):
        return iter(value)
    if is_dataclass(value) and not isinstance(value, type):
        return ((field.name, getattr(value, field.name, None)) for field in fields(value))
    return ()


class _Tells:
    """True for a name that contains a secret name, in any case, with or without `-` and `_`."""

    def __init__(self, names: Iterable[str]) -> None:
        self._parts = tuple(filter(None, map(_plain, (*SECRET_NAMES, *names))))
        self._known: dict[Any, bool] = {}  # rows repeat the same names

    def __call__(self, name: Any) -> bool:
        if name not in self._known:
            plain = _plain(str(name))
            self._known[name] = any(part in plain for part in self._parts)
        return self._known[name]


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _is_trivial(text: str) -> bool:
    """True for a text that is too short, a boolean, a null, or a number of fewer than four digits."""
    if len(text) < MIN_SECRET_CHARS or text.lower() in _TRIVIAL:
        return True
    return bool(_NUMBER.fullmatch(text)) and sum(map(str.isdigit, text)) < _FEWEST_DIGITS


def _forms(secrets: Iterable[str]) -> list[str]:
    """Returns the texts to replace, longest first: each secret itself, and as repr, JSON and a URL write it."""
    found: set[str] = set()
    for secret in set(secrets):
        for part in _parts(secret.strip()):
            if not _is_trivial(part):
                as_json = json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1]
                found.update((part, repr(part)[1:-1], *as_json, quote(part, safe="", errors="replace")))
    return sorted(found, key=len, reverse=True)


def _parts(secret: str) -> Iterator[str]:
    """Yields the secret, its long lines, and the part after the scheme of an Authorization header."""
    yield secret
    if "\n" in secret:
        yield from (line for line in map(str.strip, secret.split("\n")) if len(line) >= MIN_LINE_CHARS)
    scheme, _, rest = secret.partition(" ")
    if scheme.lower() in _SCHEMES:
        yield rest.strip()


def _replace(text: str, shown: list[str]) -> str:
    for form in shown:
        text = text.replace(form, MASK)
    return text
