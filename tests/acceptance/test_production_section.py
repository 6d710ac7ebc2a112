"""The README's section "In production", typed in as it stands, ends with a service that is ready and well.

The wheel of this checkout is installed outside of it. Folders of the machine are replaced by folders of the test, and
the programs that need a whole machine by small ones: ``pip`` downloads nothing, ``runuser`` becomes PostgreSQL's
superuser on the test's server, and ``systemctl`` records its calls; then the test starts the unit as systemd would.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from projections.sandbox.embedded.binaries import wheel_psql
from projections.sandbox.simulator import SimulatorSettings
from tests.acceptance.command import QUICK, Commands
from tests.acceptance.environments import build_wheel
from tests.acceptance.test_documented_commands import BLOCK
from tests.databases import Server
from tests.fix_issuer import CLIENT_ID, CLIENT_SECRET, Issuer
from tests.fix_simulator import LOG, SimulatorFactory
from tests.store import GIVE_UP
from tests.unit.test_deploy_files import read_unit

ROOT = Path(__file__).resolve().parents[2]
SECTION = (ROOT / "README.md").read_text().partition("\n## In production\n")[2].partition("\n## ")[0]
MAPPED = ("/opt/projections", "/etc/projections", "/etc/systemd/system", "/usr/local/bin", "/run/credentials")
STUBS = {
    "python3": """[ "$1 $2" = "-m venv" ] || exit 9
cd {root}
exec {python} -m tests.acceptance.environments "$3"
""",
    "runuser": """[ "$1 $2 $3" = "-u postgres --" ] || exit 9
shift 3
PGHOST={host} PGPORT={port} PGUSER={user} PGPASSWORD={password} PGDATABASE=postgres exec "$@"
""",
    "psql": 'exec {psql} "$@"\n',
    "systemctl": 'echo "$*" >> {folder}/systemctl\n',
    # Not every machine has it.
    "curl": """[ "$1" = "-fsS" ] || exit 9
exec {python} -c "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())" "$2"
""",
    "journalctl": "",
}
"""The programs that are replaced, as shell scripts."""


class Machine:
    """A folder that stands for a machine: its files, its programs, and where its database is.

    Attributes:
        environment: the variables of root's shell.

    """

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        self._database = database
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._http_port = free.getsockname()[1]
        programs = folder / "programs"
        programs.mkdir()
        for name in MAPPED:
            (folder / name.removeprefix("/")).parent.mkdir(parents=True, exist_ok=True)
        (folder / "etc/systemd/system").mkdir()
        (folder / "usr/local/bin").mkdir()
        where = urlsplit(database)
        for name, script in STUBS.items():
            text = script.format(
                root=ROOT,
                folder=folder,
                python=sys.executable,
                uv=Path(sysconfig.get_path("scripts")) / "uv",
                psql=wheel_psql() or shutil.which("psql"),
                host=where.hostname,
                port=where.port,
                user=where.username,
                password=where.password,
            )
            (programs / name).write_text(f"#!/bin/sh\n{text}")
            (programs / name).chmod(0o755)
        path = os.pathsep.join([str(programs), str(folder / "usr/local/bin"), os.environ["PATH"]])
        self.environment = {"PATH": path, "HOME": str(folder)}

    def path(self, path: str) -> Path:
        """Return the file that stands for a file of the machine."""
        return Path(self.mapped(path))

    def mapped(self, text: str) -> str:
        """Replace the machine's folders, and the address of its PostgreSQL, in a text."""
        for name in MAPPED:
            text = re.sub(rf"(?<![\w.]){name}\b", f"{self.folder}{name}", text)
        text = text.replace(":8484", f":{self._http_port}")
        return text.replace("127.0.0.1:5432", urlsplit(self._database).netloc.rpartition("@")[2])

    def shell(self, script: str, *, typed: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a script as root's shell does, in the folder with the wheel; ``typed`` is typed while it runs."""
        command = ["bash", "-eu", "-c", self.mapped(script)]
        ended = subprocess.run(
            command, cwd=self.folder, env=self.environment, input=typed, capture_output=True, text=True, check=False
        )
        assert not check or ended.returncode == 0, f"{script}\n{ended.stdout}{ended.stderr}"
        return ended


@pytest.fixture
def machine(tmp_path: Path, postgres: Server) -> Iterator[Machine]:
    with psycopg.connect(postgres.superuser_url, autocommit=True) as conn:
        taken = "SELECT rolname FROM pg_roles UNION ALL SELECT datname FROM pg_database"
        if ("projections",) in conn.execute(taken).fetchall():
            pytest.skip("this server has a role or a database named projections")
        folder = tmp_path / "machine"
        folder.mkdir()
        try:
            yield Machine(folder, postgres.superuser_url)
        finally:
            conn.execute("DROP DATABASE IF EXISTS projections WITH (FORCE)")
            conn.execute("DROP ROLE IF EXISTS projections")


async def test_the_section_typed_in_as_it_stands_ends_with_a_service_that_is_well(
    machine: Machine, commands: Commands, issuer: Issuer, simulator_factory: SimulatorFactory
) -> None:
    simulator = await simulator_factory(LOG, SimulatorSettings(token=None))
    install, configure, start, look = BLOCK.findall(SECTION)
    build_wheel(ROOT, machine.folder)

    await asyncio.to_thread(machine.shell, install + configure, typed=f"{CLIENT_SECRET}\n")
    for secret in ("environment", "client-secret"):
        assert stat.S_IMODE(machine.path(f"/etc/projections/{secret}").stat().st_mode) == 0o600
    config = machine.path("/etc/projections/projections.toml")
    edited = {
        "https://messages.example.com": simulator.address,
        "https://login.example.com": issuer.url,
        'client_id = "projections"': f'client_id = "{CLIENT_ID}"',
    }
    text = config.read_text()
    for before, after in edited.items():
        assert before in text
        text = text.replace(before, after, 1)
    config.write_text(machine.mapped(text))

    await asyncio.to_thread(machine.shell, start)
    assert (machine.folder / "systemctl").read_text().splitlines() == ["daemon-reload", "enable --now projections"]
    unit = machine.path("/etc/systemd/system/projections.service")
    assert unit.read_text() == (ROOT / "deploy" / unit.name).read_text()
    service = read_unit(machine.mapped(unit.read_text()))["Service"]
    credentials = machine.path(f"/run/credentials/{unit.name}")
    credentials.mkdir(parents=True)
    for credential in service["LoadCredential"]:
        name, _, source = credential.partition(":")
        shutil.copy(source, credentials / name)
    variables = machine.path("/etc/projections/environment")
    assert service["EnvironmentFile"] == [str(variables)]
    environment = dict(line.split("=", 1) for line in variables.read_text().splitlines())
    program, *arguments = shlex.split(service["ExecStart"][0])

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        address = str(machine.folder / "notify")
        manager.bind(address)
        manager.setblocking(False)
        installed = replace(commands, fork_server=None, program=(program,))
        running = await installed.start(*arguments, **QUICK, **environment, NOTIFY_SOCKET=address)
        async with asyncio.timeout(GIVE_UP):
            assert (await asyncio.get_running_loop().sock_recv(manager, 4096)).startswith(b"READY=1\n")
        export = start.splitlines()[0]
        assert export.startswith("export ")
        for _ in range(60):
            found = await asyncio.to_thread(machine.shell, f"{export}\n{look}", check=False)
            if found.returncode == 0:
                break
        else:
            pytest.fail(f"{found.stdout}{found.stderr}\n" + "\n".join(running.stderr_lines))
        assert "consent_registry" in found.stdout, "status"
        assert found.stdout.rstrip().endswith("\nready"), "curl"
        running.send(signal.SIGTERM)
        ended = await running.wait()
    assert ended.code == 0, ended.transcript
    with psycopg.connect(environment["DATABASE_URL"]) as conn:
        stored = conn.execute("SELECT count(*) > 0, count(*) FILTER (WHERE app <> 'default') FROM eventstore.events")
        assert stored.fetchone() == (True, 0)
