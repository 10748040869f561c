"""Issues and checks tokens (protocol.md §2)."""

import hmac
import secrets
from typing import Any
from urllib.parse import parse_qs

import jwt
import msgspec
from starlette.responses import Response

from .clock import Clock
from .replies import TextError, bad_request, json_reply, unauthorized
from .settings import EngineSettings

_ISSUER = "flowherd-engine"
_MISSING = "Missing or invalid Authorization header. Expected: Authorization: Bearer <token>"
_GRANTS = {"client_credentials", "password", "refresh_token"}
_LEEWAY_S = 60.0
_REMEMBERED = 1024


class _TokenRequest(msgspec.Struct):
    grant_type: str
    client_id: str | None = None
    client_secret: str | None = None
    username: str | None = None
    password: str | None = None
    refresh_token: str | None = None


class Authority:
    """Issues and checks tokens of one client. The key comes from its secret, so that tokens survive a restart."""

    def __init__(self, settings: EngineSettings, clock: Clock) -> None:
        self._clock = clock
        self._client_id = settings.client_id
        self._client_secret = settings.client_secret
        self._ttl_s = settings.token_ttl_s
        self._key = hmac.digest(
            (settings.client_secret or secrets.token_hex(32)).encode(), _ISSUER.encode(), "sha256"
        )
        self._expiries: dict[str, float] = {}

    @property
    def open(self) -> bool:
        """True for an insecure-dev engine."""
        return self._client_id is None

    def check(self, header: str | None) -> None:
        """Checks the token of a request. An open engine accepts a missing token, but never a bad one (§2.2).

        Raises:
            ApiError: 401.

        """
        token = (
            header[7:] if header is not None and len(header) > 7 and header[:7].lower() == "bearer " else None
        )
        if token is None:
            if self.open:
                return
            raise unauthorized(_MISSING)
        expiry_s = self._expiries.get(token)
        if expiry_s is None:
            expiry_s = self._verify(token)
            if len(self._expiries) >= _REMEMBERED:
                self._expiries.clear()
            self._expiries[token] = expiry_s
        if self._clock.now_s() > expiry_s + min(_LEEWAY_S, self._ttl_s / 10):
            raise unauthorized("Invalid token: Token expired")

    def _verify(self, token: str) -> float:
        try:
            # expiry is checked against the engine's clock, which tests can advance
            claims = jwt.decode(
                token, self._key, ["HS256"], issuer=_ISSUER, audience=_ISSUER, options={"verify_exp": False}
            )
            return float(claims["exp"])
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError) as error:
            raise unauthorized(f"Invalid token: {error}") from error

    def token(self, content_type: str, body: bytes) -> Response:
        """Replies to a request for a token (protocol.md §2.3).

        Raises:
            ApiError: 400, 401.
            TextError: 400, 415.

        """
        wanted = _parse(content_type, body)
        match wanted.grant_type:
            case "client_credentials":
                self._check_client(wanted)
            case "password":
                _require(wanted, "username", "password")
                raise unauthorized("Invalid username or password")
            case _:
                _require(wanted, "refresh_token")
                raise unauthorized("Invalid or expired refresh token")
        now_s = self._clock.now_s()
        claims: dict[str, Any] = {
            "iss": _ISSUER,
            "aud": _ISSUER,
            "sub": wanted.client_id,
            "iat": int(now_s),
            "exp": now_s + self._ttl_s,
            "jti": secrets.token_hex(8),
        }
        token = jwt.encode(claims, self._key, "HS256")
        return json_reply(
            {"access_token": token, "token_type": "Bearer", "expires_in": max(1, int(self._ttl_s))}
        )

    def _check_client(self, wanted: _TokenRequest) -> None:
        _require(wanted, "client_id", "client_secret")
        known = (self._client_id or "", self._client_secret or "")
        given = (wanted.client_id or "", wanted.client_secret or "")
        matches = [hmac.compare_digest(a.encode(), b.encode()) for a, b in zip(known, given, strict=True)]
        if self.open or not all(matches):
            raise unauthorized("Invalid client credentials")


def _require(wanted: _TokenRequest, *fields: str) -> None:
    missing = [
        f"{field} is required for {wanted.grant_type} grant" for field in fields if not getattr(wanted, field)
    ]
    if missing:
        raise bad_request(", ".join(missing))


def _parse(content_type: str, body: bytes) -> _TokenRequest:
    essence = content_type.partition(";")[0].strip().lower()
    match essence:
        case "application/json":
            prefix, fields = "Invalid JSON", None
        case "application/x-www-form-urlencoded":
            prefix, fields = "Invalid form data", body
        case _:
            raise TextError(
                415,
                "Content-Type must be application/json or application/x-www-form-urlencoded, "
                f"got: {content_type or 'none'}",
            )
    try:
        if fields is None:
            wanted = msgspec.json.decode(body, type=_TokenRequest)
        else:
            form = parse_qs(fields.decode(), keep_blank_values=True, max_num_fields=100)
            wanted = msgspec.convert({name: values[-1] for name, values in form.items()}, _TokenRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise TextError(400, f"{prefix}: {error}") from error
    if wanted.grant_type not in _GRANTS:
        raise TextError(400, f"{prefix}: unknown grant_type `{wanted.grant_type}`")
    return wanted
