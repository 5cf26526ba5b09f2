"""What docker-compose.yml opens, hides, and leaves to its user; and that its image holds enough."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from mdel_assets_tests.deploy.compose_file import (
    COMPOSE,
    DOCKERFILE,
    GPU_OVERRIDE,
    ROOT,
    MissingVariableError,
    dockerfile_copies,
    dockerfile_steps,
    image_folder,
    mounts_of,
    read_compose,
)

TOKENS = {"HF_TOKEN": "planted-token", "WANDB_API_KEY": "planted-key"}
SECRETS = {"POSTGRES_PASSWORD": "planted-password"} | TOKENS


@pytest.fixture(scope="module")
def compose():
    return read_compose(SECRETS)


@pytest.fixture(scope="module")
def services(compose):
    return compose["services"]


def test_the_four_services_are_there_and_each_is_checked_and_started_again(services):
    assert set(services) == {"postgres", "code-server", "webserver", "daemon"}
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["restart"] == "unless-stopped", name
        assert "stop_grace_period" in service, name


def test_every_service_waits_until_what_it_needs_is_healthy(services):
    needs = {name: set(service.get("depends_on", {})) for name, service in services.items()}
    assert needs == {
        "postgres": set(),
        "code-server": {"postgres"},
        "webserver": {"postgres", "code-server"},
        "daemon": {"postgres", "code-server", "webserver"},
    }
    conditions = [c for s in services.values() for c in s.get("depends_on", {}).values()]
    assert conditions == [{"condition": "service_healthy"}] * len(conditions)


def test_only_the_webserver_is_published_and_only_to_this_machine(compose, services):
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"webserver": ["127.0.0.1:3000:3000"]}
    for name, service in services.items():
        assert not {"network_mode", "expose", "privileged"} & set(service), name
    assert services["postgres"]["networks"] == services["daemon"]["networks"] == ["inside"]
    assert compose["networks"]["inside"] == {"internal": True}
    other = read_compose(SECRETS | {"MDEL_UI_PORT": "8080"})
    assert other["services"]["webserver"]["ports"] == ["127.0.0.1:8080:3000"]


def test_no_service_is_root_or_may_become_it_or_writes_to_its_image(services):
    for name, service in services.items():
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"]), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
    last = [step for step in dockerfile_steps() if step[0] == "USER"][-1][1]
    assert {s["user"] for s in services.values() if "build" in s} == {last}


def test_the_password_is_required_with_a_remedy_and_no_secret_stands_in_the_files():
    with pytest.raises(MissingVariableError, match=r"POSTGRES_PASSWORD: put it into \.env"):
        read_compose({})
    with pytest.raises(MissingVariableError, match="POSTGRES_PASSWORD"):
        read_compose({"POSTGRES_PASSWORD": ""})
    secret = re.compile(r"PASSWORD|TOKEN|SECRET|API_KEY", re.IGNORECASE)
    for path in (COMPOSE, GPU_OVERRIDE):
        anchors = yaml.safe_load(path.read_text("utf-8"))
        values = [value for name, value in _entries(anchors) if secret.search(name)]
        assert all(v is None or re.fullmatch(r"\$\{\w+:\?.+\}", v) for v in values), values
    assert not secret.search(DOCKERFILE.read_text("utf-8"))


def _entries(content):
    if isinstance(content, dict):
        for name, value in content.items():
            if isinstance(value, dict | list):
                yield from _entries(value)
            else:
                yield name, value
    elif isinstance(content, list):
        for value in content:
            if isinstance(value, str) and "=" in value:
                yield value.split("=", 1)
            yield from _entries(value)


def test_tokens_are_optional_and_reach_the_code_server_alone(services):
    for name, service in services.items():
        given = {token: service["environment"].get(token) for token in TOKENS}
        assert given == (TOKENS if name == "code-server" else dict.fromkeys(TOKENS)), name
        assert "POSTGRES_PASSWORD" in service["environment"], name
    without = read_compose({"POSTGRES_PASSWORD": "planted-password"})
    assert not set(TOKENS) & set(without["services"]["code-server"]["environment"])


def test_artifacts_are_the_code_servers_and_every_volume_is_declared(compose, services):
    named = {
        name: {mount.source: mount.target for mount in mounts_of(service) if mount.is_named}
        for name, service in services.items()
    }
    dagster = {"dagster_home": "/data/dagster"}
    assert named == {
        "postgres": {"database": services["postgres"]["environment"]["PGDATA"]},
        "code-server": {"mdel_home": "/data"} | dagster,
        "webserver": dagster,
        "daemon": dagster,
    }
    assert set(compose["volumes"]) == {source for mounts in named.values() for source in mounts}
    assert services["code-server"]["environment"]["MDEL_HOME"] == "/data"
    # What a command there runs stands in the timeline of the location that the webserver shows.
    (server,) = yaml.safe_load((ROOT / "deploy" / "workspace.yaml").read_text())["load_from"]
    shown = server["grpc_server"]["location_name"]
    assert services["code-server"]["environment"]["MDEL_LOCATION"] == shown
    for name, service in services.items():
        bound = [mount for mount in mounts_of(service) if not mount.is_named]
        assert all(mount.is_read_only for mount in bound), name
        if name != "postgres":
            assert service["environment"]["DAGSTER_HOME"] == "/data/dagster"
            (settings,) = [m for m in bound if m.target == "/data/dagster/dagster.yaml"]
            assert (ROOT / settings.source).is_file()
    owned = [rest for name, rest in dockerfile_steps() if name == "RUN" and "--owner" in rest]
    assert all(re.search(rf"\s{folder}(\s|$)", owned[0]) for folder in ("/data", "/data/dagster"))


def test_build_arguments_are_those_of_the_dockerfile(services):
    declared = {rest.split("=")[0] for name, rest in dockerfile_steps() if name == "ARG"}
    built = [service["build"] for service in services.values() if "build" in service]
    assert len(built) == 3
    for build in built:
        assert set(build["args"]) == declared
        assert ROOT / build["dockerfile"] == DOCKERFILE
    index = {"MDEL_CUDA_TORCH_INDEX": "the-index"}
    gpu = read_compose(index, path=GPU_OVERRIDE, profiles=["serve"])["services"]
    assert set(gpu) == {"code-server", "serve"}
    assert gpu["serve"] == gpu["code-server"] | {"profiles": ["serve"]}
    assert gpu["code-server"]["build"]["args"] == {"TORCH_INDEX": "the-index"}
    # One name for two builds would leave the webserver's or the code server's to chance.
    assert gpu["code-server"]["image"] != services["webserver"]["image"]
    (device,) = gpu["code-server"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    with pytest.raises(MissingVariableError, match="MDEL_CUDA_TORCH_INDEX"):
        read_compose({}, path=GPU_OVERRIDE)


def test_the_image_holds_what_the_package_and_the_commands_need(services):
    copies = dict(dockerfile_copies())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    package = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {*package, project["project"]["readme"], *project["project"]["license-files"]}
    needed |= {"pyproject.toml", "constraints.txt", project["tool"]["hatch"]["version"]["path"]}
    assert needed <= set(copies)
    let_in = (ROOT / ".dockerignore").read_text().splitlines()
    assert let_in[0] == "*"
    for source, target in copies.items():
        assert (ROOT / source).exists(), source
        assert f"!{source.split('/')[0]}" in let_in, source
        assert target == f"{image_folder()}/{source.removeprefix('deploy/')}"
    commands = " ".join(word for s in services.values() if "build" in s for word in s["command"])
    named = re.findall(rf"{image_folder()}/[\w./]+", commands)
    assert set(named) == {f"{image_folder()}/workspace.yaml"}
    assert set(named) <= set(copies.values())


def test_the_image_installs_the_programs_that_commands_start(services):
    (install,) = [r for _, r in dockerfile_steps() if "--editable" in r]
    assert "'.[deploy,serve]'" in install
    assert "--constraint constraints.txt" in install
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["deploy"], *extras["serve"]]
    names = {re.split(r"[\[<>=]", requirement)[0] for requirement in wanted}
    assert {"dagster", "dagster-webserver", "dagster-postgres", "psycopg2-binary"} <= names
    assert {"fastapi", "uvicorn", "prometheus-client"} <= names
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {"dagster-postgres", "psycopg2-binary"} <= pinned


def test_a_training_is_told_when_its_service_is_to_end(services):
    """Docker's init process passes signals to the whole group where this is set."""
    assert services["code-server"]["init"] is True
    assert services["code-server"]["environment"]["TINI_KILL_PROCESS_GROUP"] == "1"


def test_models_are_served_only_where_that_is_asked_for_and_with_a_key(services):
    assert "serve" not in services
    given = SECRETS | {"MDEL_API_KEY": "planted-api-key"}
    compose = read_compose(given, profiles=["serve"])
    serve = compose["services"]["serve"]
    # What holds for every other service is held by the tests above.
    common = {"image", "build", "user", "cap_drop", "security_opt", "read_only", "restart", "init"}
    assert {k: serve[k] for k in common} == {k: services["webserver"][k] for k in common}
    assert serve["ports"] == ["127.0.0.1:8000:8000"]
    assert serve["networks"] == ["outside"]
    assert serve["environment"]["MDEL_API_KEY"] == "planted-api-key"
    assert not {"POSTGRES_PASSWORD", *TOKENS} & set(serve["environment"])
    without = read_compose(SECRETS, profiles=["serve"])["services"]["serve"]
    assert "MDEL_API_KEY" not in without["environment"]
    homes = [mount for mount in mounts_of(serve) if mount.target == "/data"]
    assert [(mount.source, mount.is_read_only) for mount in homes] == [("mdel_home", True)]
    assert serve["healthcheck"]["test"][0] == "CMD"
    for name, service in services.items():
        assert "MDEL_API_KEY" not in service["environment"], name


def test_the_command_that_serves_models_is_the_packages_own(services):
    from mdel_assets.cli.main import main

    program, name, *options = read_compose(SECRETS, profiles=["serve"])["services"]["serve"][
        "command"
    ]
    known = {option for parameter in main.commands[name].params for option in parameter.opts}
    assert program == "mdel"
    assert {option.split("=")[0] for option in options} <= known


def test_settings_are_those_that_are_shipped_with_a_database_for_files():
    shipped = yaml.safe_load((ROOT / "mdel_assets" / "defs" / "dagster.yaml").read_text("utf-8"))
    deployed = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text("utf-8"))
    storage = deployed.pop("storage")["postgres"]["postgres_db"]
    assert deployed == shipped
    assert storage.pop("scheme") == "postgresql+psycopg2"
    assert all(set(value) == {"env"} for value in storage.values())


def test_dagster_takes_the_settings_and_the_workspace(services, tmp_path):
    """Dagster's own readers, which refuse unknown keys, with the variables of one service."""
    (tmp_path / "dagster.yaml").write_text((ROOT / "deploy" / "dagster.yaml").read_text("utf-8"))
    code = (
        "import os, sys\n"
        "from dagster._core.instance.ref import InstanceRef\n"
        "from dagster._core.workspace.load import location_origins_from_yaml_paths\n"
        "ref = InstanceRef.from_dir(os.environ['DAGSTER_HOME'])\n"
        "print(ref.storage_data.class_name, ref.settings['run_retries'])\n"
        f"(origin,) = location_origins_from_yaml_paths(['{ROOT}/deploy/workspace.yaml'])\n"
        "print(origin.host, origin.port, origin.location_name)\n"
    )
    environment = services["webserver"]["environment"] | {"DAGSTER_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first.startswith("DagsterPostgresStorage ")
    assert second == "code-server 4000 mdel_assets"
