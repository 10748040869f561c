"""The classifier of replies: only the engine's own words are a verdict (faults.md N22)."""

from __future__ import annotations

import json

import pytest

from flowherd.client.reply_classifier import ACKNOWLEDGED, ReplyKind, classify, is_receipt, words_of
from flowherd.transport.transport import Reply

HTML = b"<html><title>Sign in</title></html>"
NO_ENVELOPES = [
    b"",
    HTML,
    b"Failed",
    b"{}",
    b"null",
    b"[]",
    b'{"error":"no"}',
    b'{"error":{"code":1,"message":"x"}}',
]
TEXTS = {
    400: b"Failed to parse the request body as JSON: x",
    413: b"Failed to buffer the request body: length limit exceeded",
    415: b"Expected request with `Content-Type: application/json`",
    422: b"Failed to deserialize the JSON body into the target type: x",
}


def said(message: str) -> bytes:
    return json.dumps({"error": {"code": "A_CODE", "message": message}}).encode()


def kind_of(status: int, body: bytes, receipt: str | None = ACKNOWLEDGED) -> ReplyKind:
    return classify(Reply(status, {}, body), receipt)


@pytest.mark.parametrize("body", NO_ENVELOPES)
def test_nothing_but_the_engines_words_is_a_verdict(body: bytes) -> None:
    """N22: every status in others' words is an outage; a 413 alone speaks of the body."""
    kinds = {status: kind_of(status, body) for status in range(200, 600)}
    assert [kinds.pop(status) for status in (408, 425, 429, 503)] == [ReplyKind.BUSY] * 4
    assert kinds.pop(401) is ReplyKind.UNAUTHORIZED
    assert kinds.pop(413) is ReplyKind.FOREIGN_TOO_LARGE
    assert {kinds.pop(status) for status in range(500, 600) if status in kinds} == {ReplyKind.FAILING}
    assert set(kinds.values()) == {ReplyKind.FOREIGN}


@pytest.mark.parametrize("text", TEXTS.values())
@pytest.mark.parametrize("status", [302, 400, 403, 404, 409, 413, 415, 422])
def test_a_text_of_the_engine_counts_with_its_own_status_alone(status: int, text: bytes) -> None:
    is_own = TEXTS.get(status) == text
    kind = kind_of(status, text)
    assert (kind in {ReplyKind.REFUSED, ReplyKind.TOO_LARGE}) is is_own
    assert (kind in {ReplyKind.FOREIGN, ReplyKind.FOREIGN_TOO_LARGE}) is not is_own


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "Bad request: x", ReplyKind.REFUSED),
        (405, "x", ReplyKind.REFUSED),
        (422, "Validation failed", ReplyKind.REFUSED),
        (413, "x", ReplyKind.TOO_LARGE),
        (409, "Conflict: x", ReplyKind.GONE),
        (404, "Not found: Activity 'a' not found", ReplyKind.UNKNOWN),
        (404, "Not found: File 'f' not found", ReplyKind.NO_FILE),
        (404, "Not found: The requested resource was not found", ReplyKind.FOREIGN),
        (403, "x", ReplyKind.FOREIGN),
        (302, "x", ReplyKind.FOREIGN),
        (500, "Internal server error", ReplyKind.FAILING),
        (503, "Server is shutting down", ReplyKind.BUSY),
        (401, "Unauthorized: Invalid token", ReplyKind.UNAUTHORIZED),
    ],
)
def test_the_engines_own_errors(status: int, message: str, kind: ReplyKind) -> None:
    assert kind_of(status, said(message)) is kind


@pytest.mark.parametrize(
    ("body", "receipt", "kind"),
    [
        (b'{"acknowledged":true}', ACKNOWLEDGED, ReplyKind.ACCEPTED),
        (b'{"lease_s": 9, "acknowledged": true}', ACKNOWLEDGED, ReplyKind.ACCEPTED),
        (b'{"acknowledged":false}', ACKNOWLEDGED, ReplyKind.NOT_ACKNOWLEDGED),
        (b'{"acknowledged":"true"}', ACKNOWLEDGED, ReplyKind.FOREIGN),
        (b'{"acknowledged":true', ACKNOWLEDGED, ReplyKind.FOREIGN),
        (b'{"size":3}', ACKNOWLEDGED, ReplyKind.FOREIGN),
        (b'{"size":3}', "size", ReplyKind.ACCEPTED),
        (HTML, "size", ReplyKind.FOREIGN),
        (b"", None, ReplyKind.ACCEPTED),
    ],
)
def test_a_success_shows_the_receipt_of_its_call(body: bytes, receipt: str | None, kind: ReplyKind) -> None:
    for status in (200, 201):
        assert kind_of(status, body, receipt) is kind
    assert kind_of(204, body, receipt) is ReplyKind.FOREIGN
    usual = Reply(200, {}, body)
    assert not is_receipt(usual) or kind_of(200, body) is ReplyKind.ACCEPTED


def test_foreign_words_are_cut_at_80_characters_after_the_target_of_a_redirect() -> None:
    line = words_of(Reply(302, {"location": "http://login.example/"}, b"\x1b[31m" + b"x" * 300))
    assert line == f"status 302: http://login.example/ ?[31m{'x' * 75}"
    assert words_of(Reply(400, {}, said("y" * 300))).count("y") == 200
