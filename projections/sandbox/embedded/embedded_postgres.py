"""One embedded server, which any number of processes may start, find, stop and remove at the same time.

Invariants: a lock file serialises starts and stops; a data folder that exists is complete; the passwords are written
before the cluster that uses them; the port is read from the running server.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from eventstore.errors import EmbeddedError
from projections.sandbox.embedded import processes
from projections.sandbox.embedded.binaries import Major, locate, published, version_of
from projections.sandbox.embedded.cluster import DATABASE, ROLE, SUPERUSER, ensure_cluster
from projections.sandbox.embedded.folders import (
    SYSTEM_ROOT,
    Place,
    current,
    load_or_create_server,
    make_folder,
    make_home,
)
from projections.sandbox.embedded.lifecycle import HOST, StopMode, clear_leftovers, start, stop
from projections.sandbox.embedded.os_account import caller, system_account
from projections.sandbox.embedded.private_files import locked
from projections.sandbox.embedded.state_file import SavedServer, state_file
from projections.sandbox.embedded.timeouts import EmbeddedTimeouts, load_embedded_timeouts


@dataclass(frozen=True)
class EmbeddedStatus:
    """The state of an embedded server.

    Attributes:
        state: ``absent`` (never started), ``stopped``, ``starting`` or ``running``.
        pid: the server's process number, or None.
        port: its TCP port on 127.0.0.1, or None.
        data: its data folder, or None when absent.
        log: the folder of its log, or None when absent.

    """

    state: Literal["absent", "stopped", "starting", "running"]
    pid: int | None = None
    port: int | None = None
    data: Path | None = None
    log: Path | None = None


class EmbeddedPostgres:
    """The server of one home folder.

    Args:
        home: the folder that identifies the server, usually ``.projections``; created when needed.
        major: the PostgreSQL of the wheel to run.
        settings: server settings to add, from the next start on; the security settings can't be changed.
        bin_dir: binaries to run instead of the wheel's; for root, everyone must be able to execute them.
        timeouts: None reads them from the environment.

    """

    def __init__(
        self,
        home: Path,
        *,
        major: Major = 18,
        settings: Mapping[str, str] | None = None,
        bin_dir: Path | None = None,
        timeouts: EmbeddedTimeouts | None = None,
    ) -> None:
        self.home = home.resolve()
        self.timeouts = timeouts or load_embedded_timeouts()
        self._major = major
        self._settings = dict(settings or {})
        self._bin_dir = bin_dir

    def start(self) -> str:
        """Start the server unless it runs, and return the URL of our database as its owner.

        Raises:
            EmbeddedError: it can't be started; the message is one sentence.

        """
        if (url := self.url()) is not None:
            return url
        make_home(self.home)
        try:
            with locked(self._lock, wait=self.timeouts.lock, poll=self.timeouts.poll) as lock:
                self._start(lock)
        except OSError as error:
            raise EmbeddedError(f"the embedded PostgreSQL can't be started: {error}") from error
        url = self.url()
        if url is None:
            raise EmbeddedError(
                f"the embedded PostgreSQL stopped right after its start; see its log in {self.status().log}"
            )
        return url

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server if it runs, and wait until it has stopped.

        Args:
            mode: Postgres's shutdown mode: ``smart`` waits for clients, ``fast`` doesn't, ``immediate`` needs recovery.

        Raises:
            EmbeddedError: it did not stop in time.

        """
        state = current(self.home)
        if state is None:
            return
        with locked(self._lock, wait=self.timeouts.lock, poll=self.timeouts.poll):
            stop(Place.of(self.home, state), state, mode, timeouts=self.timeouts)

    def destroy(self) -> None:
        """Stop the server immediately, and delete its data and passwords."""
        state = current(self.home)
        if state is None:
            return
        with locked(self._lock, wait=self.timeouts.lock, poll=self.timeouts.poll):
            place = Place.of(self.home, state)
            with suppress(EmbeddedError):
                stop(place, state, "immediate", timeouts=self.timeouts)
            clear_leftovers(place, state, timeouts=self.timeouts)
            shutil.rmtree(place.data, ignore_errors=True)
            if place.folder != self.home:
                shutil.rmtree(place.folder, ignore_errors=True)
            for path in (place.config, place.hba, place.running_lock, place.output, state_file(self.home)):
                path.unlink(missing_ok=True)

    def url(self) -> str | None:
        """Return the URL of our database as its owner, or None while the server isn't ready."""
        return self._url(lambda state: f"{ROLE}:{state.password}", DATABASE)

    def superuser_url(self) -> str | None:
        """Return the URL of the maintenance database as superuser, or None while the server isn't ready."""
        return self._url(lambda state: f"{SUPERUSER}:{state.superuser_password}", SUPERUSER)

    def status(self) -> EmbeddedStatus:
        """Return the server's state, without starting anything."""
        state = current(self.home)
        if state is None:
            return EmbeddedStatus("absent")
        place = Place.of(self.home, state)
        server = processes.find(place.data, state.name)
        if server is None:
            return EmbeddedStatus("stopped", data=place.data, log=place.log)
        return EmbeddedStatus("running" if server.ready else "starting", server.pid, server.port, place.data, place.log)

    @property
    def server_version(self) -> str:
        """The version of the server's binaries, such as ``18.4``."""
        return version_of(self._bin_dir or locate(self._major))

    @property
    def _lock(self) -> Path:
        return self.home / "embedded.lock"

    def _url(self, login: Callable[[SavedServer], str], database: str) -> str | None:
        state = current(self.home)
        if state is None:
            return None
        server = processes.find(Place.of(self.home, state).data, state.name)
        return f"postgresql://{login(state)}@{HOST}:{server.port}/{database}" if server and server.ready else None

    def _start(self, lock: int) -> None:
        state = load_or_create_server(self.home)
        place = Place.of(self.home, state)
        account = system_account() if os.geteuid() == 0 else caller()
        make_folder(place, account)
        binaries = self._bin_dir or locate(self._major)
        if self._bin_dir is None and account.switched:
            binaries = published(binaries, self._major, SYSTEM_ROOT, wait=self.timeouts.lock, poll=self.timeouts.poll)
        durable = self._settings.get("fsync", "on") != "off"
        ensure_cluster(place, state, account, binaries, timeouts=self.timeouts, lock=lock, durable=durable)
        _refuse_other_version(place, binaries)
        start(place, state, account, binaries, settings=self._settings, timeouts=self.timeouts)


def _refuse_other_version(place: Place, binaries: Path) -> None:
    cluster = (place.data / "PG_VERSION").read_text().strip()
    server = version_of(binaries)
    if cluster != server.split(".")[0]:
        raise EmbeddedError(
            f"{place.data} was created by PostgreSQL {cluster}, but version {server} is installed: move it elsewhere"
        )
