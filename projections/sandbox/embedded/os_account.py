"""Whose the embedded PostgreSQL is: the caller's, or for root a system user's, as Postgres refuses root."""

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
        """What ``subprocess`` must be told to run something as this user, without any group of the caller's."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switched else {}


def caller() -> Account:
    """Return the user who runs this process."""
    return Account(os.geteuid(), os.getegid(), switched=False)


def system_account() -> Account:
    """Return the system user for root's servers, and make it when it isn't there: no shell, no home, no password.

    Raises:
        EmbeddedError: it can't be made.

    """
    entry = _look_up()
    if entry is None:
        _create()
        entry = _look_up()
        if entry is None:
            raise EmbeddedError(f"the system user {SYSTEM_USER!r} was made, but this system does not find it")
    if entry.pw_uid == 0:
        raise EmbeddedError(f"the system user {SYSTEM_USER!r} is root itself, as whom PostgreSQL can't run")
    return Account(entry.pw_uid, entry.pw_gid, switched=True)


def _look_up() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        return None


def _create() -> None:
    path = f"{os.environ.get('PATH') or ''}:{_ADMIN_PATH}"
    advice = (
        f"PostgreSQL can't run as root, and the system user {SYSTEM_USER!r} can't be made for it ({{}}): "
        "run this as an ordinary user, or give a database in DATABASE_URL"
    )
    useradd = shutil.which("useradd", path=path)
    if useradd is None:
        raise EmbeddedError(advice.format("there is no useradd command"))
    arguments = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    done = subprocess.run(  # noqa: S603 - a fixed command, found on the administrator's path
        [useradd, *arguments, "--shell", shutil.which("nologin", path=path) or "/bin/false", SYSTEM_USER],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={"PATH": path, "LC_ALL": "C"},
        check=False,
    )
    # Another process may have been faster: then useradd fails, and the user is there.
    if done.returncode and _look_up() is None:
        raise EmbeddedError(advice.format(" ".join(done.stderr.split()) or f"useradd exited {done.returncode}"))
