"""An empty cluster, made aside and moved into place when it is whole; and the settings that each start pins."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from eventstore.errors import EmbeddedError
from projections.sandbox.embedded.folders import Place
from projections.sandbox.embedded.os_account import Account
from projections.sandbox.embedded.private_files import sync_folder, write_whole
from projections.sandbox.embedded.processes import run
from projections.sandbox.embedded.state_file import State
from projections.sandbox.embedded.timeouts import EmbeddedTimeouts

DATABASE = "projections"
ROLE = "projections"
SUPERUSER = "postgres"

# Callers may change these, not what `_pinned` holds.
_DEFAULTS: Mapping[str, str] = {
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    # Without "$user": the role bears the name of a schema of ours, and tables that people make don't belong there.
    "search_path": "public",
}

_HBA = """\
# Written at each start. Nobody is trusted: a password from everyone, on the loopback interface only.
# TYPE  DATABASE  USER  ADDRESS        METHOD
host    all       all   127.0.0.1/32   scram-sha-256
"""


def ensure_cluster(
    place: Place,
    state: State,
    account: Account,
    binaries: Path,
    *,
    timeouts: EmbeddedTimeouts,
    lock: int,
    durable: bool,
) -> None:
    """Make the cluster with our role and database in it, unless it is there.

    It is made in a folder of its own and renamed: a cluster that bears the name is whole, and what a killed
    predecessor left is thrown away.

    Args:
        place: where it shall lie.
        state: the passwords.
        account: whom it belongs to.
        binaries: PostgreSQL's.
        timeouts: how long that may take.
        lock: the descriptor of the lock that the caller holds.
        durable: False spares the disk, for tests.

    Raises:
        EmbeddedError: it can't be made, or what is there is no cluster.

    """
    for half in place.folder.glob(".initdb-*"):
        shutil.rmtree(half, ignore_errors=True)
    if (place.data / "PG_VERSION").exists():
        return
    if place.data.is_dir() and any(place.data.iterdir()):
        raise EmbeddedError(f"{place.data} is no PostgreSQL cluster: move it away")
    half = Path(tempfile.mkdtemp(prefix=".initdb-", dir=place.folder))
    try:
        _make(half, state, account, binaries, timeouts=timeouts, lock=lock, durable=durable)
        (half / "data").rename(place.data)
        sync_folder(place.folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _make(
    half: Path, state: State, account: Account, binaries: Path, *, timeouts: EmbeddedTimeouts, lock: int, durable: bool
) -> None:
    data, passwords = half / "data", half / "password"
    write_whole(passwords, f"{state.superuser_password}\n")
    if account.switched:
        os.chown(passwords, account.uid, account.gid, follow_symlinks=False)
        os.chown(half, account.uid, account.gid, follow_symlinks=False)
    initdb = [
        str(binaries / "initdb"),
        f"--pgdata={data}",
        f"--username={SUPERUSER}",
        f"--pwfile={passwords}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
    ]
    run([*initdb, *([] if durable else ["--no-sync"])], account, timeout=timeouts.initdb, keep=lock)
    # A server that listens to nobody: the role and the database are there before anyone can connect.
    alone = [str(binaries / "postgres"), "--single", "-D", str(data), "-c", "exit_on_error=on"]
    statements = f"CREATE ROLE {ROLE} LOGIN PASSWORD '{state.password}'\nCREATE DATABASE {DATABASE} OWNER {ROLE}\n"
    run(
        [*alone, "-c", f"fsync={'on' if durable else 'off'}", SUPERUSER],
        account,
        timeout=timeouts.initdb,
        keep=lock,
        stdin=statements,
    )


def write_settings(place: Place, account: Account, *, port: int, settings: Mapping[str, str]) -> None:
    """Write what a start pins: the settings and who may connect. Only the server's user can read it besides us."""
    lines = [
        "# Written at each start: what initdb found for this machine, then our settings.",
        f"include {_quoted(str(place.data / 'postgresql.conf'))}",
        *(f"{key} = {_quoted(value)}" for key, value in {**_DEFAULTS, **settings, **_pinned(place, port)}.items()),
    ]
    mode, group = (0o640, account.gid) if account.switched else (0o600, None)
    write_whole(place.config, "\n".join(lines) + "\n", mode=mode, group=group)
    write_whole(place.hba, _HBA, mode=mode, group=group)


def server_command(place: Place, state: State, binaries: Path) -> list[str]:
    """Return the command that starts the server; its cluster name is how its processes are recognised."""
    options = [f"cluster_name={state.name}", f"config_file={place.config}"]
    return [str(binaries / "postgres"), "-D", str(place.data), *(part for option in options for part in ("-c", option))]


def _pinned(place: Place, port: int) -> dict[str, str]:
    return {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "hba_file": str(place.hba),
        "password_encryption": "scram-sha-256",
        "ssl": "off",
        # A file a weekday, begun anew after a week.
        "logging_collector": "on",
        "log_destination": "stderr",
        "log_directory": "log",
        "log_filename": "postgresql-%u.log",
        "log_file_mode": "0600",
        "log_rotation_age": "1d",
        "log_rotation_size": "0",
        "log_truncate_on_rotation": "on",
        # Statements and DETAIL carry phone numbers, which belong in no log.
        "log_error_verbosity": "terse",
        "log_min_error_statement": "panic",
        "log_statement": "none",
        "log_min_duration_statement": "-1",
    }


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
