"""The file that keeps a server's name, passwords and port."""

from __future__ import annotations

import json
import os
import re
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from eventstore.errors import EmbeddedError
from projections.sandbox.embedded.private_files import write_whole


@dataclass(frozen=True)
class SavedServer:
    """What is saved about a server, in ``embedded.json`` (file mode 0600).

    Attributes:
        name: random; part of root's data path, and of the titles of the server's processes.
        password: of the role ``projections``.
        superuser_password: of the role ``postgres``.
        port: the TCP port of the last start, or None before the first.

    """

    name: str
    password: str
    superuser_password: str
    port: int | None = None

    @classmethod
    def new(cls) -> SavedServer:
        """Return a new state with a random name and passwords."""
        return cls(secrets.token_hex(12), secrets.token_hex(24), secrets.token_hex(24))


def state_file(home: Path) -> Path:
    """Return the path of a home's state file."""
    return home / "embedded.json"


def load_server(home: Path) -> SavedServer | None:
    """Return the saved state of a home's server, or None if there is none.

    Raises:
        EmbeddedError: the home belongs to another user, or the file is damaged.

    """
    path = state_file(home)
    damaged = f"{path} is damaged; restore it from a backup, or delete {home} (this deletes the database)"
    try:
        # A file of another user could lead root to a folder of their choice.
        if home.stat().st_uid != os.geteuid() or path.stat().st_uid != os.geteuid():
            raise EmbeddedError(
                f"{home} belongs to another user (number {home.stat().st_uid}): run this as that user, "
                "or name another folder in PROJECTIONS_HOME"
            )
        state = SavedServer(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EmbeddedError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, TypeError):
        raise EmbeddedError(damaged) from None
    if not re.fullmatch(r"[0-9a-f]{24}", state.name):
        raise EmbeddedError(damaged)
    return state


def save_server(home: Path, state: SavedServer) -> None:
    """Save a server's state."""
    write_whole(state_file(home), json.dumps(asdict(state), indent=1) + "\n")
