"""A keeper's token and the clients of several workers, against one scripted engine."""

from __future__ import annotations

import asyncio

from pydantic import SecretStr
from scripted_engine import Play, ScriptedEngine
from worker_kit import open_segment

from flowherd.client.bearer_tokens import HostTokens, LedgerTokens, ask_keeper
from flowherd.client.kruxia import KruxiaEngine, connect
from flowherd.client.token_schedule import TokenSchedule
from flowherd.ledger import Ledger
from flowherd.settings.worker_config import WorkerConfig
from flowherd.transport.transport import new_client

ID = "0193a1b2-0000-7000-8000-000000000001"
SECRET = "s3cret-canary"


class Herd:
    """A keeper's token and the clients of eight workers, against one scripted engine."""

    def __init__(self, server: ScriptedEngine, workers: int = 8) -> None:
        self.server = server
        self.config = WorkerConfig(
            api_url=server.url,
            client_id="w1",
            client_secret=SecretStr(SECRET),
            call_deadline_s=5.0,
            **server.settings,
        )
        self.ledger = Ledger(processes=workers, records=4)
        self.http = new_client(server.url, None, connections=2)
        self.tokens = HostTokens(self.config, self.ledger, self.http)
        self.gave_up: list[str] = []
        self.has_given_up = asyncio.Event()
        self.keeping = TokenSchedule(self.tokens, grace_s=0.0, give_up=self._give_up)
        self.clients: list[KruxiaEngine] = []
        for _ in range(workers):
            source = LedgerTokens(
                self.ledger,
                ask_keeper(open_segment(self.ledger), self.keeping.woken.set),
                patience_s=3.0,
            )
            self.clients.append(connect(self.config, source, connections=2))
        self.task = asyncio.get_running_loop().create_task(self.keeping.run())
        self.issue()

    def _give_up(self, reason: str) -> None:
        self.gave_up.append(reason)
        self.has_given_up.set()

    def issue(self, expires_in: float = 86_400.0) -> None:
        """Makes the token endpoint grant token-1, token-2, …"""
        self.server.script(
            "token",
            *(
                Play(200, {"access_token": f"token-{number}", "expires_in": expires_in})
                for number in range(1, 20)
            ),
        )

    async def all_beat(self) -> list[object]:
        calls = (client.heartbeat(ID, "w-1", 5.0) for client in self.clients)
        return await asyncio.gather(*calls, return_exceptions=True)

    def sent(self) -> list[str]:
        return [request.headers.get("authorization", "") for request in self.server.of("heartbeat")]

    async def aclose(self) -> None:
        self.task.cancel()
        for client in self.clients:
            await client.aclose()
        await self.http.aclose()
