"""Encodes the output of a handler for the engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import msgspec
from pydantic import BaseModel

from flowherd.errors import InvalidOutput
from flowherd.sdk.error_texts import clean_message, describe_exception
from flowherd.sdk.json_conversion import Converter
from flowherd.sdk.plain_json_check import check_unfolded, is_plain

if TYPE_CHECKING:
    from flowherd.activities_and_outcomes import Usage
    from flowherd.sdk.spending import Money

__all__ = ["MAX_OUTPUT_BYTES", "ActivityResult", "clean_message", "describe_exception", "encode_output"]

MAX_OUTPUT_BYTES = 52_428_800 - 65_536  # the engine's limit (protocol.md §6.5), minus space for the envelope

_encode = msgspec.json.Encoder().encode


class ActivityResult:
    """The result of a handler with costs or a failure in it; it has the shapes of the stock SDK.

    Attributes:
        outputs: the output, a value for each name.
        cost_usd: cost of this attempt in US dollars; None if unknown.
        usage: tokens for each provider and model.
        metadata: for tests and logs; the engine stores none.
        failure: code, message and retryable of a failure; None for a success.

    """

    __slots__ = ("cost_usd", "failure", "metadata", "outputs", "usage")

    def __init__(self, outputs: Mapping[str, Any] | None = None) -> None:
        self.outputs: dict[str, Any] = dict(outputs or {})
        self.cost_usd: Money | None = None
        self.usage: tuple[Usage, ...] = ()
        self.metadata: dict[str, Any] | None = None
        self.failure: tuple[str, str, bool] | None = None

    def __repr__(self) -> str:
        if self.failure:
            return f"<ActivityResult error {self.failure[0]}>"
        return f"<ActivityResult {', '.join(self.outputs) or 'empty'}>"

    @classmethod
    def value(cls, name: str, value: Any) -> Self:
        """Returns a result with one output."""
        return cls({name: value})

    @classmethod
    def values(cls, outputs: Mapping[str, Any] | None = None, /, **named: Any) -> Self:
        """Returns a result with several outputs, from a mapping, keywords or both."""
        return cls({**(outputs or {}), **named})

    @classmethod
    def error(cls, message: str, code: str = "EXECUTION_ERROR", *, retryable: bool = True) -> Self:
        """A failure, as if the handler had raised ActivityError."""
        result = cls()
        result.failure = (code, message, retryable)
        return result

    def with_cost(self, cost_usd: Money) -> Self:
        """Sets the cost in US dollars and returns the result."""
        self.cost_usd = cost_usd
        return self

    def with_usage(self, *usage: Usage) -> Self:
        """Adds usage and returns the result."""
        self.usage = (*self.usage, *usage)
        return self

    def with_metadata(self, metadata: Mapping[str, Any]) -> Self:
        """Sets the metadata and returns the result."""
        self.metadata = dict(metadata)
        return self

    @property
    def is_error(self) -> bool:
        """True for a failure."""
        return self.failure is not None


def encode_output(value: Any) -> bytes:
    """Encodes a handler's return value as a JSON object.

    A dict is the output itself, a model or dataclass gives its fields, None gives `{}`, and any other value is put
    under `result`.

    Raises:
        InvalidOutput: the engine would refuse a value or store it wrongly; names the JSON path (protocol.md §6.5).

    """
    output = _as_object(value)
    plain = type(output) is dict and is_plain(output)
    if not plain:
        check_unfolded(output)
        output = Converter().convert(output)
    try:
        body = _encode(output)
    except (UnicodeEncodeError, RecursionError, OverflowError):
        body = b"\\u0000"
    if b"\\u0000" in body and plain:
        body = _encode(Converter().convert(output))  # raises, unless the text contains \u0000 literally
    if len(body) > MAX_OUTPUT_BYTES:
        raise InvalidOutput(
            f"the output has {len(body) / 1e6:.0f} MB, the engine takes 50: upload it as a file"
        )
    return body


def _as_object(value: Any) -> Any:
    """Returns the output object, not checked yet."""
    if type(value) is dict:
        return value
    if value is None:
        return {}
    if isinstance(value, ActivityResult):
        return value.outputs
    if isinstance(value, Mapping):
        return value
    if isinstance(value, BaseModel) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        fields = Converter().fields_of(value, ())
        return fields if isinstance(fields, Mapping) else {"result": fields}
    return {"result": value}
