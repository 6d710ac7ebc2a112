"""The embedded PostgreSQL: every connection needs the password, and it starts again after a kill at any moment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from eventstore.errors import EmbeddedError
from projections.sandbox.embedded import EmbeddedPostgres, EmbeddedTimeouts, processes
from tests.servers import embedded, temporary_home
from tests.store import GIVE_UP
from tests.temporary_server import FAST

STARTER = """\
import json, sys, pathlib
from projections.sandbox.embedded import EmbeddedPostgres
home, settings = sys.argv[1:]
print(EmbeddedPostgres(pathlib.Path(home), settings=json.loads(settings)).start(), flush=True)
"""
HOLDER = """\
import sys, fcntl, pathlib, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write("4711"); file.flush()
print("held", flush=True)
time.sleep(600)
"""
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def home() -> Iterator[Path]:
    with temporary_home() as folder:
        yield folder


@pytest.fixture
def server(home: Path) -> EmbeddedPostgres:
    """A server that was never started."""
    return embedded(home)


@pytest.fixture(scope="module")
def made_once() -> Iterator[EmbeddedPostgres]:
    with temporary_home() as folder:
        server = embedded(folder)
        server.start()
        server.stop()
        yield server


@pytest.fixture
def stopped(made_once: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """A server that other tests start too: to make a cluster takes two seconds of CPU time."""
    yield made_once
    made_once.stop()


def starter(home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", STARTER, str(home), json.dumps(dict(FAST))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def query_value(url: str | None, query: str) -> object:
    assert url is not None
    with psycopg.connect(url, autocommit=True, connect_timeout=int(GIVE_UP)) as connection:
        cursor = connection.execute(query)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def wait_for(condition: Callable[[], object], seconds: float = GIVE_UP) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.002)


def kill_postmaster(server: EmbeddedPostgres) -> int:
    pid = server.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: server.status().pid is None)
    return pid


def folders_of(home: Path) -> list[Path]:
    """Return the folders that may contain this home's files."""
    status = EmbeddedPostgres(home).status()
    return [home, *([status.data.parent] if status.data else [])]


def test_start_and_stop_are_idempotent_and_data_stays(server: EmbeddedPostgres) -> None:
    assert server.status().state == "absent"
    assert server.url() is None
    server.stop()
    url = server.start()
    assert server.start() == url == server.url()
    assert server.status().state == "running"
    query_value(url, "create table kept as select 42 as answer")
    server.stop()
    server.stop()
    assert server.status().state == "stopped"
    assert server.url() is server.superuser_url() is None
    assert server.start() == url
    assert query_value(url, "select answer from kept") == 42


def test_is_utf8_with_a_pinned_locale_and_an_owner_without_privileges(stopped: EmbeddedPostgres) -> None:
    url = stopped.start()
    assert url.startswith("postgresql://projections:")
    assert url.endswith("/projections")
    assert query_value(url, "show server_encoding") == "UTF8"
    assert (
        query_value(url, "select datcollate || datctype from pg_database where datname = current_database()")
        == "C.UTF-8" * 2
    )
    role = "select rolsuper or rolcreatedb or rolcreaterole or rolbypassrls from pg_roles where rolname = current_user"
    assert query_value(url, role) is False
    query_value(url, "create schema something")
    assert query_value(stopped.superuser_url(), "select rolsuper from pg_roles where rolname = current_user") is True


def test_every_connection_needs_a_password(stopped: EmbeddedPostgres) -> None:
    url = stopped.start()
    superuser_url = stopped.superuser_url() or ""
    for known in (url, superuser_url):
        scheme, _, rest = known.partition("://")
        login, _, place = rest.partition("@")
        user = login.partition(":")[0]
        for wrong in (f"{user}:wrong@", f"{user}@"):
            with pytest.raises(psycopg.OperationalError, match="password"):
                query_value(f"{scheme}://{wrong}{place}", "select 1")
    rules = "select string_agg(distinct auth_method, ',') from pg_hba_file_rules"
    assert query_value(superuser_url, rules) == "scram-sha-256"
    stored = "select bool_and(rolpassword like 'SCRAM-SHA-256$%') from pg_authid where rolcanlogin"
    assert query_value(superuser_url, stored) is True


def test_listens_on_one_loopback_address_and_no_unix_socket(stopped: EmbeddedPostgres) -> None:
    wide_open = {"listen_addresses": "*", "unix_socket_directories": "/tmp", "password_encryption": "md5"}  # noqa: S108
    server = EmbeddedPostgres(stopped.home, settings={**FAST, **wide_open})
    server.start()
    port = server.status().port
    assert port is not None
    url = server.superuser_url()
    assert query_value(url, "show listen_addresses") == "127.0.0.1"
    assert query_value(url, "show unix_socket_directories") == ""
    assert query_value(url, "show password_encryption") == "scram-sha-256"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)
    assert f".s.PGSQL.{port}" not in Path("/proc/net/unix").read_text()


def test_passwords_are_private_and_no_other_folder_changes_its_mode(tmp_path: Path) -> None:
    outer = tmp_path / "outer folder"
    outer.mkdir(mode=0o711)
    home = outer / ".projections"
    home.mkdir(mode=0o755)
    before = {folder: folder.stat().st_mode for folder in home.parents}
    server = embedded(home)
    server.start()
    try:
        assert {folder: folder.stat().st_mode for folder in home.parents} == before
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "embedded.json").stat().st_mode) == 0o600
        status = server.status()
        assert status.data is not None
        assert stat.S_IMODE(status.data.stat().st_mode) == 0o700
        secrets = [
            part.partition("@")[0].rpartition(":")[2] for part in (server.url() or "", server.superuser_url() or "")
        ]
        for folder in folders_of(home):
            for file in (path for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o077):
                text = file.read_bytes()
                assert not any(secret.encode() in text for secret in secrets), file
    finally:
        server.destroy()


def test_its_log_contains_no_values(stopped: EmbeddedPostgres) -> None:
    url = stopped.start()
    query_value(url, "create table people (ppnum text primary key)")
    query_value(url, "insert into people values ('+4912345')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        query_value(url, "insert into people values ('+4912345')")
    stopped.stop()
    log = stopped.status().log
    assert log is not None
    text = "".join(path.read_text() for path in log.iterdir())
    assert "duplicate key" in text
    assert "+4912345" not in text


def test_the_server_outlives_the_process_that_started_it(stopped: EmbeddedPostgres) -> None:
    process = starter(stopped.home)
    output, _ = process.communicate(timeout=GIVE_UP)
    assert process.returncode == 0, output
    assert stopped.url() == output.strip()
    assert query_value(output.strip(), "select 1") == 1


def test_recovers_when_its_postmaster_is_killed(stopped: EmbeddedPostgres) -> None:
    url = stopped.start()
    query_value(url, "create table kept as select 42 as answer")
    kill_postmaster(stopped)
    assert stopped.url() is None
    assert query_value(stopped.start(), "select answer from kept") == 42


def test_a_start_ends_a_frozen_child_of_a_killed_postmaster(stopped: EmbeddedPostgres) -> None:
    url = stopped.start()
    with psycopg.connect(url) as connection:
        os.kill(connection.info.backend_pid, signal.SIGSTOP)
        kill_postmaster(stopped)
        impatient = EmbeddedPostgres(stopped.home, settings=FAST, timeouts=EmbeddedTimeouts(leftovers=0.3))
        assert query_value(impatient.start(), "select 1") == 1
        connection.close()


@pytest.mark.parametrize("stop_first", [True, False], ids=["stopped", "killed"])
def test_a_reused_process_id_is_not_taken_for_the_server(stopped: EmbeddedPostgres, *, stop_first: bool) -> None:
    stopped.start()
    data = stopped.status().data
    assert data is not None
    pid_file = data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    if stop_first:
        stopped.stop()
    else:
        kill_postmaster(stopped)
    owner = data.stat().st_uid
    other = subprocess.Popen(["sleep", "600"], user=owner)
    try:
        pid_file.write_text("\n".join([str(other.pid), *lines[1:]]) + "\n")
        assert stopped.url() is None
        stopped.stop()
        assert query_value(stopped.start(), "select 1") == 1
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


STEPS = {
    "state": "embedded.json",
    "initdb": ".initdb-*/data/base",
    "cluster": "postgres",
    "up": "postgres/postmaster.pid",
}
"""The file that shows how far a start is."""


@pytest.mark.parametrize("name", STEPS)
def test_a_start_continues_after_a_killed_start(home: Path, name: str) -> None:
    process = starter(home)
    wait_for((home / "embedded.json").exists)
    folders = folders_of(home)
    wait_for(lambda: any(any(folder.glob(STEPS[name])) for folder in folders))
    process.kill()
    process.communicate()
    server = embedded(home)
    assert query_value(server.start(), "select 1") == 1
    assert not [left for folder in folders_of(home) for left in folder.glob(".initdb-*")]


def test_a_start_replaces_an_incomplete_cluster(stopped: EmbeddedPostgres) -> None:
    stopped.start()
    folder = folders_of(stopped.home)[1]
    half = folder / ".initdb-dead" / "data" / "base"
    half.mkdir(parents=True)
    stopped.stop()
    stopped.start()
    assert not half.exists()


def test_concurrent_starts_start_one_server(home: Path) -> None:
    processes = [starter(home) for _ in range(4)]
    answers = [process.communicate(timeout=GIVE_UP)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, answers
    assert set(answers) == {embedded(home).url()}


def test_takes_another_port_when_its_own_is_taken(stopped: EmbeddedPostgres) -> None:
    stopped.start()
    port = stopped.status().port
    assert port is not None
    stopped.stop()
    with socket.create_server(("127.0.0.1", port)):
        url = stopped.start()
        assert stopped.status().port != port
        assert query_value(url, "select 1") == 1


def test_a_frozen_starter_is_named_after_a_limited_wait(stopped: EmbeddedPostgres) -> None:
    lock = stopped.home / "embedded.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        os.kill(holder.pid, signal.SIGSTOP)
        with pytest.raises(EmbeddedError, match="process 4711 has held"):
            EmbeddedPostgres(stopped.home, settings=FAST, timeouts=EmbeddedTimeouts(lock=0.2)).start()
    finally:
        holder.kill()
        holder.communicate()
    assert query_value(stopped.start(), "select 1") == 1  # the kernel released the dead process's lock


def test_refuses_the_data_of_another_major_version(stopped: EmbeddedPostgres) -> None:
    stopped.start()
    stopped.stop()
    with pytest.raises(EmbeddedError, match=r"was created by PostgreSQL 18, but version 16\."):
        EmbeddedPostgres(stopped.home, major=16, settings=FAST).start()


def test_a_failed_start_reports_its_reason(stopped: EmbeddedPostgres) -> None:
    stopped.start()
    kill_postmaster(stopped)
    stopped.start()  # its log has the errors of a recovery now
    stopped.stop()
    broken = EmbeddedPostgres(stopped.home, settings={**FAST, "max_connections": "none"})
    with pytest.raises(EmbeddedError, match="max_connections"):
        broken.start()
    assert query_value(stopped.start(), "select 1") == 1


def test_a_damaged_state_file_is_reported_in_one_sentence(stopped: EmbeddedPostgres) -> None:
    stopped.start()
    stopped.stop()
    memory = stopped.home / "embedded.json"
    whole = memory.read_text()
    for damaged in ("", "{}", whole.replace('"name": "', '"name": "../')):
        memory.write_text(damaged)
        with pytest.raises(EmbeddedError, match="is damaged"):
            stopped.start()
    memory.write_text(whole)


def test_destroy_leaves_nothing(server: EmbeddedPostgres) -> None:
    server.start()
    status = server.status()
    folders = folders_of(server.home)
    server.destroy()
    assert status.data is not None
    assert not status.data.exists()
    left = {path.name for folder in folders if folder.exists() for path in folder.iterdir()}
    assert left <= {"embedded.lock"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's data is outside the home")
def test_no_other_home_finds_roots_data(stopped: EmbeddedPostgres, tmp_path: Path) -> None:
    stopped.start()
    first = stopped.status().data
    copy = tmp_path / "copy"
    shutil.copytree(stopped.home, copy)
    copied = embedded(copy)
    try:
        copied.start()
        assert copied.status().data != first
        assert stopped.status().state == "running"
    finally:
        copied.destroy()
    assert stopped.status().state == "running"


def test_default_timeouts() -> None:
    assert EmbeddedTimeouts().model_dump() == {
        "lock": 90.0,
        "initdb": 60.0,
        "start": 60.0,
        "stop": 30.0,
        "leftovers": 5.0,
        "poll": 0.02,
    }


def test_a_server_starts_although_a_signal_ends_the_shell_that_starts_it(
    stopped: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As what gRPC does in a fork may, where its threads run."""
    spawn = processes._spawn
    ended: list[Sequence[str]] = []

    def spawn_and_kill(command: Sequence[str], *arguments: Any, **named: Any) -> subprocess.Popen[str]:  # noqa: ANN401 - passed on
        is_first_shell = command[0] == "/bin/sh" and not ended
        if is_first_shell:
            ended.append(command)
        return spawn(["/bin/sh", "-c", "kill -ABRT $$"] if is_first_shell else command, *arguments, **named)

    monkeypatch.setattr(processes, "_spawn", spawn_and_kill)
    assert query_value(stopped.start(), "SELECT 1") == 1
    assert len(ended) == 1
