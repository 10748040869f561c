"""The host's bearer token: fetches, publishes, reads and renews it; never logs the form or the token."""

from __future__ import annotations

import asyncio
import random
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import httpx
import msgspec
import structlog

from flowherd.backoff import Backoff
from flowherd.client.reply_classifier import ReplyKind, classify, refuses_token
from flowherd.errors import ConfigurationError, EngineError, EngineUnauthorized, EngineUnavailable
from flowherd.ledger import Cell, Host, Ledger, Segment
from flowherd.settings.worker_config import read_secret
from flowherd.transport.transport import MAX_REPLY_BYTES, Reply, read_capped

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from flowherd.settings.worker_config import WorkerConfig

REFRESH_AT = 0.8  # fraction of `expires_in` (protocol.md §2.3)
TOKEN_ROUTE = "/api/v1/oauth/token"  # noqa: S105 - a path
_TOKEN_DEADLINE_S = 15.0  # a token costs the engine 0.2-0.4 s of bcrypt (protocol.md §2.3)
_LOOK_AGAIN_S = 0.02
_VERSION = Host.TOKEN_VERSION  # a constant, since it is read for each call
_SENDABLE = re.compile(r"[\x21-\x7e]+")

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token and its version; versions only increase."""

    version: int
    value: str = field(repr=False)


class TokenSource(Protocol):
    """A source of bearer tokens for a client."""

    def known(self) -> Token | None:
        """Returns the token to send, or None when no token is known yet; then await `current`."""
        ...

    async def current(self) -> Token | None:
        """Returns the token to send, or None to send no header (protocol.md §2.2)."""
        ...

    async def renewed(self, refused: Token) -> Token:
        """Returns a token newer than `refused`; raises EngineUnauthorized when there is none in time."""
        ...


class BearerAuth(httpx.Auth):
    """Adds the host's token to calls to one origin, and replays a call once after a 401 (§1.5, R12)."""

    def __init__(self, tokens: TokenSource, origin: str) -> None:
        self._tokens = tokens
        self._origin = httpx.URL(origin)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Yields the request once, and again with a new token after a 401 (the hook of httpx)."""
        token = await self._tokens.current() if self._is_ours(request.url) else None
        if token is None:
            yield request
            return
        request.headers["authorization"] = f"Bearer {token.value}"
        response = yield request
        if refuses_token(response.status_code):
            token = await self._tokens.renewed(token)
            request.headers["authorization"] = f"Bearer {token.value}"
            yield request

    def _is_ours(self, url: httpx.URL) -> bool:
        ours = self._origin
        return (url.scheme, url.host, url.port) == (ours.scheme, ours.host, ours.port)


class _Published:
    """The token published in the ledger; each version is read and checked once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._latest = Token(0, "")

    def latest(self) -> Token | None:
        """Returns the current token; None before the first, and while it is being replaced."""
        if self._latest.version != self._ledger.get(_VERSION):
            self._latest = Token(*self._ledger.token())
        return self._latest if self._latest.version else None


def ask_keeper(segment: Segment, wake: Callable[[], None]) -> Callable[[int], None]:
    """Returns a function that stores a refused token version in the segment and wakes the keeper.

    Args:
        segment: the worker's segment.
        wake: wakes the keeper.

    """

    def refused(version: int) -> None:
        segment.put(Cell.TOKEN_REFUSED, max(version, segment.get(Cell.TOKEN_REFUSED)))
        wake()

    return refused


class LedgerTokens:
    """The token source of a worker or an isolate: reads the keeper's token, and requests a new one after a 401.

    Args:
        refused: called with the refused version; may block briefly.
        patience_s: seconds that a call waits for a token before it fails.

    """

    def __init__(self, ledger: Ledger, refused: Callable[[int], None], *, patience_s: float = 2.0) -> None:
        self._published = _Published(ledger)
        self._refused = refused
        self._patience_s = patience_s

    def known(self) -> Token | None:
        """Returns the published token, None before the first."""
        return self._published.latest()

    async def current(self) -> Token:
        """Returns the published token; waits for the first one."""
        return await self._newer_than(0)

    async def renewed(self, refused: Token) -> Token:
        """Reports the refused version and waits for a newer token."""
        self._refused(refused.version)
        return await self._newer_than(refused.version)

    async def _newer_than(self, version: int) -> Token:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience_s
        while True:
            token = self._published.latest()
            if token is not None and token.version > version:
                return token
            if loop.time() > give_up_at:
                raise EngineUnauthorized(f"no new access token within {self._patience_s:g} s")
            await asyncio.sleep(_LOOK_AGAIN_S)


class _Granted(msgspec.Struct):
    access_token: str
    expires_in: float = 3600.0


class HostTokens:
    """Fetches the host's only token and publishes it in the ledger; the only caller of the token endpoint (R13).

    It is also the `TokenSource` for calls of its own process.

    Args:
        http: a client without auth of its own, for `config.api_url`.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        config: WorkerConfig,
        ledger: Ledger,
        http: httpx.AsyncClient,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._form = {"grant_type": "client_credentials", "client_id": config.client_id or ""}
        self._secret = config.client_secret
        self._secret_file = config.client_secret_file
        self._ledger = ledger
        self._published = _Published(ledger)
        self._http = http
        self._clock = clock
        self._rng = random.Random()
        self._single_flight = asyncio.Lock()
        self._refresh_at = 0.0
        self._backoff = Backoff(base_s=0.5)
        self._failures = 0
        self._trouble: EngineError | None = None
        self._failing_since = self._try_again_at = 0.0

    @property
    def ever_granted(self) -> bool:
        """True when this host has ever had a token, from this keeper or an earlier one."""
        return self._ledger.get(Host.TOKEN_VERSION) > 0

    @property
    def pause_s(self) -> float:
        """Seconds until the endpoint may be called again after a failure; 0 when it may be called now."""
        return max(self._try_again_at - self._clock(), 0.0)

    def known(self) -> Token | None:
        """Returns the published token, None before the first."""
        return self._published.latest()

    async def current(self) -> Token:
        """Returns the published token; fetches one first if there is none."""
        return await self._at_least(1)

    async def renewed(self, refused: Token) -> Token:
        """Returns a newer token; concurrent callers share one request."""
        return await self._at_least(refused.version + 1)

    async def refresh_if_wanted(self) -> float:
        """Publishes a new token when one is due and returns the seconds until the next one is due.

        A token is due when there is none, when four fifths of its lifetime have passed, or when the engine refused it.
        """
        version = self._ledger.get(Host.TOKEN_VERSION)
        refused = any(segment.get(Cell.TOKEN_REFUSED) == version for segment in self._ledger.segments)
        due = not version or refused or self._clock() >= self._refresh_at
        await self._at_least(version + 1 if due else version)
        return max(self._refresh_at - self._clock(), 0.0)

    async def _at_least(self, version: int) -> Token:
        """Returns at once if the token is new enough; otherwise all callers wait for one request."""
        if self._ledger.get(Host.TOKEN_VERSION) < version:
            async with self._single_flight:
                if self._ledger.get(Host.TOKEN_VERSION) < version:
                    await self._try()
        return Token(*self._ledger.token())

    async def _try(self) -> None:
        """Requests a token; during the pause after a failed request it raises that request's error (faults.md M11)."""
        if self._trouble is not None and self.pause_s > 0:
            raise self._trouble.with_traceback(None)
        try:
            await self._publish()
        except EngineError as error:
            self._failures += 1
            self._ledger.put(Host.TOKEN_ERRORS, self._ledger.get(Host.TOKEN_ERRORS) + 1)
            self._trouble, now = error, self._clock()
            if self._failures == 1:
                self._failing_since = now
            lasted_s = now - self._failing_since
            self._try_again_at = now + self._backoff.delay_s(self._failures, self._rng, lasted_s=lasted_s)
            raise
        self._failures, self._trouble = 0, None

    async def _publish(self) -> None:
        try:
            granted = await self._ask()
        except EngineUnauthorized:
            if not await self._has_another_secret():
                raise
            granted = await self._ask()
        try:
            self._ledger.publish_token(granted.access_token)
        except ValueError as error:
            raise EngineUnavailable(f"token endpoint: {error}") from None
        lives_s = max(granted.expires_in, 1.0)
        self._refresh_at = self._clock() + REFRESH_AT * lives_s * self._rng.uniform(0.95, 1.0)

    async def _has_another_secret(self) -> bool:
        """Reads the secret's file again, since secrets are rotated while hosts run; True when the secret changed."""
        if self._secret_file is None:
            return False
        try:
            loop = asyncio.get_running_loop()
            secret = await loop.run_in_executor(None, read_secret, self._secret_file)
        except ConfigurationError as error:
            raise EngineUnauthorized(
                f"the token endpoint answered 401, and {self._secret_file} cannot be read again: {error}"
            ) from None
        is_another = secret != self._secret
        if is_another:
            self._secret = secret
            log.info("client_secret_read_again")
        return is_another

    async def _ask(self) -> _Granted:
        """Makes one request; a 401 may have any cause, even an outage of the engine's database (fact 19)."""
        try:
            async with asyncio.timeout(_TOKEN_DEADLINE_S):
                reply = await self._post_form()
        except (httpx.HTTPError, TimeoutError) as error:
            raise EngineUnavailable(f"token endpoint: {type(error).__name__}") from None
        match classify(reply, None):
            case ReplyKind.ACCEPTED:
                return _granted_by(reply.body)
            case ReplyKind.UNAUTHORIZED:
                raise EngineUnauthorized(
                    "the token endpoint answered 401: check --client-id and KRUXIAFLOW_CLIENT_SECRET"
                )
        raise EngineUnavailable(f"token endpoint: status {reply.status}")  # its words may repeat the secret

    async def _post_form(self) -> Reply:
        secret = self._secret.get_secret_value() if self._secret else ""
        async with self._http.stream(
            "POST",
            TOKEN_ROUTE,
            data=self._form | {"client_secret": secret},
            headers={"content-type": "application/x-www-form-urlencoded"},
        ) as response:
            body = await read_capped(response, MAX_REPLY_BYTES)
            return Reply(response.status_code, response.headers, body)


def _granted_by(body: bytes) -> _Granted:
    try:
        granted = msgspec.json.decode(body, type=_Granted)
    except (msgspec.DecodeError, RecursionError):
        raise EngineUnavailable("token endpoint: a reply without access_token") from None
    if not _SENDABLE.fullmatch(granted.access_token):
        raise EngineUnavailable("token endpoint: an access_token that no header can carry")
    return granted
