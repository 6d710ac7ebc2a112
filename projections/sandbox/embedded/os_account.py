"""The user that the embedded PostgreSQL runs as: the caller, or for root a system user, as Postgres refuses root."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from typing import TypedDict

from eventstore.errors import EmbeddedError

SYSTEM_USER = "projections"
_ADMIN_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


class _As(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """A user that the server's processes run as.

    Attributes:
        uid: its user number.
        gid: its group number.
        switched: whether that is another user than the caller.

    """

    uid: int
    gid: int
    switched: bool

    @property
    def subprocess_arguments(self) -> _As:
        """Arguments of ``subprocess`` that run a command as this user, without any group of the caller's."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switched else {}


def caller() -> Account:
    """Return the user who runs this process."""
    return Account(os.geteuid(), os.getegid(), switched=False)


def system_account() -> Account:
    """Return the system user for root's servers; create it if it doesn't exist: no shell, no home, no password.

    Raises:
        EmbeddedError: it can't be created.

    """
    entry = _look_up()
    if entry is None:
        _create()
        entry = _look_up()
        if entry is None:
            raise EmbeddedError(f"the system user {SYSTEM_USER!r} was created, but this system doesn't find it")
    if entry.pw_uid == 0:
        raise EmbeddedError(f"the system user {SYSTEM_USER!r} has user number 0, and PostgreSQL refuses to run as root")
    return Account(entry.pw_uid, entry.pw_gid, switched=True)


def _look_up() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return None


def _create() -> None:
    path = f"{os.environ.get('PATH') or ''}:{_ADMIN_PATH}"
    advice = (
        f"PostgreSQL can't run as root, and the system user {SYSTEM_USER!r} can't be created ({{}}): "
        "run this as an ordinary user, or set DATABASE_URL"
    )
    useradd = shutil.which("useradd", path=path)
    if useradd is None:
        raise EmbeddedError(advice.format("the useradd command was not found"))
    arguments = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    done = subprocess.run(  # noqa: S603 - a fixed command, found on the administrator's path
        [useradd, *arguments, "--shell", shutil.which("nologin", path=path) or "/bin/false", SYSTEM_USER],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={"PATH": path, "LC_ALL": "C"},
        check=False,
    )
    # If another process was faster, useradd fails and the user exists.
    if done.returncode and _look_up() is None:
        raise EmbeddedError(advice.format(" ".join(done.stderr.split()) or f"useradd exited {done.returncode}"))
