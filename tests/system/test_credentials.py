"""One token for the whole host, and a secret that is never shown (faults.md E8, E9, E11, S7, S8, M11)."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from harness import APPS, Engine, Host, eventually, running_engine, running_host
from pydantic import SecretStr
from scripted_http import Reply, scripted_server

from flowherd.client.bearer_tokens import HostTokens, Token
from flowherd.errors import EngineUnauthorized
from flowherd.ledger import Ledger
from flowherd.settings.worker_config import WorkerConfig
from flowherd.transport.transport import new_client
from flowherd_supervisor.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator

APP = "sample_app:registry"
CANARY = "canary-5ecret-of-the-client"
CLIENT = ("the-client", CANARY)
SECRET = {"KRUXIAFLOW_CLIENT_SECRET": CANARY}
WITH_CLIENT = ("--client-id", CLIENT[0])


@pytest.mark.timeout(90)
def test_eight_processes_ask_for_one_token_an_expiry_and_work_through_three(tmp_path: Path) -> None:
    """E8, M11: tokens live 3 s; activities of 10 s get heartbeats, short ones come and go meanwhile."""
    with running_engine("--token-ttl", "3", "--default-lease", "3", credentials=CLIENT) as engine:
        counter = _count_token_calls(engine)
        engine.submit("wait", 8, seconds=10)
        engine.submit("wait", 120, seconds=0.5)
        flags = ("-p", "8", "-c", "16", "--default-lease", "3", *WITH_CLIENT)
        started_at = time.monotonic()
        with running_host(tmp_path, APP, *flags, url=engine.url, env=SECRET) as host:
            host.ready(8)
            engine.wait_for("complete", 128, within_s=45)
            took_s = time.monotonic() - started_at
            assert took_s > 9, "three expiries must lie within the run"
            assert (
                4 <= counter() <= 1 + took_s / (0.75 * 3)
            )  # renewed at four fifths of its life, minus jitter
            assert set(engine.claims_per_activity().values()) == {1}
            assert not host.log("engine_refuses_our_token")
            assert not host.log("token_not_granted")
            host.signal(signal.SIGTERM)
            assert host.wait() == 0


@pytest.mark.timeout(60)
def test_an_outage_of_the_token_route_after_the_first_grant_is_only_an_outage(tmp_path: Path) -> None:
    """E9: past the end of the token and past --auth-grace: paced tries, no exit, and work after it."""
    with running_engine("--token-ttl", "2", "--default-lease", "9", credentials=CLIENT) as engine:
        engine.submit("wait", 6, seconds=3)
        flags = ("-p", "2", "-c", "8", "--auth-grace", "1", "--default-lease", "9", *WITH_CLIENT)
        with running_host(tmp_path, APP, *flags, url=engine.url, env=SECRET) as host:
            host.ready(2)
            engine.wait_for("claim", 6)
            _script(engine, {"route": "token", "times": None, "status": 401})
            host.wait_for_log("engine_refuses_our_token")  # the token has ended, the activities too
            eventually(lambda: _hits(engine, "token") >= 4, "four tries")
            assert host.process.poll() is None
            assert len(host.log("token_not_granted")) == 1
            _script(engine)
            engine.wait_for("complete", 6)
            host.wait_for_log("token_granted")
            assert set(engine.completions_per_activity().values()) == {1}
            assert not host.log("credentials_refused")


async def test_calls_within_the_pause_after_a_refusal_share_it() -> None:
    """M11: a hundred heartbeats during an outage of the token route cause one try."""
    now, config = [0.0], WorkerConfig(client_id=CLIENT[0], client_secret=SecretStr(CANARY))
    with scripted_server({"/api/v1/oauth/token": Reply(401)}) as server:
        async with new_client(server.url, None, connections=2) as http:
            tokens = HostTokens(config, Ledger(processes=1, records=1), http, lambda: now[0])
            calls = [tokens.renewed(Token(0, "")) for _ in range(100)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, EngineUnauthorized) for result in results)
            assert len(server.seen) == 1
            server.replies["/api/v1/oauth/token"] = Reply(200, {"access_token": "t"})
            now[0] = tokens.pause_s
            assert (await tokens.renewed(Token(0, ""))).value == "t"
            assert len(server.seen) == 2


def test_a_wrong_secret_from_the_start_is_exit_4_after_the_grace_in_one_line(tmp_path: Path) -> None:
    """Exit code 4 of supervisor/docs/exit-codes.md: 401 to every try for --auth-grace and never a token."""
    with running_engine(credentials=CLIENT) as engine:
        flags = ("-p", "2", "--auth-grace", "1", *WITH_CLIENT)
        started_at = time.monotonic()
        with running_host(
            tmp_path, APP, *flags, url=engine.url, env={"KRUXIAFLOW_CLIENT_SECRET": f"not {CANARY}"}
        ) as host:
            assert host.wait(within_s=15) == 4
            assert time.monotonic() - started_at > 1
            [line] = host.log("credentials_refused")
            assert "KRUXIAFLOW_CLIENT_SECRET" in line["reason"]
            assert "--client-id" in line["reason"]
            assert not host.tree()
            assert CANARY not in host.log_path.read_text()


@pytest.mark.timeout(60)
def test_a_rotated_secret_needs_no_restart(tmp_path: Path) -> None:
    """From now on the engine takes only the new secret; the host reads its file again after a refusal."""
    file, db, flags = tmp_path / "secret", str(tmp_path / "engine.sqlite"), ("--token-ttl", "2")
    file.write_text("the-old-secret")
    file.chmod(0o600)
    words = ("-p", "1", *WITH_CLIENT, "--client-secret-file", str(file))
    with running_engine(*flags, db=db, credentials=(CLIENT[0], "the-old-secret")) as engine:
        port = int(engine.url.rsplit(":", 1)[1])
        with running_host(tmp_path, APP, *words, url=engine.url) as host:
            host.ready(1)
            engine.submit("hello", 1, name="old")
            engine.wait_for("complete", 1)
            engine.stop()
            with running_engine(*flags, port=port, db=db, credentials=CLIENT) as rotated:
                host.wait_for_log("token_not_granted")
                file.write_text(CANARY)
                host.wait_for_log("client_secret_read_again")
                rotated.submit("hello", 1, name="new")
                rotated.wait_for("complete", 2)
                assert host.status()["restarts"] == 0
                assert CANARY not in host.log_path.read_text()


def test_without_a_client_id_no_authorization_header_is_sent(tmp_path: Path) -> None:
    """protocol.md §2.2: an insecure-dev engine gets no header, and the token route is left alone."""
    with scripted_server({"/api/v1/workers/poll": Reply(200, {"activities": [], "count": 0})}) as server:
        with running_host(tmp_path, APP, "-p", "1", url=server.url) as host:
            host.ready(1)
            eventually(lambda: len(server.seen) >= 3, "three polls")
        assert {request.path for request in server.seen} == {"/api/v1/workers/poll"}
        assert not any("authorization" in request.headers for request in server.seen)


@pytest.mark.parametrize("status", [302, 307, 308])
def test_a_redirect_never_carries_the_bearer_elsewhere(tmp_path: Path, status: int) -> None:
    """E11: redirects are not followed, not even on the token route, and the log names the target."""
    token = {"access_token": "bearer-canary", "token_type": "Bearer", "expires_in": 3600}
    with scripted_server() as other, scripted_server({"/api/v1/oauth/token": Reply(200, token)}) as server:
        server.replies["/api/v1/workers/poll"] = Reply(
            status, "", {"location": f"{other.url}/api/v1/workers/poll"}
        )
        with running_host(tmp_path, APP, "-p", "1", *WITH_CLIENT, url=server.url, env=SECRET) as host:
            [line] = host.wait_for_log("engine_misconfigured")
            assert str(status) in line["reason"]
            assert other.url.removeprefix("http://") in line["reason"]
        assert not other.seen
        polls = [request for request in server.seen if request.path == "/api/v1/workers/poll"]
        assert {request.headers["authorization"] for request in polls} == {"Bearer bearer-canary"}
        assert "bearer-canary" not in host.log_path.read_text()


def test_a_redirect_of_the_token_route_never_carries_the_secret_elsewhere(tmp_path: Path) -> None:
    """E11."""
    with scripted_server() as other, scripted_server() as server:
        server.replies["/api/v1/oauth/token"] = Reply(
            307, "", {"location": f"{other.url}/api/v1/oauth/token"}
        )
        with running_host(tmp_path, APP, "-p", "1", *WITH_CLIENT, url=server.url, env=SECRET) as host:
            [line] = host.wait_for_log("token_not_granted")
            assert "307" in line["reason"]
        assert not other.seen


@pytest.fixture
def busy_host(tmp_path: Path) -> Iterator[tuple[Engine, Host]]:
    """A host with credentials from a file that has completed, failed and crashed, and served its pages."""
    secret_file = tmp_path / "secret"
    secret_file.write_text(CANARY)
    secret_file.chmod(0o600)
    with running_engine(credentials=CLIENT) as engine:
        env = {"KRUXIAFLOW_CLIENT_SECRET_FILE": str(secret_file)}
        flags = ("-p", "2", "--log-level", "debug", *WITH_CLIENT)
        with running_host(tmp_path, APP, *flags, url=engine.url, env=env) as host:
            host.ready(2)
            engine.submit("hello", 3, name="x")
            engine.submit("kill_self", settings={"retry": {"max_attempts": 1}})
            engine.submit("no_such_activity", settings={"retry": {"max_attempts": 1}})
            engine.wait_for("complete", 3)
            engine.wait_for("fail", 2)
            host.wait_for_log(
                "process_ready", 4
            )  # keeper, two workers, and the replacement of the killed one
            host.signal(signal.SIGUSR1)
            host.wait_for_log("stack_of_thread")
            yield engine, host


def test_the_secret_and_the_bearer_are_in_no_log_status_title_or_environment(
    busy_host: tuple[Engine, Host],
) -> None:
    """S7, S8, I7: a canary grep; with a secret file not even the environment holds it."""
    engine, host = busy_host
    bearer = engine.http.get("/health").request.headers["authorization"].removeprefix("Bearer ")
    seen = {"log": host.log_path.read_bytes(), "status": str(host.status()).encode()}
    for pid in (host.pid, *host.tree()):
        for name in ("cmdline", "environ", "comm"):
            seen[f"{pid} {name}"] = Path(f"/proc/{pid}/{name}").read_bytes()
    assert len(seen) >= 2 + 3 * 4
    header = bearer.split(".")[0].encode()  # prefix of every token of this engine
    found = [place for place, data in seen.items() if CANARY.encode() in data or header in data]
    assert not found


def test_process_titles_say_which_process_it_is_and_no_more(busy_host: tuple[Engine, Host]) -> None:
    """S8: `ps` shows each process's purpose."""
    _, host = busy_host
    titles = {_title(pid) for pid in (host.pid, *host.tree())}
    assert titles == {
        f"flowherd: supervisor of {APP}",
        "flowherd: keeper",
        f"flowherd: preload of {APP}",
        f"flowherd: process 0 of {APP}",
        f"flowherd: process 1 of {APP}",
    }


@pytest.mark.parametrize(
    "words", ["config show", "config show --json", f"check {APP} --app-dir {APPS}", "submit hello --no-wait"]
)
def test_commands_never_print_the_secret(
    words: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], protected_engine: Engine
) -> None:
    """S7: with a right and with a wrong secret."""
    monkeypatch.setenv("KRUXIAFLOW_API_URL", protected_engine.url)
    monkeypatch.setenv("KRUXIAFLOW_CLIENT_ID", CLIENT[0])
    for secret in (CANARY, f"{CANARY}-wrong"):
        monkeypatch.setenv("KRUXIAFLOW_CLIENT_SECRET", secret)
        with pytest.raises(SystemExit):
            main(words.split())
        shown = "".join(capfd.readouterr())
        assert shown
        assert CANARY not in shown
        assert "Traceback" not in shown


@pytest.fixture(scope="module")
def protected_engine() -> Iterator[Engine]:
    """An engine that enforces tokens."""
    with running_engine(credentials=CLIENT) as engine:
        yield engine


def _title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()


def _script(engine: Engine, *faults: dict[str, Any]) -> None:
    """Replaces the engine's faults; none ends an outage."""
    engine.http.delete("/__test__/faults").raise_for_status()
    engine.http.post("/__test__/faults", json=list(faults)).raise_for_status()


def _hits(engine: Engine, route: str) -> int:
    faults = engine.http.get("/__test__/faults").json()["faults"]
    return sum(fault["hits"] for fault in faults if fault["route"] == route)


def _count_token_calls(engine: Engine) -> Any:
    """Installs a fault that only counts; returns a function that gives the number of calls."""
    _script(engine, {"route": "token", "times": None})
    return lambda: _hits(engine, "token")
