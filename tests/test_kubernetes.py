"""deploy/kubernetes: its files fit the schemas of Kubernetes, each other and the server."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.settings import Settings

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy/kubernetes"
BASE = FOLDER / "base"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
KUBECTL = shutil.which("kubectl")
KUSTOMIZATION = yaml.safe_load((BASE / "kustomization.yaml").read_text(encoding="utf-8"))
IMAGE = "{newName}:{newTag}".format_map(KUSTOMIZATION["images"][0])
needs_kubectl = pytest.mark.skipif(KUBECTL is None, reason="no kubectl on this machine")


def resources() -> Iterator[dict[str, Any]]:
    """Yield every resource of the base as it is written: the jobs lack the patch of their pods."""
    for name in KUSTOMIZATION["resources"]:
        if name.endswith(".yaml"):
            yield from yaml.safe_load_all((BASE / name).read_text(encoding="utf-8"))


RESOURCES = {f"{one['kind']}/{one['metadata']['name']}": one for one in resources()}


def pods(every: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the pod of each resource that starts one."""
    found = {}
    for name, one in every.items():
        spec = one.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            found[name] = spec["template"]["spec"]
    return found


PODS = pods(RESOURCES)
DEPLOYMENTS = [name for name in PODS if name.startswith("Deployment/")]


def rendered(overlay: str) -> dict[str, dict[str, Any]]:
    """Return the resources that `kubectl apply -k` would send."""
    command = [str(KUBECTL), "kustomize", str(FOLDER / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {
        f"{one['kind']}/{re.sub('-[0-9a-z]{10}$', '', one['metadata']['name'])}": one
        for one in yaml.safe_load_all(done.stdout)
    }


def validate(one: dict[str, Any]) -> None:
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("name", RESOURCES)
def test_every_resource_fits_its_schema(name: str) -> None:
    validate(RESOURCES[name])


def test_the_pod_that_fills_the_volume_of_images() -> None:
    pod = yaml.safe_load((FOLDER / "images.yaml").read_text(encoding="utf-8"))
    validate(pod)
    [container], [volume] = pod["spec"]["containers"], pod["spec"]["volumes"]
    job = yaml.safe_load((BASE / "jobs-pod.yaml").read_text(encoding="utf-8"))
    template = job["spec"]["jobTemplate"]["spec"]["template"]
    assert pod["spec"]["affinity"] == template["spec"]["affinity"]
    assert f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}" in RESOURCES
    [proxy] = PODS["Deployment/whence-proxy"]["containers"]
    assert container["image"] == proxy["image"]


def test_a_resource_with_a_fault_would_be_noticed() -> None:
    broken = yaml.safe_load((BASE / "server.yaml").read_text().split("---")[0])
    broken["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    with pytest.raises(Exception, match="imagePolicy"):
        validate(broken)


@needs_kubectl
@pytest.mark.parametrize("overlay", ["base", "gpu"])
def test_kustomize_builds_what_fits_the_schemas(overlay: str) -> None:
    every = rendered(overlay)
    assert RESOURCES.keys() <= every.keys()
    for one in every.values():
        validate(one)
        assert one["metadata"]["namespace"] == "whence"
    config = every["ConfigMap/whence-proxy"]["data"]
    assert config["nginx.conf"] == (ROOT / "deploy/nginx/nginx.conf").read_text(encoding="utf-8")
    assert config.keys() == {"nginx.conf", "servers.conf", "listen.conf"}
    for name, pod in pods(every).items():
        check_restricted(pod)
        gpu = overlay == "gpu" and "proxy" not in name
        # One GPU of a machine is the server's: jobs that asked for another would wait for ever.
        limits = pod["containers"][0]["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits) == (gpu and name == "Deployment/whence-server")
        assert ("tolerations" in pod) == gpu
        named = {one["name"]: one["value"] for one in pod["containers"][0].get("env", [])}
        assert named == ({"WHENCE_DEVICE": "cuda"} if "nvidia.com/gpu" in limits else {})


@needs_kubectl
def test_jobs_differ_by_their_commands_alone() -> None:
    rebuild, train = (
        pods(rendered("base"))[f"CronJob/{name}"] for name in ("whence-rebuild", "whence-train")
    )
    commands = [pod["containers"][0].pop("args")[0] for pod in (rebuild, train)]
    assert commands == ["rebuild", "train"]
    assert rebuild == train
    mounted = {volume["name"] for volume in rebuild["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in rebuild["volumes"]}


def test_jobs_end_at_some_time() -> None:
    for name in ("whence-rebuild", "whence-train"):
        assert RESOURCES[f"CronJob/{name}"]["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]


def test_what_the_folder_brings() -> None:
    assert PODS.keys() == {
        "Deployment/whence-server",
        "Deployment/whence-proxy",
        "CronJob/whence-rebuild",
        "CronJob/whence-train",
    }
    assert {"PersistentVolumeClaim/whence-data", "NetworkPolicy/whence-default"} <= RESOURCES.keys()


def check_restricted(pod: dict[str, Any]) -> None:
    """Check that a pod has no privileges, and bounds on what it takes."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        assert container["image"] in {"whence", IMAGE, COMPOSE["services"]["proxy"]["image"]}
    for volume in pod["volumes"]:
        assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": None})


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_pods_of_deployments_are_restricted(name: str) -> None:
    check_restricted(PODS[name])


def test_probes_and_ports_are_those_of_the_server() -> None:
    [container] = PODS["Deployment/whence-server"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    probes = {
        kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")
    }
    assert {kind: probe["path"] for kind, probe in probes.items()} == {
        "startup": "/health/live",
        "liveness": "/health/live",
        "readiness": "/health/ready",
    }
    assert {probe["port"] for probe in probes.values()} == {"http"}
    settings = dict(re.findall(r"^(\w+)=(.*)$", (BASE / "settings.env").read_text(), re.MULTILINE))
    assert ports == {"http": 8000, "metrics": int(settings["WHENCE_METRICS_PORT"])}
    known = {f"WHENCE_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in settings if name.startswith("WHENCE_")} <= known


def test_the_proxy_asks_the_headless_service() -> None:
    text = (ROOT / "deploy/nginx/kubernetes.conf").read_text(encoding="utf-8")
    [(service, namespace, port)] = re.findall(r"server ([\w-]+)\.([\w-]+)\.svc\.\S+:(\d+) ", text)
    spec = RESOURCES[f"Service/{service}"]["spec"]
    assert spec["clusterIP"] == "None"
    assert int(port) in {one["port"] for one in spec["ports"]}
    assert KUSTOMIZATION["namespace"] == namespace
    # The pause before a server stops is longer than DNS (30 s) and the proxy remember its address.
    [seconds] = re.findall(r"resolver \S+ valid=(\d+)s;", text)
    [container] = PODS["Deployment/whence-server"]["containers"]
    [_, pause] = container["lifecycle"]["preStop"]["exec"]["command"]
    assert int(pause) > 30 + int(seconds)
    grace = PODS["Deployment/whence-server"]["terminationGracePeriodSeconds"]
    assert grace >= int(pause) + Settings.model_fields["deadline_seconds"].default + 15


def test_uploads_fit_the_memory_of_the_proxy() -> None:
    pod = PODS["Deployment/whence-proxy"]
    [tmp] = [v["emptyDir"] for v in pod["volumes"] if v["name"] == "tmp"]
    assert tmp == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert pod["containers"][0]["resources"]["limits"]["memory"] == "1280Mi"
