"""The files in deploy/ fit the program: its commands parse, its settings exist, its limits suit the program's own.

What can't run here (systemd, a container engine) is parsed, and checked by its own tools where they are installed.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from eventstore.ingest.config import EnvironmentApp, load_apps
from eventstore.waits import Waits
from projections.cli.shared.long_running import EXTRA_SECONDS
from projections.cli.shared.open_database import WAIT_SECONDS
from tests.acceptance.test_documented_commands import parse

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNIT = DEPLOY / "projections.service"
LIBPQ = {"PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD"}
SHUTDOWN = Waits().shutdown + EXTRA_SECONDS
"""After so many seconds a process that was told to stop exits by force."""


def read_unit(text: str) -> Mapping[str, Mapping[str, list[str]]]:
    """Return a unit's sections, with the values of each setting: one may occur several times."""
    sections: dict[str, dict[str, list[str]]] = {}
    current: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            name, value = line.split("=", 1)
            current.setdefault(name, []).append(value)
    return sections


UNIT_SECTIONS = read_unit(UNIT.read_text())


def settings_of_the_program() -> set[str]:
    """The environment variables that the program reads, as docs/configuration.md lists them."""
    page = (DEPLOY.parent / "docs" / "configuration.md").read_text()
    return set(re.findall(r"^\| `([A-Z][A-Z_]+)`", page, re.MULTILINE)) | LIBPQ


def test_the_sample_configuration_is_loaded_by_the_program() -> None:
    apps = load_apps(DEPLOY / "projections.toml")
    assert list(apps) == ["default"]
    (credential,) = UNIT_SECTIONS["Service"]["LoadCredential"]
    name, _, source = credential.partition(":")
    assert str(apps["default"].client_secret_file) == f"/run/credentials/{UNIT.name}/{name}"
    assert Path(source).parent == Path("/etc/projections")


def test_every_commented_key_of_the_sample_configuration_is_valid(tmp_path: Path) -> None:
    lines = (DEPLOY / "projections.toml").read_text().splitlines()
    uncommented = [re.sub(r"^# (?=\w+ = |\[apps)", "", line) for line in lines]
    assert uncommented != lines
    whole = tmp_path / "projections.toml"
    # An app has one kind of credentials.
    first = [line for line in uncommented if "credentials/projections.service/token" not in line]
    whole.write_text("\n".join(first))
    assert list(load_apps(whole)) == ["default", "second"]


def test_the_command_of_the_unit_parses_and_its_files_are_those_of_the_readme() -> None:
    service = UNIT_SECTIONS["Service"]
    (start,) = service["ExecStart"]
    program, *arguments = shlex.split(start)
    assert program == "/opt/projections/bin/projections"
    parse(arguments)
    for other in (["ingest"], ["run", "--no-ingest"]):
        parse([*other, *arguments[1:]])
    readme = (DEPLOY.parent / "README.md").read_text()
    config = arguments[arguments.index("--config") + 1]
    (environment,) = service["EnvironmentFile"]
    (credential,) = service["LoadCredential"]
    for path in (program, config, environment, credential.partition(":")[2]):
        assert path in readme


def test_the_unit_starts_again_for_ever_and_waits_for_a_graceful_stop() -> None:
    service = {name: values[-1] for name, values in UNIT_SECTIONS["Service"].items()}
    assert (service["Type"], service["Restart"]) == ("notify", "always")
    assert float(service["TimeoutStopSec"]) > 2 * SHUTDOWN
    assert float(service["TimeoutStartSec"]) > WAIT_SECONDS
    assert 0 < float(service["RestartSec"]) < float(service["RestartMaxDelaySec"])
    # Starts that are at least RestartSec apart never reach systemd's default limit of 5 starts in 10 seconds.
    assert float(service["RestartSec"]) > 2
    assert float(service["WatchdogSec"]) >= 30
    hardened = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "DynamicUser": "yes", "CapabilityBoundingSet": ""}
    assert hardened.items() <= service.items()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze isn't installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    # It insists that the command exists.
    copy.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text(), flags=re.MULTILINE))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    lines = [line for line in checked.stderr.splitlines() if UNIT.name in line]
    # Before systemd 254, as the unit says.
    unknown = re.compile(r"Unknown key(?: name)? '(?:RestartSteps|RestartMaxDelaySec)'")
    assert [line for line in lines if not unknown.search(line)] == []
    assert checked.returncode == 0, checked.stderr


def compose() -> dict[str, Any]:
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert isinstance(document, dict)
    return document


def test_the_compose_file_migrates_once_then_runs_and_has_the_simulator_as_a_profile() -> None:
    services = compose()["services"]
    assert set(services) == {"database", "migrate", "run", "simulator"}
    assert services["database"]["image"].endswith("postgres:18")
    ours = {name: service for name, service in services.items() if name != "database"}
    for service in ours.values():
        assert service["image"] == "projections-engine"
        parse(service["command"])
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
    assert {name: service["command"][0] for name, service in ours.items()} == {
        "migrate": "migrate",
        "run": "run",
        "simulator": "simulate",
    }
    assert "restart" not in services["migrate"]
    assert services["migrate"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert services["run"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert float(services["run"]["stop_grace_period"].removesuffix("s")) > 2 * SHUTDOWN
    # The simulator listens on loopback only, so it shares the network of the process that follows it.
    assert (services["simulator"]["profiles"], services["simulator"]["network_mode"]) == (["simulator"], "service:run")
    port = services["simulator"]["command"][services["simulator"]["command"].index("--port") + 1]
    assert f"http://127.0.0.1:{port}" in (DEPLOY / "compose.yaml").read_text()


def test_the_variables_of_the_compose_file_are_settings() -> None:
    services, known = compose()["services"], settings_of_the_program()
    assert {"DATABASE_URL", "PCS_EXTERNAL_API_URL", "PROJECTIONS_TOKEN"} <= known
    for name in ("migrate", "run"):
        assert set(services[name]["environment"]) <= known
    assert {str(field.validation_alias) for field in EnvironmentApp.model_fields.values()} <= known
    database = services["database"]["environment"]
    assert (database["POSTGRES_DB"], database["POSTGRES_USER"]) == ("projections", "projections")
    assert services["run"]["environment"]["PGPASSWORD"] == database["POSTGRES_PASSWORD"]
    folder, _, path = services["database"]["volumes"][0].partition(":")
    assert folder in compose()["volumes"]
    assert path == "/var/lib/postgresql", "where the image of PostgreSQL 18 has its data"


def containerfile() -> list[tuple[str, str]]:
    """The instructions of the Containerfile, each with its arguments."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Containerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def test_the_containerfile_starts_the_program_as_a_user_without_rights() -> None:
    instructions = containerfile()
    known = {"FROM", "COPY", "RUN", "ENV", "WORKDIR", "USER", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert {name for name, _ in instructions} <= known
    last_stage = max(number for number, (name, _) in enumerate(instructions) if name == "FROM")
    final = dict(instructions[last_stage:])
    assert all("python:3" in arguments and "-slim" in arguments for name, arguments in instructions if name == "FROM")
    assert final["USER"].isdecimal()
    assert int(final["USER"]) >= 1000
    assert f"--uid {final['USER']} " in final["RUN"]
    assert final["STOPSIGNAL"] == "SIGTERM"
    assert json_list(final["ENTRYPOINT"]) == ["projections"]
    parse(json_list(final["CMD"]))
    # tests/acceptance/test_http_command.py runs the health check against a server.
    assert set(re.findall(r"\b(PROJECTIONS_\w+)=", final["ENV"])) == {"PROJECTIONS_HTTP"} <= settings_of_the_program()
    assert health_check()[0] == "python"


def health_check() -> list[str]:
    """The command of the image's health check."""
    (arguments,) = (arguments for name, arguments in containerfile() if name == "HEALTHCHECK")
    return json_list(arguments.partition(" CMD ")[2])


def json_list(text: str) -> list[str]:
    found = yaml.safe_load(text)
    assert isinstance(found, list)
    return found


def test_the_containerfile_copies_what_the_context_has() -> None:
    copied = [arguments for name, arguments in containerfile() if name == "COPY" and "--from" not in arguments]
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    for source in copied[0].split()[:-1]:
        assert any(Path(source).match(pattern) for pattern in allowed), f"{source} is not in the context"
    lock = (DEPLOY.parent / "requirements.lock").read_text()
    (run,) = (arguments for name, arguments in containerfile() if name == "RUN" and "grep" in arguments)
    pattern = shlex.split(run)[2]
    found = re.findall(pattern, lock, re.MULTILINE)
    assert sorted(line.partition("==")[0] for line in found) == sorted(re.findall(r"^([\w.-]+)==", lock, re.MULTILINE))
