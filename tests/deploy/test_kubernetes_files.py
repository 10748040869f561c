"""The manifests: valid, agreed with each other and with flowherd, and with more time to stop than a stop takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from deploy_kit import DEPLOY, OWN_VARIABLES, run_tool

from flowherd.settings.model import Settings
from flowherd_supervisor.cli.commands import app as command_line

if TYPE_CHECKING:
    from pathlib import Path

KUBERNETES = DEPLOY / "kubernetes"
BASE = KUBERNETES / "base"
OVERLAYS = sorted(path.parent for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))
NO_SCHEMA = {"ScaledObject"}  # a resource that KEDA brings
MARGIN_S = 5


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    """What a pod is made of."""
    [deployment] = [one for one in documents(BASE / "deployment.yaml") if one["kind"] == "Deployment"]
    return deployment["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    """The variables of the config map."""
    [config] = [one for one in documents(BASE / "deployment.yaml") if one["kind"] == "ConfigMap"]
    return config["data"]


def container(pod: dict[str, Any]) -> dict[str, Any]:
    [one] = pod["containers"]
    return one


def test_every_variable_is_one_that_flowherd_reads_and_its_value_one_it_takes(
    pod: dict[str, Any], settings: dict[str, str]
) -> None:
    """A removed variable would silently have no effect."""
    assert settings.keys() <= OWN_VARIABLES
    assert {item["name"] for item in container(pod)["env"]} <= OWN_VARIABLES
    values = dict(settings) | {"KRUXIAFLOW_CLIENT_SECRET": "x"}
    read = Settings.model_validate(values)
    assert read.processes == int(container(pod)["resources"]["limits"]["cpu"])


def test_the_pod_is_killed_only_after_the_longest_drain(
    pod: dict[str, Any], settings: dict[str, str]
) -> None:
    """Grace period > what preStop waits > drain and giving back the rest."""
    graceful_s = float(settings["KRUXIAFLOW_WORKER_SHUTDOWN_TIMEOUT"].removesuffix("s"))
    _, *words = container(pod)["lifecycle"]["preStop"]["exec"]["command"]
    waits_s = float(words[words.index("--timeout") + 1])
    assert graceful_s + MARGIN_S <= waits_s < pod["terminationGracePeriodSeconds"]
    assert "--wait" in words


@pytest.mark.parametrize("of", ["args", "preStop"])
def test_every_command_is_one_that_flowherd_knows(pod: dict[str, Any], of: str) -> None:
    """A renamed flag would be found by the first node that drains."""
    one = container(pod)
    words = one["args"] if of == "args" else one["lifecycle"]["preStop"]["exec"]["command"][1:]
    _, bound, _ = command_line.parse_args(words, print_error=False, exit_on_error=False)
    assert bound.arguments


def test_probes_ask_pages_that_there_are_on_the_port_that_is_served(
    pod: dict[str, Any], settings: dict[str, str]
) -> None:
    """Liveness must not depend on the engine: its outage would restart every pod."""
    one = container(pod)
    assert one["livenessProbe"]["httpGet"]["path"] == one["startupProbe"]["httpGet"]["path"] == "/livez"
    assert one["readinessProbe"]["httpGet"]["path"] == "/readyz"
    [port] = one["ports"]
    assert settings["KRUXIAFLOW_WORKER_ADMIN"].endswith(f":{port['containerPort']}")
    assert all(one[probe]["httpGet"]["port"] == port["name"] for probe in ("livenessProbe", "readinessProbe"))


def test_the_pod_may_do_nothing_it_does_not_need(pod: dict[str, Any]) -> None:
    """Kubernetes' restricted profile, and a read-only root file system."""
    security = container(pod)["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert security["allowPrivilegeEscalation"] is False
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False
    assert {"name": "tmp", "mountPath": "/tmp"} in container(pod)["volumeMounts"]
    assert not any(
        "value" in item and "SECRET" in item["name"] and "FILE" not in item["name"]
        for item in container(pod)["env"]
    )


def test_selectors_agree(pod: dict[str, Any]) -> None:
    """A budget or an autoscaler that selects nothing protects nothing."""
    del pod
    [deployment] = [one for one in documents(BASE / "deployment.yaml") if one["kind"] == "Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    [budget] = documents(BASE / "pdb.yaml")
    assert budget["spec"]["selector"]["matchLabels"] == labels
    for name in ("hpa/hpa.yaml", "keda/scaledobject.yaml"):
        [scaler] = documents(KUBERNETES / "overlays" / name)
        assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


@pytest.mark.parametrize("folder", [BASE, *OVERLAYS], ids=lambda folder: folder.name)
def test_a_kustomization_names_files_that_are_there_and_all_of_them(folder: Path) -> None:
    """A file that no kustomization names is never applied."""
    named = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert all((folder / name).exists() for name in named)
    assert {path.name for path in folder.glob("*.yaml")} == {"kustomization.yaml", *named} - {"../../base"}


def test_the_schemas_of_kubernetes_accept_every_resource() -> None:
    """Strictly: a field that is misspelt is refused."""
    files = [path for path in sorted(KUBERNETES.rglob("*.yaml")) if path.name != "kustomization.yaml"]
    known = [path for path in files if not NO_SCHEMA & {one["kind"] for one in documents(path)}]
    said = run_tool("kubernetes-validate", "--strict", *known)
    assert said.count("passed for resource") == sum(len(documents(path)) for path in known)


@pytest.mark.parametrize("folder", [BASE, *OVERLAYS], ids=lambda folder: folder.name)
def test_kustomize_builds_it_and_the_result_is_valid(folder: Path, tmp_path: Path) -> None:
    """Overlays leave the number of pods to their autoscaler."""
    built = list(yaml.safe_load_all(run_tool("kustomize", "build", folder)))
    kinds = {one["kind"] for one in built}
    assert {"ConfigMap", "Deployment", "PodDisruptionBudget"} <= kinds
    [deployment] = [one for one in built if one["kind"] == "Deployment"]
    scaled = bool(kinds & {"HorizontalPodAutoscaler", "ScaledObject"})
    assert ("replicas" in deployment["spec"]) is not scaled
    (tmp_path / "built.yaml").write_text(
        yaml.safe_dump_all([one for one in built if one["kind"] not in NO_SCHEMA])
    )
    run_tool("kubernetes-validate", "--strict", tmp_path / "built.yaml")
