"""The Kubernetes manifests against the schemas of the API server, built by the real kustomize where it is at hand."""

import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from server.settings import parse_size

from . import gateway_api
from .exposed import families
from .files import DEPLOY, program, yaml_document, yaml_documents

KUBERNETES = DEPLOY / "k8s"
BASE = KUBERNETES / "base"
SMALL, CUDA, GATEWAY = [KUBERNETES / "overlays" / name for name in ("cpu-small", "cuda", "inference-gateway")]
FOLDERS = [BASE, SMALL, CUDA, GATEWAY]
# The oldest release the base promises to work on, and the newest whose schemas the package brings.
RELEASES = ["1.30", "1.37"]
MARGIN_SECONDS = 5

Document = dict[str, Any]


def strict(schema: Document) -> Document:
    """The schema with unknown fields forbidden, as the API server's strict field validation does."""
    for part in [schema, *schema.get("$defs", {}).values()]:
        if "properties" in part:
            part["additionalProperties"] = False
    return schema


@cache
def monitor_schema() -> Document:
    """Of Prometheus' operator. Its models take seconds to import, which not every worker needs."""
    from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor

    return strict(ServiceMonitor.model_json_schema(by_alias=True))


def validate(document: Document, release: str) -> None:
    """Raise if the API server of `release` would refuse the document or ignore a field of it."""
    if document["kind"] == "ServiceMonitor":
        jsonschema.validate(document, monitor_schema())
    elif document["kind"] in gateway_api.SCHEMAS:
        jsonschema.validate(document, gateway_api.SCHEMAS[document["kind"]])
    else:
        kubernetes_validate.validate(document, release, strict=True)


def base_documents() -> list[Document]:
    return [
        document
        for name in yaml_document(BASE / "kustomization.yaml")["resources"]
        for document in yaml_documents(BASE / name)
    ]


def built(folder: Path) -> list[Document]:
    command = [program("kubectl", "Kubernetes' client, 1.27 or newer; it brings kustomize"), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def only(documents: list[Document], kind: str) -> Document:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def deployed(request: pytest.FixtureRequest) -> list[Document]:
    """Every document that `kubectl apply -k` would send."""
    return built(request.param)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("document", base_documents(), ids=lambda document: document["kind"])
def test_base_follows_the_api(document: Document, release: str) -> None:
    validate(document, release)


@pytest.mark.parametrize("release", RELEASES)
def test_secret_example_follows_the_api(release: str) -> None:
    (document,) = yaml_documents(BASE / "secret.example.yaml")
    validate(document, release)


@pytest.mark.parametrize("release", RELEASES)
def test_what_kustomize_builds_follows_the_api(deployed: list[Document], release: str) -> None:
    for document in deployed:
        validate(document, release)


def misspell_grace(documents: list[Document]) -> Document:
    deployment = only(documents, "Deployment")
    deployment["spec"]["template"]["spec"]["terminationGraceSeconds"] = 75
    return deployment


def word_as_port(documents: list[Document]) -> Document:
    service = only(documents, "Service")
    service["spec"]["ports"][0]["port"] = "eighty"
    return service


def misspell_target(documents: list[Document]) -> Document:
    hpa = only(documents, "HorizontalPodAutoscaler")
    hpa["spec"]["metrics"][0]["resource"]["target"]["utilisation"] = 70
    return hpa


def misspell_interval(documents: list[Document]) -> Document:
    monitor = only(documents, "ServiceMonitor")
    monitor["spec"]["endpoints"][0]["scrape_interval"] = "15s"
    return monitor


def monitor_without_selector(documents: list[Document]) -> Document:
    monitor = only(documents, "ServiceMonitor")
    del monitor["spec"]["selector"]
    return monitor


def misspell_picker(documents: list[Document]) -> Document:
    pool = yaml_document(GATEWAY / "inferencepool.yaml")
    pool["spec"]["endpointPickerRef"]["failMode"] = "FailOpen"
    return pool


def old_target_port(documents: list[Document]) -> Document:
    pool = yaml_document(GATEWAY / "inferencepool.yaml")
    pool["spec"]["targetPortNumber"] = pool["spec"].pop("targetPorts")[0]["number"]
    return pool


@pytest.mark.parametrize(
    "mistake",
    [
        misspell_grace,
        word_as_port,
        misspell_target,
        misspell_interval,
        monitor_without_selector,
        misspell_picker,
        old_target_port,
    ],
)
def test_api_catches_mistakes(mistake: Callable[[list[Document]], Document]) -> None:
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        validate(mistake(base_documents()), RELEASES[-1])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_file_is_used_and_every_used_file_exists(folder: Path) -> None:
    kustomization = yaml_document(folder / "kustomization.yaml")
    patches = [patch["path"] for patch in kustomization.get("patches", []) if "path" in patch]
    settings = [name for generator in kustomization.get("configMapGenerator", []) for name in generator.get("envs", [])]
    named = {*kustomization["resources"], *patches, *settings}
    present = {path.name for path in folder.iterdir()} - {"kustomization.yaml", "secret.example.yaml"}
    assert {name for name in named if not name.startswith("..")} == present
    assert [name for name in named if not (folder / name).exists()] == []


def test_the_pod_lives_long_enough_to_drain(deployed: list[Document]) -> None:
    pod = only(deployed, "Deployment")["spec"]["template"]["spec"]
    drain = int(only(deployed, "ConfigMap")["data"]["ROUTELM_DRAIN_GRACE"])
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= pause + drain + MARGIN_SECONDS


def test_the_container_may_do_little(deployed: list[Document]) -> None:
    pod = only(deployed, "Deployment")["spec"]["template"]["spec"]
    container = pod["containers"][0]["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["readOnlyRootFilesystem"] is True
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("folder", [BASE, SMALL, GATEWAY], ids=lambda folder: folder.name)
def test_the_cache_fits_into_the_memory(folder: Path) -> None:
    documents, units = built(folder), {"Gi": 2**30, "Mi": 2**20}
    limit = only(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    cache = parse_size(only(documents, "ConfigMap")["data"]["ROUTELM_CACHE_BYTES"])
    assert cache <= int(limit[:-2]) * units[limit[-2:]] / 2


def test_kubernetes_sets_no_port_of_its_own(deployed: list[Document]) -> None:
    """For a Service called routelm it would set ROUTELM_PORT to an address, which the server takes for its port."""
    assert only(deployed, "Service")["metadata"]["name"] == "routelm"
    assert only(deployed, "Deployment")["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_probes_ask_the_right_questions(deployed: list[Document]) -> None:
    container = only(deployed, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    asked = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert asked == {"startup": "/health/ready", "readiness": "/health/ready", "liveness": "/health/live"}


def test_everything_selects_the_pods(deployed: list[Document]) -> None:
    labels = only(deployed, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert labels == only(deployed, "Deployment")["spec"]["selector"]["matchLabels"]
    assert labels == only(deployed, "Service")["spec"]["selector"]
    assert labels == only(deployed, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]


def test_monitor_finds_the_service() -> None:
    documents = built(BASE)
    service, monitor = only(documents, "Service"), only(documents, "ServiceMonitor")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]] == [
        port["name"] for port in service["spec"]["ports"]
    ]
    # The rules in deploy/prometheus select job="routelm".
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "routelm"


def test_overlays_differ_where_they_should() -> None:
    base, small, cuda = [built(folder) for folder in (BASE, SMALL, CUDA)]
    kinds = [{document["kind"] for document in documents} for documents in (base, small, cuda)]
    assert kinds[0] - kinds[1] == {"HorizontalPodAutoscaler", "ServiceMonitor"}
    assert kinds[0] - kinds[2] == {"HorizontalPodAutoscaler"}
    container = only(cuda, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"].endswith("-cuda")


def test_pods_wait_for_the_secret_and_are_not_open_without_it() -> None:
    container = only(base_documents(), "Deployment")["spec"]["template"]["spec"]["containers"][0]
    (key,) = [variable for variable in container["env"] if variable["name"] == "ROUTELM_API_KEY"]
    assert "optional" not in key["valueFrom"]["secretKeyRef"]


def test_the_network_policy_holds_for_the_pods() -> None:
    """It selects the pods by a label that they have, and names the port of the container."""
    documents = base_documents()
    policy, deployment = only(documents, "NetworkPolicy")["spec"], only(documents, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    (rule,) = policy["ingress"]
    ports = {port["name"] for port in deployment["template"]["spec"]["containers"][0]["ports"]}
    assert {port["port"] for port in rule["ports"]} == ports
    assert policy["egress"] == []


def test_the_inference_gateway_finds_pods_and_scales_by_their_queue() -> None:
    base, own = base_documents(), {path.stem: yaml_document(path) for path in GATEWAY.iterdir()}
    container = only(base, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    labels = only(base, "Deployment")["spec"]["template"]["metadata"]["labels"]
    pool = own["inferencepool"]
    assert pool["spec"]["selector"]["matchLabels"] == labels
    assert [port["number"] for port in pool["spec"]["targetPorts"]] == [
        port["containerPort"] for port in container["ports"]
    ]
    (backend,) = own["httproute"]["spec"]["rules"][0]["backendRefs"]
    assert (backend["group"], backend["kind"]) == (pool["apiVersion"].partition("/")[0], pool["kind"])
    assert backend["name"] == pool["metadata"]["name"]
    assert own["hpa"]["metadata"]["name"] == only(base, "HorizontalPodAutoscaler")["metadata"]["name"]


def test_metrics_of_the_hpa_and_the_picker_are_exposed() -> None:
    text = (GATEWAY / "inferencepool.yaml").read_text() + (GATEWAY / "hpa.yaml").read_text()
    named = set(re.findall(r"vllm:\w+", text))
    assert {"vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:cache_config_info"} <= named
    assert named <= families().keys()
