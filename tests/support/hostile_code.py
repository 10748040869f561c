"""Seeded generators of values that no handler should return or raise."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections import namedtuple
from dataclasses import make_dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from hostile_replies import Chance
from pydantic import BaseModel, ValidationError

from flowherd import ActivityError, ActivityResult

DEPTHS = [100, 117, 118, 119, 120, 121, 127, 128, 2000]
COSTS = [Decimal("NaN"), -1, "abc", 1e400, "1e-400", Decimal("1e12"), 0.1, "٣", True, [], None]
COUNTS = [0, 1, -1, 2**32 - 1, 2**32, 2**70, True, 1.5]


class Code(Chance):
    """Generates return values, exceptions and names."""

    def output(self) -> Any:
        """Returns any value that a handler may return, often one that JSON cannot represent."""
        kind = self.randrange(6)
        if kind == 0:
            return self.value()
        if kind == 1:
            return ActivityResult.value(self.text(), self.value()).with_cost(self.choice(COSTS))
        return {f"k{number}": self.value() for number in range(self.randint(1, 4))} | {self.text(): 1}

    def value(self, depth: int = 3) -> Any:
        """Returns one value."""
        if depth and self.random() < 0.4:
            inner = [self.value(depth - 1) for _ in range(self.randint(0, 3))]
            return self.choice([inner, tuple(inner), {self.text(): item for item in inner}, Row(inner, 1)])
        return self.choice([self.json, self._odd_value, self.text])()

    def _odd_value(self) -> Any:
        cycle: list[Any] = []
        cycle.append({"again": cycle})
        deep: Any = self.text()
        for _ in range(self.choice(DEPTHS)):
            deep = self.choice([[deep], {"d": deep}])
        # fmt: off - a table reads better as it is
        odd: list[Any] = [
            cycle,
            deep,
            b"\xff",
            {1, 2},
            1j,
            object(),
            type,
            print,
            ...,
            range(3),
            (n for n in "ab"),
            Hostile(),
            Decimal("sNaN"),
            Decimal("Infinity"),
            Decimal("1e-400"),
            Decimal("1e400"),
            float("nan"),
            2**80,
            dt.datetime.max.replace(tzinfo=dt.UTC),
            dt.timedelta.max,
            dt.time(1),
            Path("a\udcffb"),
            {1: 2},
            {None: 1},
            {(1,): 1},
            Model.model_construct(x=self.text()),
            make_dataclass("D", ["a"])(cycle),
            Text(self.text()),
            Whole(2**70),
            Fraction(0.5),
            UUID(int=5),
            "x" * self.choice([10, 100_000]),
            ["\\u0000" * 3],
            {"\\": "\\\\u0000"},
        ]
        # fmt: on
        return self.choice(odd)

    def exception(self) -> BaseException:
        """Returns any exception that a handler may raise."""
        text = self.text() * self.choice([1, 1, 1, 3000])
        made = self._one_exception(text)
        if self.random() < 0.2 and isinstance(made, Exception):
            for _ in range(self.choice([1, 40])):
                made = ExceptionGroup(text, [made, OSError(self.text())])
        if self.random() < 0.2:
            made.__cause__ = self._one_exception(self.text())
            made.__cause__.__context__ = made
        return made

    def _one_exception(self, text: str) -> BaseException:
        named = type(self.tame_text() or "N", (Exception,), {"__module__": text})
        code: Any = self.choice([text, "", " ", "\0", None, 7, b"x", Text(text), "x" * 500, "\ud800" * 3])
        retryable: Any = self.choice([True, False, None, Hostile()])
        # fmt: off - a table reads better as it is
        return self.choice(
            [
                ValueError(text),
                KeyError(text),
                OSError(5, text, text),
                Unsayable(text),
                named(text),
                _invalid(text),
                ActivityError(text, code=code, retryable=retryable),
                ActivityError(Text(text), code=code),
                SystemExit(text),
                KeyboardInterrupt(text),
                GeneratorExit(text),
                asyncio.CancelledError(text),
                StopIteration(text),
                StopAsyncIteration(text),
                MemoryError(),
                RecursionError(text),
                Exception(),
                UnicodeDecodeError("utf-8", b"\xff", 0, 1, text),
                Exception(text, Hostile()),
                BaseException(text),
            ]
        )
        # fmt: on

    def usage(self) -> dict[str, Any]:
        """Returns arguments for `ctx.record_usage`."""
        arguments = {
            "provider": self.text(),
            "model": "m",
            "cost_usd": None,
            "input_tokens": 1,
            "output_tokens": 1,
        }
        odd = {"model": self.text(), "cost_usd": self.choice(COSTS), "input_tokens": self.choice(COUNTS)}
        odd["cache_storage_token_hours"] = self.choice(
            [*COUNTS, "1", float("nan"), float("inf"), 1e300, 5e-324]
        )
        name = self.choice(list(odd))
        return arguments | {name: odd[name]}

    def file_name(self) -> str:
        """Returns a file name, often one that points outside the folder."""
        parts = ["a", "..", ".", "sub", "a.txt", "-", "_", "CON", "%2e%2e", "~", self.text(3), "x" * 300]
        climb = [
            self.choice(["a", "sub", "_"]),
            *[".."] * self.randint(1, 4),
            self.choice(["x", "source", "tmp"]),
        ]
        return "/".join(self.choice([climb, [self.choice(parts)], self.choices(parts, k=self.randint(1, 5))]))


def _invalid(text: str) -> ValidationError:
    try:
        Model.model_validate({"x": text, text: text})
    except ValidationError as error:
        return error
    return ValidationError.from_exception_data(text, [])


Row = namedtuple("Row", "a b")  # noqa: PYI024  # users return them


class Text(str):
    """A str subclass whose methods return wrong values."""

    __slots__ = ()

    def __str__(self) -> str:
        return "\0" + self[:]


class Whole(int):
    """An int subclass with more than 64 bits."""


class Fraction(float):
    """A float subclass."""


class Model(BaseModel):
    """A model, also built without validation."""

    x: int


class Unsayable(Exception):
    """An exception whose `str` fails."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Hostile:
    """Raises from every special method."""

    def __bool__(self) -> bool:
        raise RuntimeError("neither")

    def __repr__(self) -> str:
        raise SystemError("not to be shown")

    def __getattr__(self, name: str) -> Any:
        raise LookupError(name)
