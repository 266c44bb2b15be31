"""deploy/: valid by the published schemas; the same commands, numbers and privileges as in the code."""

from __future__ import annotations

import copy
import importlib.resources
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from whyidle_agent.options import parser
from whyidle_daemon import main as daemon_main
from whyidle_daemon.privileges import kept

DEPLOY = Path(__file__).parents[3] / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
OURS = ("kustomization.yaml", "prometheus-adapter.yaml")  # of tools, and not objects of the cluster
VERSIONS = ("1.30", "1.32", "1.34", "1.37")
LOADER = {"SETPCAP", "SYS_RESOURCE"}  # systemd/whyidled.service: only until the probes are attached


class Loader(yaml.SafeLoader):
    """YAML with the tags that Compose adds."""


Loader.add_constructor("!reset", lambda loader, node: [])


def load(path: Path) -> list[dict[str, Any]]:
    return list(yaml.load_all(path.read_text(), Loader))


def objects() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{path.name} {one['kind']}", one)
        for path in KUBERNETES
        if path.name not in OURS
        for one in load(path)
    ]


def find(kind: str, name: str) -> dict[str, Any]:
    return next(one for _, one in objects() if (one["kind"], one["metadata"]["name"]) == (kind, name))


def pod(kind: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = find(kind, name)["spec"]["template"]["spec"]
    return found


def compose_schema() -> dict[str, Any]:
    folder = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema: dict[str, Any] = json.loads((folder / "compose-spec.json").read_text())
    return schema


def compose() -> dict[str, Any]:
    return load(DEPLOY / "compose.yaml")[0]


@pytest.mark.parametrize("name", ["compose.yaml", "compose.cpu.yaml"])
def test_compose_is_valid(name: str) -> None:
    """By the schema of the Compose specification."""
    jsonschema.validate(load(DEPLOY / name)[0], compose_schema())


def test_the_compose_schema_refuses_what_is_wrong() -> None:
    """The check above can fail."""
    wrong = compose()
    wrong["services"]["agent"]["memory"] = "8G"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, compose_schema())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [name for name, _ in objects()])
def test_kubernetes_objects_are_valid(name: str, version: str) -> None:
    """By the OpenAPI schemas of Kubernetes, in which an unknown field is an error."""
    kubernetes_validate.validate(dict(objects())[name], version, strict=True)


@pytest.mark.parametrize("kind", ["DaemonSet", "Deployment", "HorizontalPodAutoscaler"])
def test_the_kubernetes_schemas_refuse_what_is_wrong(kind: str) -> None:
    """The check above can fail."""
    wrong = copy.deepcopy(next(one for _, one in objects() if one["kind"] == kind))
    wrong["spec"]["replicaz"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_kustomize_takes_every_object() -> None:
    """`kubectl apply -k` forgets none."""
    (listed,) = load(DEPLOY / "kubernetes" / "kustomization.yaml")
    assert sorted(listed["resources"]) == [path.name for path in KUBERNETES if path.name not in OURS]


def test_agents_have_the_limits_of_the_article() -> None:
    """4 CPUs, 8 GB and one GPU, in Compose and in Kubernetes."""
    resources = compose()["services"]["agent"]["deploy"]["resources"]
    assert resources["limits"] == {"cpus": "4", "memory": "8G"}
    (device,) = resources["reservations"]["devices"]
    assert (device["count"], device["capabilities"]) == (1, ["gpu"])
    limits = pod("Deployment", "agent")["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "1"}


def test_commands_are_understood() -> None:
    """What the containers are told to run, the programs' own command lines accept."""
    agents = (
        compose()["services"]["agent"]["command"],
        pod("Deployment", "agent")["containers"][0]["args"],
    )
    for words in agents:
        filled = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in words]
        options = parser().parse_args(filled)
        assert options.command == "serve"
        parser().parse_args(["run", *options.options])
    container = pod("DaemonSet", "whyidle")["containers"][0]
    assert container["command"][-1] == "whyidled"
    for words in (compose()["services"]["whyidle"]["command"][1:], container["args"]):
        daemon_main._parser().parse_args(words)


def test_configurations_are_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The daemon accepts the configuration that either brings, and listens where the port says."""
    container = pod("DaemonSet", "whyidle")["containers"][0]
    texts = {
        "compose": (DEPLOY / compose()["configs"]["whyidle"]["file"]).read_text(),
        "kubernetes": find("ConfigMap", "whyidle")["data"]["config.toml"],
    }
    for name, text in texts.items():
        path = tmp_path / name
        path.write_text(text)
        assert daemon_main.main(["--config", str(path), "--check-config"]) == 0
        assert ':9747"' in text
    assert container["ports"][0]["containerPort"] == 9747
    assert compose()["services"]["whyidle"]["ports"] == ["127.0.0.1:9747:9747"]
    assert capsys.readouterr().out.count(": good\n") == 2


def test_what_compose_gives_can_be_in_a_root_that_is_read_only() -> None:
    """Compose mounts a file, and copies content into the container, which fails there (compose #12031)."""
    given = compose()
    for name in given["services"]["whyidle"]["configs"]:
        assert list(given["configs"][name["source"]]) == ["file"]
    assert given["services"]["whyidle"]["read_only"] is True


def test_whyidle_has_the_privileges_that_it_uses_and_no_other() -> None:
    """Those that the code says it needs on an old kernel, those of the loader; each says what it is for."""
    needed = {name.removeprefix("CAP_") for name in kept(uprobe_multi=False)} | LOADER
    service = compose()["services"]["whyidle"]
    container = pod("DaemonSet", "whyidle")["containers"][0]["securityContext"]
    assert set(service["cap_add"]) == set(container["capabilities"]["add"]) == needed
    assert service["cap_drop"] == container["capabilities"]["drop"] == ["ALL"]
    assert "privileged" not in service
    assert container["privileged"] is False
    for path in (DEPLOY / "compose.yaml", DEPLOY / "kubernetes" / "whyidle.yaml"):
        for name in needed:
            assert re.search(rf"^ +- {name} +# \w", path.read_text(), re.MULTILINE), (path.name, name)


def test_agents_have_no_privileges() -> None:
    """An agent runs what a model wrote: without capabilities, on a root it cannot write to."""
    service = compose()["services"]["agent"]
    assert (service["cap_drop"], service["read_only"]) == (["ALL"], True)
    spec = pod("Deployment", "agent")
    container = spec["containers"][0]["securityContext"]
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert container["readOnlyRootFilesystem"] is True
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False


def test_ports_and_volumes_have_their_other_end() -> None:
    """Probes and annotations name ports that exist, mounts volumes that exist, selectors their pods."""
    for kind, name in (("DaemonSet", "whyidle"), ("Deployment", "agent")):
        spec, template = find(kind, name)["spec"], find(kind, name)["spec"]["template"]
        container = template["spec"]["containers"][0]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container.get(probe, {"httpGet": {"port": "metrics"}})["httpGet"]["port"] in ports
        assert template["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in template["spec"]["volumes"]}
        assert spec["selector"]["matchLabels"] == template["metadata"]["labels"]
        assert {one["metadata"].get("namespace", "whyidle") for _, one in objects()} == {"whyidle"}


def test_the_autoscaler_asks_for_the_metric_that_there_is() -> None:
    """Its target exists, and its metric is the one that the adapter makes."""
    spec = find("HorizontalPodAutoscaler", "agent")["spec"]
    assert find(spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
    (adapter,) = load(DEPLOY / "kubernetes" / "prometheus-adapter.yaml")
    (rule,) = adapter["rules"]["external"]
    (metric,) = spec["metrics"]
    assert metric["external"]["metric"]["name"] == rule["name"]["as"]


def test_prometheus_is_told_of_the_job_that_the_alerts_go_by() -> None:
    (scrape,) = load(DEPLOY / "prometheus" / "scrape.yml")
    (job,) = scrape["scrape_configs"]
    assert f'up{{job="{job["job_name"]}"}}' in (DEPLOY / "prometheus" / "alerts.yml").read_text()
    assert job["static_configs"] == [{"targets": ["127.0.0.1:9747"]}]
