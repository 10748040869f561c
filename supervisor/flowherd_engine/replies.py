"""Replies in the server's three error shapes (protocol.md §1.4)."""

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

_encode = msgspec.json.Encoder().encode


class ApiError(Exception):
    """Shape A: the JSON envelope `{"error": {"code", "message", "details"?}}`."""

    def __init__(
        self, status: int, code: str, message: str, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.details = details

    def reply(self) -> Response:
        """Returns the response to send."""
        error: dict[str, Any] = {"code": self.code, "message": str(self)}
        if self.details is not None:
            error["details"] = self.details
        return json_reply({"error": error}, self.status)


class TextError(Exception):
    """Shape B: text/plain, for errors before the handler."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status

    def reply(self) -> Response:
        """Returns the response to send."""
        return Response(str(self), self.status, media_type="text/plain")


def json_bytes(body: bytes, status: int = 200) -> Response:
    """Returns a response of encoded JSON."""
    return Response(body, status, media_type="application/json")


def json_reply(document: Any, status: int = 200) -> Response:
    """Returns a response with `document` as JSON."""
    return json_bytes(_encode(document), status)


def invalid(field_errors: Mapping[str, list[str]]) -> ApiError:
    """Returns a 422 with the list of invalid fields."""
    return ApiError(422, "VALIDATION_ERROR", "Validation failed", {"field_errors": field_errors})


def refuse(faults: Mapping[str, str | bool]) -> None:
    """Raises `invalid` for the fields that have a message, if any."""
    errors = {field: [message] for field, message in faults.items() if isinstance(message, str)}
    if errors:
        raise invalid(errors)


def bad_request(text: str) -> ApiError:
    """Returns a 400 in the envelope."""
    return ApiError(400, "BAD_REQUEST", f"Bad request: {text}")


def unauthorized(text: str) -> ApiError:
    """Returns a 401 in the envelope."""
    return ApiError(401, "UNAUTHORIZED", f"Unauthorized: {text}")


def not_found(text: str) -> ApiError:
    """Returns a 404 in the envelope."""
    return ApiError(404, "NOT_FOUND", f"Not found: {text}")


def conflict(text: str) -> ApiError:
    """Returns a 409 in the envelope."""
    return ApiError(409, "CONFLICT", f"Conflict: {text}")


# Built once: a response has no state of its request.
ACKNOWLEDGED = json_bytes(b'{"acknowledged":true}')
BEATING = json_bytes(b'{"acknowledged":true,"next_heartbeat_seconds":30}')
WILL_RETRY = json_bytes(b'{"acknowledged":true,"will_retry":true}')
WILL_FAIL = json_bytes(b'{"acknowledged":true,"will_retry":false}')
EMPTY = Response(b"", 200)
# Shape C (protocol.md §1.4): the one envelope with a lower-case code.
SHUTTING_DOWN = json_bytes(
    b'{"error":{"code":"service_unavailable","message":"Server is shutting down, please retry later"}}', 503
)
