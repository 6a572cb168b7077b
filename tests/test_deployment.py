"""The files that ship Whence fit together, and fit the command and their schemas.

Nothing here needs a container engine or the network.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.main import get_command

from app.cli.main import cli
from app.main import create_app
from index.stores.milvus import MilvusAddress

ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "client"
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
TLS = yaml.safe_load((ROOT / "docker-compose.tls.yml").read_text(encoding="utf-8"))
GPU = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text(encoding="utf-8"))
OURS = {n: service for n, service in COMPOSE["services"].items() if service["image"] == "whence"}
SCALE = {n: s for n, s in COMPOSE["services"].items() if s.get("profiles") == ["scale"]}
REPLICAS = SCALE.keys() & OURS.keys()
MONITORING = [n for n, s in COMPOSE["services"].items() if s.get("profiles") == ["monitoring"]]
WORKFLOW = ROOT / ".github/workflows/ci.yml"


def run(*command: str | Path) -> str:
    """What the command prints; a failure shows it."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def instructions() -> Iterator[tuple[str, str]]:
    """Every instruction of the Dockerfile: its keyword and the rest, with line breaks joined."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            keyword, rest = line.split(maxsplit=1)
            yield keyword, rest


def final_stage() -> list[tuple[str, str]]:
    every = list(instructions())
    last = max(i for i, (keyword, _) in enumerate(every) if keyword == "FROM")
    return every[last:]


def final(keyword: str) -> str:
    """What the last such instruction of the final stage says: the one that counts."""
    return [rest for word, rest in final_stage() if word == keyword][-1]


def final_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(final("ENV")))


def requirements(*lines: str) -> dict[str, Requirement]:
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return requirements(*(line for line in lines if line and not line.lstrip().startswith("#")))


def env_file(path: Path) -> dict[str, str]:
    """The settings in an env file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def parse(args: list[str]) -> None:
    """Read the arguments as `whence` would, down to the last sub-command's options; run nothing."""
    command, context = get_command(cli), None
    while hasattr(command, "get_command"):
        context = command.context_class(command, parent=context)
        name, *args = args
        command = command.get_command(context, name)
        assert command, f"whence has no command {name}"
    command.make_context(name, args, parent=context)


# The image


def test_dockerfile_passes_the_linter() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    assert run(hadolint, "--failure-threshold", "style", ROOT / "Dockerfile") == ""
    assert "hadolint ignore" not in DOCKERFILE


def test_base_image_is_pinned() -> None:
    stages = [rest.split() for keyword, rest in instructions() if keyword == "FROM"]
    names = {stage[2] for stage in stages}
    assert {stage[0] for stage in stages if stage[0] not in names} == {"${BASE}"}
    [base] = [rest for keyword, rest in instructions() if rest.startswith("BASE=")]
    assert re.fullmatch(r"BASE=python:3\.1[123]\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)


def test_image_runs_as_a_numbered_user_other_than_root() -> None:
    # By number, so that a cluster which forbids root can tell without looking inside.
    uid, gid = final("USER").split(":")
    assert int(uid) > 0
    assert int(gid) > 0
    made = [rest for keyword, rest in final_stage() if keyword == "RUN"]
    assert any(f"--uid {uid} " in rest for rest in made)


def test_final_stage_builds_nothing() -> None:
    said = "\n".join(rest for keyword, rest in final_stage() if keyword == "RUN")
    assert not re.search(r"\b(apt|apt-get|apk|pip|gcc|g\+\+|make|build-essential)\b", said)


def test_everything_installed_in_the_image_is_pinned() -> None:
    installs = [rest for keyword, rest in instructions() if "pip install" in rest]
    assert installs
    assert all(
        "-c /constraints.txt" in rest or ("--no-deps" in rest and "--no-build-isolation" in rest)
        for rest in installs
    )


def test_each_package_of_the_image_has_hashes_and_the_version_that_is_pinned() -> None:
    text = (ROOT / "constraints-image.txt").read_text(encoding="utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line
    locked = requirements(*(line.partition(" --hash")[0] for line in lines))
    pinned = pins()
    for name, requirement in locked.items():
        assert requirement.specifier == pinned[name].specifier
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = asked["optional-dependencies"]
    named = ("otel", "milvus", "signing", "s3", "http")
    needed = [*asked["dependencies"], *(one for name in named for one in extras[name])]
    assert locked.keys() >= requirements(*needed).keys()


def test_code_is_copied_after_the_dependencies() -> None:
    # Else a changed line of code would install, and push, gigabytes again.
    ours = {"app", "client", "index", "model"}
    stages: list[set[str]] = []
    for keyword, rest in instructions():
        if keyword == "FROM":
            stages.append(set())
        elif keyword == "COPY":
            stages[-1].update(rest.split())
        elif "-c /constraints.txt" in rest:
            assert not stages[-1] & ours
    copies = [rest for keyword, rest in final_stage() if keyword == "COPY"]
    assert [rest.split()[0] for rest in copies] == ["--from=dependencies", "--from=code"]


def test_everything_the_dockerfile_copies_is_let_through() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    copied = {
        source
        for keyword, rest in instructions()
        if keyword == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)


def test_every_package_is_in_the_image() -> None:
    # The image installs what this list names; an editable install would hide a gap.
    found = {
        ".".join(init.parent.relative_to(root).parts)
        for root, top in [
            (ROOT, "app"),
            (ROOT, "index"),
            (ROOT, "model"),
            (CLIENT, "whence_client"),
        ]
        for init in (root / top).rglob("__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_labels_say_the_project_s_own_version_and_license() -> None:
    labels = dict(pair.split("=", 1) for pair in shlex.split(final("LABEL")))
    assert labels["org.opencontainers.image.version"] == PROJECT["project"]["version"]
    assert labels["org.opencontainers.image.licenses"] == PROJECT["project"]["license"]


def test_entrypoint_is_the_installed_command_and_serves() -> None:
    assert json.loads(final("ENTRYPOINT")) == list(PROJECT["project"]["scripts"])
    command = json.loads(final("CMD"))
    assert command[0] == "serve"
    assert command[command.index("--port") + 1] == final("EXPOSE")
    parse(command)


def test_pytorch_without_cuda_has_the_pinned_versions() -> None:
    [install] = [rest for _, rest in instructions() if "$TORCH_INDEX" in rest]
    assert "TORCH_INDEX=" in [rest for keyword, rest in instructions() if keyword == "ARG"]
    [pattern] = re.findall(r"grep -E '([^']+)' /constraints.txt", install)
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = requirements(*(line for line in lines if re.search(pattern, line)))
    assert found.keys() == {"torch", "torchvision"}
    assert all(service["build"]["args"].keys() == {"TORCH_INDEX"} for service in OURS.values())


def test_no_library_in_the_image_reports_its_use() -> None:
    environment = final_environment()
    assert environment["ORT_DISABLE_TELEMETRY"] == environment["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_data_lie_in_the_volume() -> None:
    environment = final_environment()
    assert environment["WHENCE_DATA"] == final("VOLUME")
    assert Path(environment["HF_HOME"]).is_relative_to(final("VOLUME"))


# Compose


SCHEMAS = {
    "docker-compose.yml": "vendor.compose-spec",
    "docker-compose.gpu.yml": "vendor.compose-spec",
    "docker-compose.tls.yml": "vendor.compose-spec",
    ".github/workflows/ci.yml": "vendor.github-workflows",
}


@pytest.mark.parametrize("file", SCHEMAS)
def test_files_fit_their_schema(file: str) -> None:
    run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[file], file)


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """What a service mounts: target to source."""
    pairs = (
        (v["source"], v["target"]) if isinstance(v, dict) else tuple(v.split(":")[:2])
        for v in service["volumes"]
    )
    return {target: source for source, target in pairs}


def command_of(service: dict[str, Any]) -> list[str]:
    return service["command"] if "command" in service else json.loads(final("CMD"))


@pytest.mark.parametrize("name", OURS)
def test_every_service_s_command_is_one_that_whence_accepts(name: str, tmp_path: Path) -> None:
    service = COMPOSE["services"][name]
    args = command_of(service)
    paths = [arg for arg in args if arg.startswith("/")]
    assert set(paths) <= set(mounts(service))
    # Here those folders do not exist, and the command may well look.
    parse([str(tmp_path) if arg in paths else arg for arg in args])


@pytest.mark.parametrize("args", [["server"], ["serve", "--porto", "80"], ["train", "--images"]])
def test_a_command_that_whence_does_not_know_would_be_noticed(args: list[str]) -> None:
    with pytest.raises(Exception, match=r"no command|porto|requires"):
        parse(args)


@pytest.mark.parametrize("name", OURS)
def test_every_service_keeps_its_data_in_the_named_volume(name: str) -> None:
    service = COMPOSE["services"][name]
    data = final_environment()["WHENCE_DATA"]
    assert mounts(service)[data] in COMPOSE["volumes"]
    # A new volume takes its owner from the image's folder, and only there is it the user's.
    assert data == final("VOLUME")


@pytest.mark.parametrize("name", OURS)
def test_every_service_of_ours_writes_to_its_volume_alone(name: str) -> None:
    assert OURS[name]["read_only"] is True


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_temporary_files_have_a_limit(name: str) -> None:
    service = COMPOSE["services"][name]
    assert all(re.fullmatch(r"/tmp:size=\d+[mg]", one) for one in service.get("tmpfs", []))
    assert "tmpfs" in service or not service.get("read_only")


@pytest.mark.parametrize("name", OURS)
def test_nothing_overrides_the_operator_s_settings(name: str) -> None:
    service = OURS[name]
    assert "environment" not in service
    assert service["env_file"][-1] == {"path": "whence.env", "required": False}
    assert all((ROOT / path).is_file() for path in service["env_file"][:-1])


@pytest.mark.parametrize("name", OURS)
def test_our_image_is_never_one_of_a_registry(name: str) -> None:
    assert OURS[name]["pull_policy"] == "build"
    assert OURS[name]["build"]["context"] == "."


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_service_is_shut_in(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_server_and_its_proxy_start_by_themselves() -> None:
    services = COMPOSE["services"]
    assert {name for name in services if "profiles" not in services[name]} == {"whence", "proxy"}
    jobs = {name for name in services if services[name].get("profiles") == ["jobs"]}
    assert jobs == {"train", "rebuild"}
    assert SCALE.keys() == {"whence-1", "whence-2", "milvus"}
    assert services.keys() == {"whence", "proxy"} | jobs | SCALE.keys() | set(MONITORING)


def test_all_is_published_on_this_machine_alone() -> None:
    published = {n: s["ports"] for n, s in COMPOSE["services"].items() if "ports" in s}
    assert published.keys() == {"proxy", *MONITORING}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_replicas_are_the_server_again_and_again() -> None:
    [server] = [s for s in OURS.values() if "profiles" not in s]
    own = {"profiles": ["scale"], "depends_on": ["milvus"]}
    assert len(REPLICAS) == 2
    for name in REPLICAS:
        assert OURS[name] == server | own


def test_proxy_stands_before_every_server_in_every_profile() -> None:
    service = COMPOSE["services"]["proxy"]
    assert "profiles" not in service
    files = {name: ROOT / source for name, source in mounts(service).items()}
    main = files.pop("/etc/nginx/nginx.conf").read_text(encoding="utf-8")
    included = re.findall(r"^ +include (\S+);", main, re.MULTILINE)
    assert files.keys() == {f"/etc/nginx/{name}" for name in included}
    config = main + "".join(path.read_text(encoding="utf-8") for path in files.values())
    [(host, port)] = re.findall(
        r"^ +server ([\w-]+):(\d+) resolve max_fails=0;", config, re.MULTILINE
    )
    servers = [s for s in OURS.values() if s.get("profiles") != ["jobs"]]
    assert len(servers) == 3
    assert all(s["networks"]["default"]["aliases"] == [host] for s in servers)
    assert port == final("EXPOSE")
    [published] = service["ports"]
    assert f"listen {published.rpartition(':')[2]};" in config
    # All it writes is under the temporary folder, the one place that may be written to.
    paths = re.findall(r"^ *(?:pid|\w+_temp_path) (\S+);", config, re.MULTILINE)
    assert len(paths) == 6
    assert all(path.startswith("/tmp/") for path in paths)


def test_tls_changes_the_proxy_s_ports_and_adds_the_certificate() -> None:
    assert TLS["services"].keys() == {"proxy"}
    override = TLS["services"]["proxy"]
    config = (ROOT / "deploy/nginx/tls.conf").read_text(encoding="utf-8")
    source = mounts(override)["/etc/nginx/whence/listen.conf"]
    assert (ROOT / source).samefile(ROOT / "deploy/nginx/tls.conf")
    assert "/etc/nginx/whence/listen.conf" in mounts(COMPOSE["services"]["proxy"])
    [published] = override["ports"]
    assert published.startswith("127.0.0.1:")
    assert f"listen {published.rpartition(':')[2]} ssl;" in config
    assert "ssl_certificate /etc/nginx/tls/fullchain.pem;" in config
    assert "/etc/nginx/tls" in mounts(override)


def test_servers_believe_the_proxy_alone() -> None:
    """It alone reaches them: they publish no port."""
    for service in OURS.values():
        serves = service.get("profiles") != ["jobs"]
        assert ("deploy/server.env" in service["env_file"]) == serves
    assert env_file(ROOT / "deploy/server.env")["FORWARDED_ALLOW_IPS"] == "*"


def test_milvus_is_where_the_documentation_says() -> None:
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    [address] = re.findall(r"WHENCE_VECTOR_STORE=(\S+) ", compose)
    assert MilvusAddress.parse(address).uri == "http://milvus:19530"
    assert f"WHENCE_VECTOR_STORE={address}" in (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    assert mounts(SCALE["milvus"])["/var/lib/milvus"] in COMPOSE["volumes"]


def test_milvus_and_its_client_are_of_one_minor_version() -> None:
    """The pair that pymilvus recommends."""
    (pin,) = pins()["pymilvus"].specifier
    [server] = re.findall(r":v(\d+\.\d+)\.\d+@", SCALE["milvus"]["image"])
    assert pin.version.startswith(f"{server}.")


@pytest.mark.parametrize("name", sorted(COMPOSE["services"].keys() - OURS.keys()))
def test_images_of_others_are_pinned(name: str) -> None:
    image = COMPOSE["services"][name]["image"]
    assert re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+(-\w+)?@sha256:[0-9a-f]{64}", image)


def test_everything_that_is_used_is_there() -> None:
    for service in COMPOSE["services"].values():
        assert "configs" not in service, "compose writes inline ones into the container"
        for source in mounts(service).values() if "volumes" in service else ():
            assert source in COMPOSE["volumes"] or source.startswith(("./deploy/", "${"))
            assert not source.startswith("./") or (ROOT / source).exists()
        assert set(service.get("depends_on", [])) <= COMPOSE["services"].keys()


def test_image_can_speak_with_milvus() -> None:
    said = " ".join(rest for _, rest in instructions())
    [extras] = re.findall(r"for extra in \((.*?)\)", said)
    assert "'milvus'" in extras


def test_gpu_is_asked_for_in_the_override_alone() -> None:
    assert not any("deploy" in service for service in COMPOSE["services"].values())
    assert set(GPU["services"]) == set(OURS)
    for service in GPU["services"].values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia"
        assert device["capabilities"] == ["gpu"]


def test_health_checks_ask_what_the_server_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHENCE_DATA", str(tmp_path))
    answered = create_app().openapi()["paths"]
    image = json.loads(final("HEALTHCHECK").split("CMD", 1)[1])
    server = COMPOSE["services"]["whence"]["healthcheck"]["test"][1:]
    for probe, path in ((image, "/health/live"), (server, "/health/ready")):
        assert probe[:2] == ["python", "-c"]
        compile(probe[2], "probe", "exec")
        assert f"http://127.0.0.1:{final('EXPOSE')}{path}'" in probe[2]
        assert path in answered
    # A job runs no server; asked, it would seem ill.
    assert all(COMPOSE["services"][job]["healthcheck"]["disable"] for job in ("train", "rebuild"))


# One command for all checks


def test_ci_runs_the_readme_s_test_command_and_nothing_else() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    lines = script.read_text(encoding="utf-8").splitlines()
    said = [line for line in lines if line and not line.startswith("#")]
    assert said[0] == "set -euo pipefail"
    assert said[1].startswith("cd ")
    assert said[2:] == ["make test"]
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pytest" in run("make", "--dry-run", "test")


def test_check_runs_format_lint_types_and_tests() -> None:
    plan = run("make", "--dry-run", "check")
    for step in ("ruff format --check", "ruff check", "mypy", "pytest"):
        assert step in plan


def test_workflow_runs_the_same_on_every_python() -> None:
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    said = {name: [s["run"] for s in job["steps"] if "run" in s] for name, job in jobs.items()}
    assert said == {
        "test": [".ci/run"],
        "lowest": ["make test-lowest"],
        "check": ["make check"],
        "audit": [".ci/audit"],
    }
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action) for action in used)
    allowed = Requirement(f"python{PROJECT['project']['requires-python']}").specifier
    minors = [f"3.{minor}" for minor in range(30) if f"3.{minor}" in allowed]
    assert jobs["test"]["strategy"]["matrix"]["python"] == minors


# Pins


def test_every_dependency_is_pinned_to_a_version_it_allows() -> None:
    project = PROJECT["project"]
    asked = requirements(
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
        *PROJECT["build-system"]["requires"],
    )
    pinned = pins()
    assert not asked.keys() - pinned.keys()
    for name, requirement in asked.items():
        (pin,) = pinned[name].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version)
        everywhere = pinned[name].marker is None or requirement.marker is not None
        assert everywhere, "a direct dependency is pinned on every platform that has it"


def test_pins_name_no_place_to_install_from() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|^-|@| /", text, flags=re.MULTILINE)
    # A local version (torch 2.x+cpu) is on one index only, and another machine may not use it.
    assert not any("+" in str(pin.specifier) for pin in pins().values())
