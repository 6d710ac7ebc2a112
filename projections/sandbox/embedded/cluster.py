"""Creates an empty cluster, moved into place only when it is complete, and writes the settings of each start."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from psycopg import sql

from eventstore.errors import EmbeddedError
from projections.sandbox.embedded.folders import Place
from projections.sandbox.embedded.os_account import Account
from projections.sandbox.embedded.private_files import sync_folder, write_whole
from projections.sandbox.embedded.processes import run_program
from projections.sandbox.embedded.state_file import SavedServer
from projections.sandbox.embedded.timeouts import EmbeddedTimeouts

DATABASE = "projections"
ROLE = "projections"
SUPERUSER = "postgres"

# Callers may change these, but not the settings of `_pinned`.
_DEFAULTS: Mapping[str, str] = {
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    # Without "$user": a schema of ours has the role's name, and users' tables don't belong there.
    "search_path": "public",
}

# One line for each statement, as the single-user server reads them.
_CREATE = sql.SQL("CREATE ROLE {role} LOGIN PASSWORD {password}\nCREATE DATABASE {database} OWNER {role}\n")

_HBA = """\
# Written at each start. Everyone needs a password, and only the loopback interface is open.
# TYPE  DATABASE  USER  ADDRESS        METHOD
host    all       all   127.0.0.1/32   scram-sha-256
"""


def ensure_cluster(
    place: Place,
    state: SavedServer,
    account: Account,
    binaries: Path,
    *,
    timeouts: EmbeddedTimeouts,
    lock: int,
    durable: bool,
) -> None:
    """Create the cluster with our role and database, unless it exists.

    It is created in a temporary folder and then renamed: a cluster with the final name is complete, and what a killed
    process left behind is removed.

    Args:
        place: the paths of the server.
        state: the passwords.
        account: the user who owns it.
        binaries: PostgreSQL's.
        timeouts: timeouts, of which initdb's is used.
        lock: the descriptor of the lock that the caller holds.
        durable: False skips fsync, for tests.

    Raises:
        EmbeddedError: it can't be created, or the data folder contains something else.

    """
    for half in place.folder.glob(".initdb-*"):
        shutil.rmtree(half, ignore_errors=True)
    if (place.data / "PG_VERSION").exists():
        return
    if place.data.is_dir() and any(place.data.iterdir()):
        raise EmbeddedError(f"{place.data} is not a PostgreSQL data folder: move it elsewhere")
    half = Path(tempfile.mkdtemp(prefix=".initdb-", dir=place.folder))
    try:
        _make(half, state, account, binaries, timeouts=timeouts, lock=lock, durable=durable)
        (half / "data").rename(place.data)
        sync_folder(place.folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _make(
    half: Path,
    state: SavedServer,
    account: Account,
    binaries: Path,
    *,
    timeouts: EmbeddedTimeouts,
    lock: int,
    durable: bool,
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
    run_program([*initdb, *([] if durable else ["--no-sync"])], account, timeout=timeouts.initdb, keep=lock)
    # A single-user server: the role and the database exist before anyone can connect.
    alone = [str(binaries / "postgres"), "--single", "-D", str(data), "-c", "exit_on_error=on"]
    statements = _CREATE.format(
        role=sql.Identifier(ROLE), password=sql.Literal(state.password), database=sql.Identifier(DATABASE)
    ).as_string()
    run_program(
        [*alone, "-c", f"fsync={'on' if durable else 'off'}", SUPERUSER],
        account,
        timeout=timeouts.initdb,
        keep=lock,
        stdin=statements,
    )


def write_settings(place: Place, account: Account, *, port: int, settings: Mapping[str, str]) -> None:
    """Write the settings and who may connect, at each start. Besides us only the server's user can read the files."""
    lines = [
        "# Written at each start: what initdb found for this machine, then our settings.",
        f"include {_quoted(str(place.data / 'postgresql.conf'))}",
        *(f"{key} = {_quoted(value)}" for key, value in {**_DEFAULTS, **settings, **_pinned(place, port)}.items()),
    ]
    mode, group = (0o640, account.gid) if account.switched else (0o600, None)
    write_whole(place.config, "\n".join(lines) + "\n", mode=mode, group=group)
    write_whole(place.hba, _HBA, mode=mode, group=group)


def server_command(place: Place, state: SavedServer, binaries: Path) -> list[str]:
    """Return the command that starts the server; its processes are recognised by the cluster name."""
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
        # One file for each weekday, overwritten after a week.
        "logging_collector": "on",
        "log_destination": "stderr",
        "log_directory": "log",
        "log_filename": "postgresql-%u.log",
        "log_file_mode": "0600",
        "log_rotation_age": "1d",
        "log_rotation_size": "0",
        "log_truncate_on_rotation": "on",
        # Statements and DETAIL contain phone numbers, which must not be logged.
        "log_error_verbosity": "terse",
        "log_min_error_statement": "panic",
        "log_statement": "none",
        "log_min_duration_statement": "-1",
    }


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
