"""What cannot be run without Docker and Kubernetes, held against their schemas, and against the project itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from project import ROOT

INFRA = ROOT / "infra"
BIN = Path(sys.executable).parent
KUBERNETES = "1.34"

# The fields of KubeRay 1.5's own objects; the rest of them are objects of Kubernetes, which have schemas.
CLUSTER = {
    "rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "gcsFaultToleranceOptions",
    "headGroupSpec", "workerGroupSpecs", "suspend", "managedBy",
}  # fmt: skip
HEAD = {"rayStartParams", "template", "serviceType", "headService", "enableIngress"}
WORKERS = {
    "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "numOfHosts", "rayStartParams",
    "template", "scaleStrategy", "suspend",
}  # fmt: skip
JOB = {
    "entrypoint", "submissionMode", "runtimeEnvYAML", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
    "activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "metadata", "jobId", "suspend", "submitterPodTemplate",
    "clusterSelector", "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "managedBy",
}  # fmt: skip
SERVICE = {"serveConfigV2", "rayClusterConfig", "serveService", "upgradeStrategy", "excludeHeadPodFromServeSvc"}


def documents() -> list[tuple[str, dict]]:
    found = []
    for file in sorted((INFRA / "kuberay").glob("*.yaml")):
        if file.name != "kustomization.yaml":
            found += [(file.name, each) for each in yaml.safe_load_all(file.read_text())]
    return found


OBJECTS = documents()


def clusters() -> list[dict]:
    """Every Ray cluster described."""
    found = []
    for _, each in OBJECTS:
        spec = each.get("spec", {})
        if each["kind"] == "RayCluster":
            found.append(spec)
        found += [spec[name] for name in ("rayClusterSpec", "rayClusterConfig") if name in spec]
    return found


def templates() -> list[dict]:
    """Every pod described, of Ray's clusters."""
    groups = [group for spec in clusters() for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    return [group["template"] for group in groups]


def valid(definition: dict) -> None:
    kubernetes_validate.validate(definition, KUBERNETES, strict=True)


@pytest.mark.parametrize(("file", "each"), OBJECTS, ids=[f"{file}-{each['kind']}" for file, each in OBJECTS])
def test_objects_are_what_kubernetes_expects(file, each):
    if each["apiVersion"] != "ray.io/v1":
        valid(each)
        return
    fields = {"RayCluster": CLUSTER, "RayJob": JOB, "RayService": SERVICE}[each["kind"]]
    assert set(each["spec"]) <= fields
    assert each["metadata"].get("name") or each["metadata"]["generateName"]


def test_pods_of_ray_are_what_kubernetes_expects():
    assert len(templates()) == 7
    for spec in clusters():
        assert set(spec) <= CLUSTER and set(spec["headGroupSpec"]) <= HEAD
        assert all(set(group) <= WORKERS for group in spec["workerGroupSpecs"])
    for template in templates():
        valid(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "pod", **template["metadata"]},
                **{"spec": template["spec"]},
            }
        )


def test_the_check_can_fail():
    pod = json.loads(json.dumps(templates()[0]))
    pod["spec"]["containers"][0]["imagePullPolizy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        valid({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod["spec"]})


def test_heads_are_highly_available_and_compute_nothing():
    for spec in clusters():
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0" and spec["authOptions"] == {"mode": "token"}
        assert spec["rayVersion"] == pinned("ray")
    for name in ("cluster.yaml", "service.yaml"):
        assert "redisAddress" in (INFRA / "kuberay" / name).read_text()


def test_pods_are_not_root_and_ask_for_what_they_need():
    specs = [template["spec"] for template in templates()]
    specs += [
        each["spec"]["jobTemplate"]["spec"]["template"]["spec"] for _, each in OBJECTS if each["kind"] == "CronJob"
    ]
    assert len(specs) == 8
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"]
        for container in spec["containers"]:
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]


def test_what_pods_refer_to_is_made_here_or_named_in_the_readme():
    made = {each["metadata"].get("name") for _, each in OBJECTS}
    readme = (INFRA / "kuberay" / "README.md").read_text()
    written = json.dumps([each for _, each in OBJECTS])
    referred = set(re.findall(r'"(?:secretName|claimName)": "([^"]+)"', written))
    referred |= set(re.findall(r'"(?:secretRef|configMapRef|secretKeyRef)": \{[^}]*"name": "([^"]+)"', written))
    assert {"beholder-secrets", "beholder-settings", "beholder-access", "beholder-data"} <= referred
    assert all(name in made or f"`{name}`" in readme or f" {name} " in readme for name in referred), referred
    listed = yaml.safe_load((INFRA / "kuberay" / "kustomization.yaml").read_text())["resources"]
    assert all((INFRA / "kuberay" / name).is_file() for name in listed)


def test_the_nightly_refresh_is_a_command_that_exists():
    from typer.testing import CliRunner

    from beholder.cli.main import app

    (cron,) = [each for _, each in OBJECTS if each["kind"] == "CronJob"]
    command = cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["command"]
    done = CliRunner().invoke(app, [*command[1:], "--address", "nowhere"])
    assert done.exit_code == 2 and "expected that of the dashboard" in done.stderr  # all else was understood


def test_the_compose_file_is_what_compose_expects():
    file = INFRA / "compose" / "compose.yaml"
    done = subprocess.run(
        [BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file], capture_output=True
    )
    assert done.returncode == 0, done.stdout.decode()
    services = yaml.safe_load(file.read_text())["services"]
    assert {"head", "worker", "serve", "mlflow", "postgres", "s3", "prometheus", "grafana"} <= set(services)
    for name, service in services.items():
        assert ":" in service["image"] and not service["image"].endswith(":latest"), name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} would listen beyond loopback"
        for needed in service.get("depends_on", []):
            assert needed in services
    for path in re.findall(r"\.\./monitoring/[\w./]+", file.read_text()):
        assert (file.parent / path).exists(), path


def test_the_dockerfile_passes_its_lint_and_pins_what_the_project_pins():
    file = INFRA / "docker" / "Dockerfile"
    done = subprocess.run([BIN / "hadolint", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    written = file.read_text()
    assert f"RAY_VERSION={pinned('ray')}" in written and f"torch=={pinned('torch')}" in written
    embedded = re.search(r"EMBEDDED := (.*)", (ROOT / "Makefile").read_text())
    assert embedded and embedded[1] in written
    user = re.findall(r"^USER (\S+)", written, re.M)
    assert user == ["1000"]
    for source in re.findall(r"^COPY --chown=\S+ (.+) \S+$", written, re.M):
        assert all((ROOT / name).exists() for name in source.split())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"cluster", "gpu"} <= set(extras)


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert found
    return found[1]


def test_rules_and_panels_say_what_they_are_for():
    groups = yaml.safe_load((INFRA / "monitoring" / "alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == 7
    for rule in rules:
        assert rule["annotations"]["summary"] and rule["annotations"]["remedy"] and rule["labels"]["severity"]
    board = json.loads((INFRA / "monitoring" / "grafana" / "dashboards" / "beholder.json").read_text())
    assert len({panel["title"] for panel in board["panels"]}) == len(board["panels"]) == 12
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]}
    assert len(places) == 12  # none lies on another
    source = yaml.safe_load((INFRA / "monitoring" / "grafana" / "datasources" / "prometheus.yml").read_text())
    uid = source["datasources"][0]["uid"]
    assert all(target["datasource"]["uid"] == uid for panel in board["panels"] for target in panel["targets"])


def test_every_folder_says_how_to_start_check_and_end_it_and_what_was_not_run():
    for folder in ("docker", "compose", "kuberay", "monitoring"):
        readme = (INFRA / folder / "README.md").read_text()
        assert "Check" in readme and "**Not run**" in readme
        assert "Remove" in readme or "Take down" in readme


def test_no_secret_stands_in_a_file():
    value = re.compile(r"(?i)(password|secret_access_key|token)\s*[:=]\s*[\"']?([A-Za-z0-9+/_-]{12,})")
    for file in INFRA.rglob("*"):
        if file.is_file():
            for found in value.finditer(file.read_text()):
                assert found[2].startswith(("secrets", "valueFrom")), f"{file}: {found[0]}"
