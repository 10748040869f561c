"""The expression inside `{{…}}`: parsing and evaluating one of them; it has no state and does no I/O.

The server renders with minijinja in strict mode; this is the part of its language that definitions use:
dotted names, indices, literals, comparisons, `and`/`or`/`not`, and the filters in filters.py.
"""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any, Protocol

from .filters import FILTERS, UNDEFINED, text

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Names", "TemplateError", "evaluate"]


class Names(Protocol):
    """Where an expression finds its top-level names: a dict, or something that reads them when asked."""

    def get(self, key: str, default: Any, /) -> Any:
        """The value of `key`, or `default`."""


class TemplateError(ValueError):
    """An expression that cannot be parsed or names something undefined."""


_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    |(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*(?:-[A-Za-z_][A-Za-z0-9_]*)*)
    |(?P<op>==|!=|<=|>=|[<>.\[\](),|~+*/%-]))""",
    re.VERBOSE,
)
_MAX_EXPRESSION = 4096
_LITERALS = {
    "true": True,
    "True": True,
    "false": False,
    "False": False,
    "none": None,
    "None": None,
    "null": None,
}
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "in": lambda item, container: item in container,
}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "%": operator.mod,
    "~": lambda left, right: text(left) + text(right),
}


_TAKES_UNDEFINED = {"default", "coalesce"}


def evaluate(expression: str, scope: Names) -> Any:
    """The value of one expression, e.g. `fetch.image` or `check.status == "ok"`; it may be UNDEFINED.

    Raises:
        TemplateError: a broken expression, or something asked of an undefined value.

    """
    parser = _Parser(expression, scope)
    try:
        value = parser.parse()
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        if isinstance(error, TemplateError):
            raise
        raise TemplateError(f"cannot evaluate '{expression.strip()}': {error}") from error
    return value


class _Parser:
    """Recursive descent that evaluates as it goes: every expression is used once."""

    def __init__(self, expression: str, scope: Names) -> None:
        self._source = expression.strip()
        self._scope = scope
        self._tokens = _tokens(self._source)
        self._at = 0

    def parse(self) -> Any:
        value = self._or()
        if self._at < len(self._tokens):
            raise TemplateError(f"cannot parse '{self._source}' at '{self._tokens[self._at][1]}'")
        return value

    def _peek(self) -> str:
        """The next operator or name, empty at the end or at a literal."""
        if self._at < len(self._tokens):
            kind, word = self._tokens[self._at]
            return word if kind in {"op", "name"} else ""
        return ""

    def _take(self, *words: str) -> str:
        word = self._peek()
        if word and word in words:
            self._at += 1
            return word
        return ""

    def _expect(self, word: str) -> None:
        if not self._take(word):
            raise TemplateError(f"cannot parse '{self._source}': '{word}' expected")

    def _or(self) -> Any:
        value = self._and()
        while self._take("or"):
            right = self._and()
            value = value if _defined(value, self._source) else right
        return value

    def _and(self) -> Any:
        value = self._not()
        while self._take("and"):
            right = self._not()
            value = right if _defined(value, self._source) else value
        return value

    def _not(self) -> Any:
        if self._take("not"):
            return not _defined(self._not(), self._source)
        return self._comparison()

    def _comparison(self) -> Any:
        left = self._sum()
        while word := self._take(*_COMPARISONS):
            right = self._sum()
            left = _COMPARISONS[word](_defined(left, self._source), _defined(right, self._source))
        return left

    def _sum(self) -> Any:
        left = self._product()
        while word := self._take("+", "-", "~"):
            right = self._product()
            left = _ARITHMETIC[word](_defined(left, self._source), _defined(right, self._source))
        return left

    def _product(self) -> Any:
        left = self._filtered()
        while word := self._take("*", "/", "%"):
            right = self._filtered()
            left = _ARITHMETIC[word](_defined(left, self._source), _defined(right, self._source))
        return left

    def _filtered(self) -> Any:
        value = self._signed()
        while self._take("|"):
            name = self._peek()
            self._at += 1
            if name not in FILTERS:
                raise TemplateError(
                    f"filter '{name}' is not one of the embedded engine's: {', '.join(FILTERS)}"
                )
            arguments = self._arguments() if self._take("(") else []
            if name not in _TAKES_UNDEFINED:
                _defined(value, self._source)
            value = FILTERS[name](value, *arguments)
        return value

    def _arguments(self) -> list[Any]:
        values: list[Any] = []
        while not self._take(")"):
            values.append(self._or())
            if not self._take(","):
                self._expect(")")
                break
        return values

    def _signed(self) -> Any:
        if self._take("-"):
            return -_defined(self._signed(), self._source)
        return self._postfix()

    def _postfix(self) -> Any:
        value = self._primary()
        while word := self._take(".", "["):
            if word == ".":
                kind, member = self._next()
                key: Any = int(member) if kind == "number" else member
            else:
                key = self._or()
                self._expect("]")
            value = _member(_defined(value, self._source), key)
        return value

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise TemplateError(f"cannot parse '{self._source}': it ends too early")
        self._at += 1
        return self._tokens[self._at - 1]

    def _primary(self) -> Any:
        kind, word = self._next()
        match kind, word:
            case "number", _:
                value: Any = float(word) if any(mark in word for mark in ".eE") else int(word)
            case "string", _:
                value = re.sub(r"\\(.)", r"\1", word[1:-1])
            case "op", "(":
                value = self._or()
                self._expect(")")
            case "op", "[":
                value = self._list()
            case "name", _:
                value = _LITERALS[word] if word in _LITERALS else self._scope.get(word, UNDEFINED)
            case _:
                raise TemplateError(f"cannot parse '{self._source}' at '{word}'")
        return value

    def _list(self) -> list[Any]:
        values: list[Any] = []
        while not self._take("]"):
            values.append(self._or())
            if not self._take(","):
                self._expect("]")
                break
        return values


def _tokens(source: str) -> list[tuple[str, str]]:
    if len(source) > _MAX_EXPRESSION:
        raise TemplateError(f"an expression may have at most {_MAX_EXPRESSION} characters")
    found: list[tuple[str, str]] = []
    at = 0
    while at < len(source):
        token = _TOKEN.match(source, at)
        if token is None or token.lastgroup is None:
            raise TemplateError(f"cannot parse '{source}' at '{source[at:]}'")
        found.append((token.lastgroup, token.group(token.lastgroup)))
        at = token.end()
    if not found:
        raise TemplateError("an empty expression")
    return found


def _defined(value: Any, source: str) -> Any:
    if value is UNDEFINED:
        raise TemplateError(f"'{source}' is undefined")
    return value


def _member(value: Any, key: Any) -> Any:
    match value:
        case dict():
            return value.get(key, UNDEFINED)
        case list() | str() if isinstance(key, int) and -len(value) <= key < len(value):
            return value[key]
        case _:
            return UNDEFINED
