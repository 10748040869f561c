"""The compose file: valid, started and stopped in the right order, with time to stop, and without secrets."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from deploy_kit import DEPLOY, OWN_VARIABLES, run_tool

COMPOSE = DEPLOY / "compose.yaml"
MARGIN_S = 5  # between the drain's limit and the kill, for releasing the rest
CHOSEN = {"POSTGRES_PASSWORD": "chosen-for-postgres", "KRUXIAFLOW_CLIENT_SECRET": "chosen-for-client"}


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """The services as they are written."""
    return yaml.safe_load(COMPOSE.read_text())["services"]


def seconds(text: str) -> float:
    """`40` and `40s`."""
    return float(text.removesuffix("s"))


def test_the_schema_of_compose_accepts_it() -> None:
    """A key that is misspelt, or at the wrong place, is refused."""
    assert "done" in run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_compose_itself_reads_it_and_misses_nothing() -> None:
    """It substitutes variables, checks names, and prints only errors."""
    if run_tool("docker-compose", "version", "--short").startswith("1."):
        pytest.skip("docker-compose 1 knows less than this file needs: install version 2")
    resolved = json.loads(run_tool("docker-compose", "-f", COMPOSE, "config", "--format", "json", **CHOSEN))
    assert set(resolved["services"]) == {"keys", "postgres", "engine", "flowherd"}
    published = [port for service in resolved["services"].values() for port in service.get("ports", [])]
    assert published
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_nothing_starts_before_its_secrets_are_chosen() -> None:
    """The database would accept an empty password, which would go unnoticed."""
    wanted = re.findall(r"\$\{(\w*(?:PASSWORD|SECRET)\w*)([^}]*)\}", COMPOSE.read_text())
    assert {name for name, _ in wanted} == CHOSEN.keys()
    assert {otherwise for _, otherwise in wanted} == {":?choose one"}


def test_every_service_says_how_long_its_stop_may_take(services: dict[str, dict[str, Any]]) -> None:
    """Docker's default of 10 s fits no service here."""
    assert all("stop_grace_period" in service for service in services.values())
    host = services["flowherd"]
    graceful_s = seconds(host["environment"]["KRUXIAFLOW_WORKER_SHUTDOWN_TIMEOUT"])
    assert seconds(host["stop_grace_period"]) >= graceful_s + MARGIN_S
    assert set(host["environment"]) <= OWN_VARIABLES


def test_flowherd_is_stopped_before_the_engine_and_the_engine_before_its_database(
    services: dict[str, dict[str, Any]],
) -> None:
    """Compose stops in the reverse order of `depends_on`: work can be handed back."""
    assert "engine" in services["flowherd"]["depends_on"]
    assert "postgres" in services["engine"]["depends_on"]


def test_every_service_waits_for_healthy_or_completed_dependencies(
    services: dict[str, dict[str, Any]],
) -> None:
    """Started is not ready; and waiting for the health of what has no check would never end."""
    for service in services.values():
        for name, demand in service.get("depends_on", {}).items():
            stays = "restart" in services[name]
            assert demand == {"condition": "service_healthy" if stays else "service_completed_successfully"}
            assert ("healthcheck" in services[name]) is stays


def test_every_service_that_stays_is_looked_after(services: dict[str, dict[str, Any]]) -> None:
    """flowherd's own check is in its image."""
    assert "\nHEALTHCHECK " in (DEPLOY / "Dockerfile").read_text()
    checked = {name for name, service in services.items() if "healthcheck" in service or "build" in service}
    assert checked == {name for name, service in services.items() if "restart" in service}


def test_engine_and_flowherd_have_the_same_lease(services: dict[str, dict[str, Any]]) -> None:
    """The engine does not report its default; a host that assumes a longer one loses work."""
    leases = {
        services[name]["environment"]["KRUXIAFLOW_QUEUE_DEFAULT_TIMEOUT"] for name in ("engine", "flowherd")
    }
    assert len(leases) == 1


def test_a_container_that_is_read_only_is_given_no_secret_that_has_to_be_copied_into_it() -> None:
    """Compose 2.33 refuses it by name, older ones fail when they start it; only a file can be mounted."""
    document = yaml.safe_load(COMPOSE.read_text())
    copied = {name for name, secret in document.get("secrets", {}).items() if "file" not in secret}
    for service in document["services"].values():
        assert not (service.get("read_only") and copied & set(service.get("secrets", [])))
