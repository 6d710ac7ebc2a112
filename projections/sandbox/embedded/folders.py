"""The paths of an embedded server's files, and who must own them."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from eventstore.errors import EmbeddedError
from projections.sandbox.embedded.binaries import refuse_foreign
from projections.sandbox.embedded.os_account import Account
from projections.sandbox.embedded.private_files import write_whole
from projections.sandbox.embedded.state_file import SavedServer, load_server, save_server, state_file

SYSTEM_ROOT = Path("/var/lib/projections")
HOME_NAME = ".projections"


@dataclass(frozen=True)
class Place:
    """The paths of one server.

    Attributes:
        home: the folder ``.projections``, which identifies the server.
        folder: what holds the data; the home itself, or for root a folder that the system user can reach.

    """

    home: Path
    folder: Path

    @classmethod
    def of(cls, home: Path, state: SavedServer) -> Place:
        """Return the paths of a home's server for the current user."""
        return cls(home, SYSTEM_ROOT / state.name if os.geteuid() == 0 else home)

    @property
    def data(self) -> Path:
        """Postgres's data folder."""
        return self.folder / "postgres"

    @property
    def config(self) -> Path:
        """The settings of the next start, outside the data: the server's user can't change them."""
        return self.folder / "postgresql.conf"

    @property
    def hba(self) -> Path:
        """Who may connect, and how (pg_hba.conf)."""
        return self.folder / "pg_hba.conf"

    @property
    def running_lock(self) -> Path:
        """A file that is locked as long as any process of the server runs."""
        return self.folder / "running.lock"

    @property
    def output(self) -> Path:
        """The server's output before its log begins."""
        return self.home / "embedded.log"

    @property
    def log(self) -> Path:
        """The folder of the server's log: one file for each weekday, overwritten after a week."""
        return self.data / "log"


def make_home(home: Path) -> None:
    """Create a home that only its owner can read.

    An existing folder keeps its mode, unless it has our own name: PROJECTIONS_HOME may name any folder.

    Raises:
        EmbeddedError: it can't be created.

    """
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        home.mkdir(mode=0o700, exist_ok=True)
        found = home.stat()
        if home.name == HOME_NAME and found.st_uid == os.geteuid() and found.st_mode & 0o777 != 0o700:
            home.chmod(0o700)
    except OSError as error:
        raise EmbeddedError(f"the folder {home} can't be created: {error.strerror}") from error


def load_or_create_server(home: Path) -> SavedServer:
    """Return the saved state of a home's server, or save a new one; call it under the home's lock.

    A copy of root's home would find the original's data by its name, so it gets a new name.
    """
    state = load_server(home)
    if state is None:
        if (home / "postgres").exists():
            raise EmbeddedError(
                f"{state_file(home)} is missing; it holds the database password: restore it, or delete"
                f" {home / 'postgres'} (this deletes the database)"
            )
        state = SavedServer.new()
        save_server(home, state)
    elif _is_anothers(Place.of(home, state), state):
        state = SavedServer.new()
        save_server(home, state)
    return state


def make_folder(place: Place, account: Account) -> None:
    """Create root's folder for a server's data, or check the existing one.

    Raises:
        EmbeddedError: another user could write to it.

    """
    if not account.switched:
        return
    try:
        _make_own(SYSTEM_ROOT, 0o755)
        _make_own(place.folder, 0o710)
        os.chown(place.folder, 0, account.gid)
        write_whole(place.folder / "home", f"{place.home}\n")
        if place.data.exists() and place.data.lstat().st_uid != account.uid:
            raise EmbeddedError(f"{place.data} does not belong to the system user that PostgreSQL runs as")
    except OSError as error:
        raise EmbeddedError(f"{place.folder} can't be created: {error.strerror}") from error


def _make_own(folder: Path, mode: int) -> None:
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    refuse_foreign(folder)
    if folder.stat().st_mode & 0o777 != mode:
        folder.chmod(mode)  # whatever the umask is, or a killed process didn't finish


def current(home: Path) -> SavedServer | None:
    """Return the saved state of a home's server; None if there is none, or if it is another home's.

    Raises:
        EmbeddedError: the home belongs to another user, or the file is damaged.

    """
    state = load_server(home)
    return None if state is None or _is_anothers(Place.of(home, state), state) else state


def _is_anothers(place: Place, state: SavedServer) -> bool:
    """Tell whether this is a copy of another home: one elsewhere whose server has the same name."""
    if place.folder == place.home:
        return False
    try:
        owner = Path((place.folder / "home").read_text().rstrip("\n"))
    except FileNotFoundError:
        return False
    if owner == place.home:
        return False
    try:
        other = load_server(owner)
    except EmbeddedError:
        return False
    return other is not None and other.name == state.name
