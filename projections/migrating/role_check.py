"""Checks before the work of ``run`` and ``ingest`` begins that this role may do it at all.

Invariants. Only the privileges without which nothing works are checked, so roles that were granted less than
``projections grant`` gives, and enough, work too. If one is taken away later, the process says so and tries again.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from projections.errors import RoleMayNot
from projections.granting.database_layout import find_permitted, read_layout
from projections.granting.role_kinds import Privilege, RoleKind, Target

_EVENTS, _CURSORS = ("eventstore", "events"), ("eventstore", "cursors")
_CHECKPOINTS = ("projections", "checkpoints")
_ESSENTIAL = {
    RoleKind.INGEST: [
        Privilege(Target.TABLE, _EVENTS, "INSERT"),
        Privilege(Target.TABLE, _CURSORS, "INSERT"),
        Privilege(Target.TABLE, _CURSORS, "UPDATE"),
    ],
    RoleKind.WORKER: [
        Privilege(Target.TABLE, _EVENTS, "SELECT"),
        Privilege(Target.TABLE, _CHECKPOINTS, "INSERT"),
        Privilege(Target.TABLE, _CHECKPOINTS, "UPDATE"),
    ],
}


def check_privileges(connection: Connection, kinds: Sequence[RoleKind]) -> None:
    """Make sure that this role has the essential privileges of these kinds.

    Raises:
        RoleMayNot: it lacks one; the message says how to get it.

    """
    if not kinds:
        return
    layout = read_layout(connection)
    for kind in kinds:
        needed = _ESSENTIAL.get(kind, [])
        permitted = find_permitted(connection, layout, layout.user, needed)
        for one in needed:
            if one not in permitted:
                raise RoleMayNot(
                    f"role {layout.user} may not run this command: it lacks {one}; let the owner {layout.owner} run"
                    f" projections grant --{kind.value} {layout.user}"
                )
