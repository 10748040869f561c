"""Evaluates the expression inside `{{…}}` with minijinja, as the server does, in bounded memory (faults.md N20).

Paths such as `fetch.out[0]` are looked up here and passed by value: they keep types and order, a key may contain `-`,
and methods of Python objects cannot be reached. Three rules limit minijinja itself: its fuel, only the filters of
`FILTERS`, and `*` only on numbers and text, since it repeats a list without using fuel.
"""

import re
import threading
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import minijinja
import msgspec

MAX_EXPRESSION = 4096  # characters
MAX_BUILT = 64 * 2**20  # characters of text, plus 8 for each value, that all templates of one step may build
FUEL = 1_000_000  # per expression; minijinja uses 1 for an operation, an item, or 64 bytes of text

_STRING = r""""(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'"""
_NAME = r"[A-Za-z_]\w*(?:-[A-Za-z_]\w*)*"
_STEP = rf"\s*\.\s*({_NAME}|\d+)|\s*\[\s*(-?\d+|{_STRING})\s*\]"
_TOKEN = re.compile(
    rf"(?P<space>\s+)|(?P<string>{_STRING})|(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"
    rf"|(?P<path>(?P<root>{_NAME})(?:{_STEP})*)|(?P<op>\*\*|//|[=!<>]=|[][(){{}}<>.,:|~+*/%=-])",
    re.DOTALL | re.ASCII,
)
_STEPS = re.compile(_STEP, re.DOTALL | re.ASCII)
_KEYWORD_ARGUMENT = re.compile(r"\s*=(?!=)")
_ALIAS = re.compile(r"_(\d+)_(?:\.deeper)?")
VALUE = "value"
_TIMES = "|_number * - - "  # left a number or text; right a number, since only numbers can be negated
_WORDS = {"and", "or", "not", "in", "is", "if", "else", "true", "True", "false", "False", "none", "None"}
FILTERS = {
    "abs", "bool", "capitalize", "coalesce", "count", "d", "default", "dictsort", "first", "float", "int", "items",
    "join", "last", "length", "list", "lower", "max", "min", "replace", "reverse", "round", "sort", "split", "string",
    "sum", "title", "tojson", "trim", "unique", "upper",
}  # fmt: skip


class TemplateError(ValueError):
    """An expression that cannot be parsed, names something undefined or builds too much."""


class Names(Protocol):
    """The top-level names of an expression: a dict, or an object that reads them lazily."""

    def get(self, key: str, default: Any, /) -> Any:
        """Returns the value of `key`, or `default`."""


class _Undefined:
    def __repr__(self) -> str:
        return "undefined"


UNDEFINED = _Undefined()


class Room:
    """The remaining space for the results of one step's templates."""

    def __init__(self, size: int = MAX_BUILT) -> None:
        self._size = self._left = size

    def take(self, value: Any) -> None:
        """Subtracts the size of `value`, counting a shared object as often as it is used.

        Raises:
            TemplateError: there is no room for it, or it is not a JSON value.

        """
        waiting = [value]
        while waiting:
            item = waiting.pop()
            self._left -= 8
            if isinstance(item, str):
                self._left -= len(item)
            elif isinstance(item, dict):
                if not all(isinstance(key, str) for key in item):
                    raise TemplateError("the keys of an object must be text")
                self._left -= sum(map(len, item))
                waiting.extend(item.values())
            elif isinstance(item, list | tuple):
                self._left -= 8 * len(item)  # before it is walked
                if self._left >= 0:
                    waiting.extend(item)
            elif item is not None and not isinstance(item, int | float):
                raise TemplateError(f"{type(item).__name__} is no JSON value")
            if self._left < 0:
                raise TemplateError(f"the templates build more than {self._size >> 20} MiB")


class _Path(NamedTuple):
    """A name followed by constant keys."""

    text: str
    root: str
    keys: tuple[str | int, ...]

    def value(self, scope: Names) -> Any:
        value = scope.get(self.root, UNDEFINED)
        for key in self.keys:
            match value:
                case _Undefined():
                    raise TemplateError(f"'{self.text}' is undefined")
                case dict():
                    value = value.get(key, UNDEFINED)
                case list() | str() if isinstance(key, int) and -len(value) <= key < len(value):
                    value = value[key]
                case _:
                    value = UNDEFINED
        return value


def evaluate(expression: str, scope: Names, room: Room) -> Any:
    """Evaluates one expression, such as `fetch.image` or `check.status == "ok"`; the value may be UNDEFINED.

    Raises:
        TemplateError: a broken expression, an attribute of an undefined value, or no room.

    """
    source = expression.strip()
    parts = _compiled(source)
    if len(parts) == 1 and isinstance(parts[0], _Path):
        value = parts[0].value(scope)
        if value is not UNDEFINED:
            room.take(value)
        return value
    return _Evaluation(source, parts, scope, room).value()


class _Evaluation:
    def __init__(self, source: str, parts: tuple[str | _Path, ...], scope: Names, room: Room) -> None:
        self._source = source
        self._room = room
        self._paths: list[_Path] = []
        self._values: dict[str, Any] = {}
        self._text = "".join(part if isinstance(part, str) else self._alias(part, scope) for part in parts)

    def _alias(self, path: _Path, scope: Names) -> str:
        """Returns a plain name for a path; a path through an undefined value fails only if it is evaluated."""
        name = f"_{len(self._paths)}_"
        self._paths.append(path)
        try:
            value = path.value(scope)
        except TemplateError:
            return f"{name}.deeper"
        if value is not UNDEFINED:
            self._room.take(value)
            self._values[name] = value
        return name

    def value(self) -> Any:
        """Returns the result, or UNDEFINED, for which the binding returns None."""
        value = self._ask(self._text)
        if value is None and not self._ask(f"({self._text}) is defined"):
            return UNDEFINED
        if type(value) is int:  # the binding turns 2.0 into 2
            value = msgspec.json.decode(self._ask(f"({self._text})|tojson").encode())
        self._room.take(value)
        return value

    def _ask(self, text: str) -> Any:
        try:
            return _local.environment.eval_expr(text, **self._values)
        except TemplateError:
            raise
        except (minijinja.TemplateError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            message = error.message if isinstance(error, minijinja.TemplateError) else str(error)
            message = _ALIAS.sub(lambda alias: self._paths[int(alias[1])].text, message)
            raise TemplateError(f"cannot evaluate '{self._source}': {message}") from error


class _Local(threading.local):
    """A minijinja environment for each thread, since one calls its filters with a lock held."""

    def __init__(self) -> None:
        self.environment = minijinja.Environment(
            undefined_behavior="strict",
            fuel=FUEL,
            pycompat=False,
            filters={"coalesce": _coalesce, "_number": _number, "_json": _json},
        )
        for name in tuple(self.environment.globals):
            self.environment.remove_global(name)


def _coalesce(value: Any, fallback: Any) -> Any:
    return fallback if value is None else value


def _number(value: Any) -> Any:
    if not isinstance(value, int | float | str):
        raise TemplateError("* multiplies numbers and repeats text")
    return value


def _json(value: Any) -> str:
    Room(MAX_BUILT // 4).take(value)  # JSON text within JSON text can double in size
    return msgspec.json.encode(value).decode()


_local = _Local()


@lru_cache(maxsize=1024)
def _compiled(source: str) -> tuple[str | _Path, ...]:
    """Splits an expression into text for minijinja and paths to look up."""
    if len(source) > MAX_EXPRESSION:
        raise TemplateError(f"an expression may have at most {MAX_EXPRESSION} characters")
    if not source:
        raise TemplateError("an empty expression")
    pieces: list[str | _Path] = []
    at, before = 0, ""  # `before` is the last token, or VALUE after the end of an operand
    while at < len(source):
        token = _TOKEN.match(source, at)
        if token is None:
            raise TemplateError(f"cannot parse '{source}' at '{source[at:]}'")
        at = token.end()
        match token.lastgroup:
            case "space":
                pieces.append(" ")
            case "path":
                piece, before = _word(token, before)
                pieces.append(piece)
                at = token.end("root") if isinstance(piece, str) else at
            case "op":
                if token[0] == "(" and before == VALUE:
                    raise TemplateError(f"cannot parse '{source}': there is nothing to call")
                pieces.append(_TIMES if token[0] == "*" else token[0])
                before = VALUE if token[0] in ")]}" else token[0]
            case _:
                pieces.append(token[0])
                before = VALUE
    return tuple(pieces)


def _word(token: re.Match[str], before: str) -> tuple[str | _Path, str]:
    """Returns a path, or a word that is not a path, and the new value of `before`."""
    word = token["root"]
    if before == "|":
        if word not in FILTERS:
            raise TemplateError(
                f"filter '{word}' is not one of the embedded engine's: {', '.join(sorted(FILTERS))}"
            )
        return "_json" if word == "tojson" else word, word
    if before == ".":
        return f"['{word}']", VALUE
    if before == "is":  # `is not defined` too: the word after `is` or `is not` is the name of a test
        return word, "is" if word == "not" else word
    if word in _WORDS or _KEYWORD_ARGUMENT.match(token.string, token.end("root")):
        return word, word
    if word == "null":
        return "none", VALUE
    return _Path(token[0], word, tuple(_key(step) for step in _STEPS.finditer(token[0]))), VALUE


def _key(step: re.Match[str]) -> str | int:
    written: str = step[1] or step[2]
    if re.fullmatch(r"-?\d+", written):
        return int(written)
    return re.sub(r"\\(.)", r"\1", written[1:-1]) if written[0] in "'\"" else written
