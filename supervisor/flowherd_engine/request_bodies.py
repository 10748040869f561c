"""Reads request bodies in the server's order of checks: type, size, JSON, fields (protocol.md §1.4)."""

import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from starlette.requests import ClientDisconnect, Request

from .replies import TextError, invalid

T = TypeVar("T")

BODY_LIMIT = 52_428_800
MAX_NESTING = 127  # serde_json stops at its 128th level
MAX_DECIMAL = Decimal(2) ** 96  # the range of the server's decimal type

U32 = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Unsigned = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Amount = str | int | float

_STRINGS_AND_ATOMS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[^\[\]{}"]+', re.DOTALL)
_LONG_INTEGER = re.compile(rb"[0-9]{19}")
_PAIRS = re.compile(rb"\[\]|\{\}")
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Poll(msgspec.Struct):
    """`POST /workers/poll`."""

    worker: str
    worker_id: str
    max_activities: Unsigned = 1


class Heartbeat(msgspec.Struct):
    """`POST /activities/{id}/heartbeat`."""

    worker_id: str


class Usage(msgspec.Struct):
    """An entry of `usage` (protocol.md §6.1)."""

    provider: str
    model: str
    input_tokens: U32 = 0
    output_tokens: U32 = 0
    cache_read_tokens: U32 = 0
    cache_creation_tokens: U32 = 0
    cache_storage_token_hours: Amount | None = None
    cost_usd: Amount | None = None


class Complete(msgspec.Struct):
    """`POST /activities/{id}/complete`."""

    worker_id: str
    output: Any
    cost_usd: Amount | None = None
    usage: list[Usage] | None = None


class ErrorReport(msgspec.Struct):
    """The error of a `fail`."""

    code: str
    message: str
    retryable: bool


class Fail(msgspec.Struct):
    """`POST /activities/{id}/fail`."""

    worker_id: str
    error: ErrorReport
    cost_usd: Amount | None = None
    usage: list[Usage] | None = None


async def read_body(request: Request) -> bytes:
    """Returns the whole body.

    Raises:
        TextError: 413 beyond BODY_LIMIT; the rest is read and dropped first, so that a client that writes
            before it reads gets the reply.

    """
    first = await request.receive()
    body: bytes = first.get("body", b"")
    if first["type"] == "http.request" and not first.get("more_body", False) and len(body) <= BODY_LIMIT:
        return body
    parts, size, message = [body], len(body), first
    while message.get("more_body", False):
        message = await request.receive()
        part = message.get("body", b"")
        size += len(part)
        if size <= BODY_LIMIT:
            parts.append(part)
        else:
            parts.clear()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    if size > BODY_LIMIT:
        raise TextError(413, "Failed to buffer the request body: length limit exceeded")
    return b"".join(parts)


async def read_json(request: Request, decoder: msgspec.json.Decoder[T]) -> tuple[T, bytes]:
    """Returns the decoded body and its bytes.

    Raises:
        TextError: 415, 413, 400 or 422, the errors before a handler.

    """
    if not _is_json(request.headers.get("content-type", "")):
        raise TextError(415, "Expected request with `Content-Type: application/json`")
    body = await read_body(request)
    _check_nesting(body)
    try:
        return decoder.decode(body), body
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # a number beyond the range of a double is a syntax error to the server
        if isinstance(error, msgspec.ValidationError) and "out of range" not in str(error):
            raise TextError(
                422, f"Failed to deserialize the JSON body into the target type: {error}"
            ) from error
        raise TextError(400, f"Failed to parse the request body as JSON: {error}") from error


def _is_json(content_type: str) -> bool:
    essence = content_type.partition(";")[0].strip().lower()
    return essence == "application/json" or (essence.startswith("application/") and essence.endswith("+json"))


def _check_nesting(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") <= MAX_NESTING:
        return
    brackets = _STRINGS_AND_ATOMS.sub(b"", body)
    for _ in range(MAX_NESTING):  # each pass removes the innermost level
        shorter = _PAIRS.sub(b"", brackets)
        if not shorter or shorter == brackets:  # flat enough, or invalid, which the decoder reports
            return
        brackets = shorter
    raise TextError(400, "Failed to parse the request body as JSON: recursion limit exceeded")


def refuse_nul(body: bytes, field: str) -> None:
    """Refuses the NUL character with 422; the server hangs on it (protocol.md fact 15)."""
    if b"\\u0000" in body and _ESCAPED_NUL.search(body):
        raise invalid({field: ["the NUL character (\\u0000) cannot be stored"]})


def as_stored(value: Any, body: bytes) -> Any:
    """Converts integers beyond 64 bits to floats, as the server does (protocol.md §6.5)."""
    if not _LONG_INTEGER.search(body):
        return value
    try:
        return _narrowed(value)
    except OverflowError as error:
        raise TextError(400, "Failed to parse the request body as JSON: number out of range") from error


def _narrowed(value: Any) -> Any:
    match value:
        case dict():
            return {key: _narrowed(item) for key, item in value.items()}
        case list():
            return [_narrowed(item) for item in value]
        case int() if not -(2**63) <= value < 2**64:
            return float(value)
        case _:
            return value


def cost_of(
    cost: Amount | None, usage: list[Usage] | None, faults: dict[str, str | bool]
) -> tuple[str, str | None]:
    """Returns the total cost as a decimal string and the encoded usage; invalid fields are added to `faults`.

    Raises:
        TextError: 422 for a number that is not a decimal.

    """
    if cost is None and usage is None:
        return "0", None
    total = _decimal(cost, "cost_usd")
    faults["cost_usd"] = total < 0 and "Cost must be non-negative"
    for index, entry in enumerate(usage or ()):
        at = f"usage[{index}]"
        spent = _decimal(entry.cost_usd, f"{at}.cost_usd")
        hours = _decimal(entry.cache_storage_token_hours, f"{at}.cache_storage_token_hours")
        faults[f"{at}.provider"] = not entry.provider and "Provider cannot be empty"
        faults[f"{at}.model"] = not entry.model and "Model cannot be empty"
        faults[f"{at}.cost_usd"] = spent < 0 and "Cost must be non-negative"
        faults[f"{at}.cache_storage_token_hours"] = (
            hours < 0 and "Cache storage token-hours must be non-negative"
        )
        total += spent
    return format(total, "f"), None if usage is None else msgspec.json.encode(usage).decode()


def _decimal(amount: Amount | None, field: str) -> Decimal:
    if amount is None:
        return Decimal(0)
    try:
        value = Decimal(str(amount))
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or abs(value) >= MAX_DECIMAL:
        raise TextError(
            422, f"Failed to deserialize the JSON body into the target type: {field}: invalid decimal"
        )
    return value


def path_uuid(request: Request, name: str) -> str:
    """Returns a path segment that must be a UUID, in canonical form.

    Raises:
        TextError: 400.

    """
    written: str = request.path_params[name]
    if _UUID.fullmatch(written):
        return written
    try:
        return str(UUID(written))
    except ValueError as error:
        raise TextError(400, f"Invalid URL: UUID parsing failed: `{name}` is `{written}`") from error
