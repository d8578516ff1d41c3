"""Image, compose file, Kubernetes manifests and systemd unit fit the program and each other."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from click.testing import CliRunner

from galaxy_mail.cli import main
from galaxy_mail.cli.serve import AFTER_GRACE_S
from galaxy_mail.config import Config
from galaxy_mail.settings.kinds import duration_ms
from tests.deploy import promql
from tests.deploy.frozen import DATA, USER
from tests.deploy.promtool import ROOT, needs_promtool, promtool

DEPLOY: Final = ROOT / "deploy"
KUBERNETES: Final = DEPLOY / "kubernetes"
IN_PATH: Final = "/usr/bin/galaxy-mail"
VERSION: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
ANY_DURATION: Final = duration_ms(at_least="0s", at_most="24h")


@cache
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return document


@cache
def manifests() -> dict[str, dict[str, Any]]:
    """Everything that the kustomization names, and the example of a secret, by kind."""
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    found = {}
    for name in (*kustomization["resources"], "secret.example.yaml"):
        document = yaml.safe_load((KUBERNETES / name).read_text(encoding="utf-8"))
        found[document["kind"]] = document
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = manifests()["Deployment"]["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    [only] = pod()["containers"]
    spec: dict[str, Any] = only
    return spec


def config_of(env: Mapping[str, str], files: Mapping[str, str], folder: Path) -> Config:
    """What the service makes of these variables, with these files mounted. Raises ConfigError."""
    given = dict(env)
    for name, value in env.items():
        if name.endswith("_FILE"):
            path = folder / name
            path.write_text(files[value])
            given[name] = str(path)
    return Config.from_env(given)


def default_port() -> int:
    return Config.from_env({"MAIL_REDIS_ADDR": "localhost:6379"}).internal_http_addr.port


def secrets_in_clear(env: Mapping[str, str]) -> set[str]:
    """Variables that hold a secret themselves, where they should name a file."""
    secrets = ((one.variable, one.mask) for one in Config.settings() if one.mask)
    return {name for name, shown in secrets if name in env and shown(env[name]) != env[name]}


# The image


def stages() -> list[list[tuple[str, str]]]:
    """The Dockerfile's instructions, by stage."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", text)).splitlines()
    instructions = [(verb, rest.strip()) for verb, _, rest in (line.partition(" ") for line in lines if line)]
    starts = [number for number, (verb, _) in enumerate(instructions) if verb == "FROM"]
    return [instructions[start:end] for start, end in zip(starts, [*starts[1:], None], strict=True)]


def test_the_image_holds_what_the_tests_run_and_nothing_else() -> None:
    last = stages()[-1]
    assert last[0] == ("FROM", "scratch")
    copies = [rest for verb, rest in last if verb in {"COPY", "ADD"}]
    assert copies == [
        "--from=build /src/dist/root/ /",
        f"--from=build --chown={USER}:{USER} /src/dist/root{DATA} {DATA}",
    ]
    assert not [verb for verb, _ in last if verb == "RUN"]


def test_the_image_runs_as_nobody_in_particular_and_probes_itself() -> None:
    last = dict(stages()[-1])
    assert last["USER"] == f"{USER}:{USER}"
    assert last["ENTRYPOINT"] == f'["{IN_PATH}"]'
    assert last["CMD"] == '["serve"]'
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert last["EXPOSE"] == str(default_port())
    probe = re.findall(r'"([^"]*)"', last["HEALTHCHECK"].partition("CMD")[2])
    assert_is_a_probe(probe)
    assert "--live" in probe, "engines restart what is unhealthy"


def assert_is_a_probe(command: list[str]) -> None:
    assert command[:2] == [IN_PATH, "healthcheck"]
    shown = CliRunner().invoke(main, [*command[1:], "--help"])
    assert shown.exit_code == 0, shown.output


def test_the_build_has_what_it_needs_and_no_more(tmp_path: Path) -> None:
    """In a folder with what is copied alone, make knows how to get to the executable."""
    copied = [rest.split()[:-1] for verb, rest in stages()[0] if verb == "COPY"]
    names = [name for group in copied for name in group]
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignore if line.startswith("!")} == set(names)
    for name in names:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    for needed in (project["readme"], *project["license-files"]):
        assert (tmp_path / needed).exists()
    planned = subprocess.run(
        ["make", "--dry-run", "binary"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert planned.returncode == 0, planned.stderr
    assert "packaging/galaxy-mail.spec" in planned.stdout
    assert "dist/root" in planned.stdout


def test_every_tag_is_this_version() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    assert compose()["services"]["galaxy-mail"]["image"] == f"galaxy-mail:{VERSION}"
    assert kustomization["images"] == [{"name": "galaxy-mail", "newTag": VERSION}]
    assert f"-t galaxy-mail:{VERSION} ." in (DEPLOY / "Dockerfile").read_text()


# Compose


def test_the_composed_service_has_a_configuration(tmp_path: Path) -> None:
    service = compose()["services"]["galaxy-mail"]
    files = {
        f"/run/secrets/{name}": (DEPLOY / secret["file"]).read_text()
        for name, secret in compose()["secrets"].items()
    }
    assert set(service["secrets"]) == set(compose()["secrets"])
    config = config_of(service["environment"], files, tmp_path)
    assert config.warnings() == ()
    assert secrets_in_clear(service["environment"]) == set()
    services = compose()["services"].keys()
    assert [host for host, _ in config.redis_addr.hosts] == ["valkey"]
    assert "valkey" in services
    assert config.smtp_addr is not None
    assert config.smtp_addr.host in services
    assert str(config.internal_http_addr.port) in service["ports"][0].split(":")


def test_the_composed_service_may_do_nothing_that_it_need_not() -> None:
    service = compose()["services"]["galaxy-mail"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service, "the image says who"
    assert ANY_DURATION(service["stop_grace_period"]) > stop_takes_ms(service["environment"])
    assert_is_a_probe(service["healthcheck"]["test"][1:])
    for name, one in compose()["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in one.get("ports", ())), name


def test_the_composed_valkey_keeps_what_it_is_given() -> None:
    command = compose()["services"]["valkey"]["command"]
    assert dict(zip(command[1::2], command[2::2], strict=True)) == {
        "--appendonly": "yes",
        "--appendfsync": "always",
        "--save": "",
        "--maxmemory-policy": "noeviction",
        "--hash-max-listpack-value": "65536",
        "--hash-max-listpack-entries": "16",
    }


def test_what_compose_mounts_exists() -> None:
    for service in compose()["services"].values():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert source in compose()["volumes"] or (DEPLOY / source).exists(), mount


@needs_promtool
def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "compose" / "prometheus.yaml", tmp_path)
    shutil.copy(DEPLOY / "prometheus" / "alerts.yaml", tmp_path)
    assert "SUCCESS" in promtool("check", "config", tmp_path / "prometheus.yaml")


# Kubernetes


def environment() -> dict[str, str]:
    direct = {one["name"]: one["value"] for one in container()["env"]}
    return {**manifests()["ConfigMap"]["data"], **direct}


def test_the_pod_has_a_configuration(tmp_path: Path) -> None:
    [mount] = container()["volumeMounts"]
    [volume] = pod()["volumes"]
    assert mount["name"] == volume["name"]
    assert mount["readOnly"] is True
    secret = manifests()["Secret"]
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]
    files = {f"{mount['mountPath']}/{key}": value for key, value in secret["stringData"].items()}
    config = config_of(environment(), files, tmp_path)
    assert config.warnings() == ()
    assert secrets_in_clear(environment()) == set()
    named = {value for name, value in environment().items() if name.endswith("_FILE")}
    assert named == set(files), "each file is read by a variable"
    assert [one["configMapRef"]["name"] for one in container()["envFrom"]] == [
        manifests()["ConfigMap"]["metadata"]["name"]
    ]


def test_nothing_else_in_the_namespace_can_break_the_configuration() -> None:
    """Kubernetes puts MAIL_PORT and the like into the environment where a service is called "mail"."""
    assert pod()["enableServiceLinks"] is False


def test_the_pod_has_time_to_stop() -> None:
    sleep_ms = container()["lifecycle"]["preStop"]["sleep"]["seconds"] * 1000
    assert pod()["terminationGracePeriodSeconds"] * 1000 > sleep_ms + stop_takes_ms(environment())


def stop_takes_ms(env: Mapping[str, str]) -> float:
    [setting] = (one for one in Config.settings() if one.field == "shutdown_grace_ms")
    grace_ms = setting.parse(env.get(setting.variable) or setting.default or "")
    assert isinstance(grace_ms, int)
    assert AFTER_GRACE_S <= 2
    return grace_ms + 2000


def test_probes_ask_what_they_should() -> None:
    routes = promql.values("http_responses", "route")
    assert routes is not None
    [port] = container()["ports"]
    asked = {}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = container()[probe]["httpGet"]
        assert get["port"] == port["name"]
        assert f"GET {get['path']}" in routes
        asked[probe] = get["path"]
    assert asked == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert port["containerPort"] == default_port()
    annotations = manifests()["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    assert f"GET {annotations['prometheus.io/path']}" in routes


def test_the_pod_may_do_nothing_that_it_need_not() -> None:
    assert pod()["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container()["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["automountServiceAccountToken"] is False
    assert pod()["serviceAccountName"] == manifests()["ServiceAccount"]["metadata"]["name"]
    assert container()["resources"]["limits"].keys() == {"memory"}


def test_everything_is_about_the_same_pods() -> None:
    labels = manifests()["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests()["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests()["Service"]["spec"]["selector"] == labels
    budget = manifests()["PodDisruptionBudget"]["spec"]
    assert budget["selector"]["matchLabels"] == labels
    [spread] = pod()["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels
    assert all(one["metadata"]["labels"] == labels for one in manifests().values())
    assert {one["targetPort"] for one in manifests()["Service"]["spec"]["ports"]} == {
        one["name"] for one in container()["ports"]
    }


def test_a_drained_node_and_a_release_leave_somebody_at_work() -> None:
    deployment = manifests()["Deployment"]["spec"]
    budget = manifests()["PodDisruptionBudget"]["spec"]
    assert deployment["replicas"] - budget["maxUnavailable"] >= 1
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl, which has kustomize in it")
def test_kustomize_takes_the_kustomization() -> None:
    built = subprocess.run(["kubectl", "kustomize", KUBERNETES], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    documents = list(yaml.safe_load_all(built.stdout))
    kinds = {document["kind"] for document in documents}
    assert kinds == manifests().keys() - {"Secret"}
    [deployment] = (document for document in documents if document["kind"] == "Deployment")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == f"galaxy-mail:{VERSION}"


# systemd


def unit() -> list[tuple[str, str]]:
    text = (DEPLOY / "systemd" / "galaxy-mail.service").read_text(encoding="utf-8")
    pairs = (line.partition("=") for line in text.splitlines() if line and line[0] not in "#[")
    return [(name, value) for name, _, value in pairs]


def test_the_unit_signals_the_program_once_and_gives_it_time() -> None:
    settings = dict(unit())
    assert settings["KillMode"] == "mixed"
    assert float(settings["TimeoutStopSec"]) * 1000 > stop_takes_ms({})
    assert settings["ExecStart"].split()[1:] == ["serve"]
    assert "noexec" not in settings.get("MountFlags", "")


def test_the_unit_s_secrets_are_files(tmp_path: Path) -> None:
    credentials = {value.partition(":")[0] for name, value in unit() if name == "LoadCredential"}
    env = dict(value.split("=", 1) for name, value in unit() if name == "Environment")
    assert {value.removeprefix("%d/") for value in env.values()} == credentials
    others = {"MAIL_REDIS_ADDR": "localhost:6379", "MAIL_SMTP_USERNAME": "galaxy-mail"}
    config = config_of({**env, **others}, dict.fromkeys(env.values(), "a-secret-of-some-length"), tmp_path)
    assert config.warnings() == ()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / "galaxy-mail.service"
    program = shutil.which("true")
    assert program is not None
    text = (DEPLOY / "systemd" / copy.name).read_text()
    copy.write_text(text.replace("/usr/local/bin/galaxy-mail", program))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")
