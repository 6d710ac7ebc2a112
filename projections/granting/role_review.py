"""Compares what roles may do with what they were granted: what is missing, and what they may do beyond it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from projections.granting.database_layout import (
    SCHEMAS,
    Layout,
    dangerous_privileges,
    find_permitted,
    read_layout,
    read_recorded_roles,
    read_role,
)
from projections.granting.grant_roles import kind_privileges
from projections.granting.role_kinds import Privilege, RoleKind, Target
from projections.projection import Projection

_GRANTED_BY_HAND = """
SELECT DISTINCT coalesce(r.rolname, 'public') FROM (
    SELECT x.* FROM pg_class AS c, aclexplode(relacl) AS x
    WHERE relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname = ANY(%(ours)s))
    UNION ALL SELECT x.* FROM pg_namespace, aclexplode(nspacl) AS x WHERE nspname = ANY(%(ours)s)
    UNION ALL
    SELECT x.* FROM pg_class AS c, aclexplode(relacl) AS x WHERE c.oid = ANY(%(readable)s::oid[])
) AS held LEFT JOIN pg_roles AS r ON r.oid = held.grantee
WHERE held.grantee NOT IN (SELECT oid FROM pg_roles WHERE rolname = %(owner)s) ORDER BY 1
"""


class RoleReview(NamedTuple):
    """What a role may do.

    Attributes:
        role: the role; ``public`` for everybody.
        kinds: the kinds that it was granted; none if somebody else granted it something on our tables.
        exists: whether there is such a role.
        can_login: whether it may log in.
        missing: privileges of its kinds that it lacks.
        beyond: privileges on our schemas that none of its kinds includes.

    """

    role: str
    kinds: tuple[RoleKind, ...]
    exists: bool
    can_login: bool
    missing: tuple[Privilege, ...]
    beyond: tuple[Privilege, ...]


def review_roles(
    connection: Connection, projections: Iterable[Projection], roles: Iterable[str] | None = None
) -> list[RoleReview]:
    """Review these roles, or all that were granted anything when none is named.

    Args:
        connection: any; only catalogs and ``projections.granted_roles`` are read.
        projections: the installed ones.
        roles: which; None for all.

    """
    layout = read_layout(connection)
    recorded = read_recorded_roles(connection)
    installed = list(projections)
    wanted = sorted({*recorded, *_find_granted_by_hand(connection, layout)}) if roles is None else list(roles)
    return [_review(connection, layout, role, recorded.get(role, ()), installed) for role in wanted]


def describe_privileges(privileges: Sequence[Privilege], limit: int = 4) -> str:
    """Return the first of some privileges in words, and how many more there are."""
    shown = ", ".join(map(str, privileges[:limit]))
    more = len(privileges) - limit
    return f"{shown} and {more} more" if more > 0 else shown


def _review(
    connection: Connection,
    layout: Layout,
    role: str,
    kinds: Sequence[RoleKind],
    projections: Sequence[Projection],
) -> RoleReview:
    facts = read_role(connection, role, layout.owner)
    if facts is None and role != "public":
        return RoleReview(role, tuple(kinds), exists=False, can_login=False, missing=(), beyond=())
    needed = list(
        dict.fromkeys(privilege for kind in kinds for privilege in kind_privileges(layout, kind, projections))
    )
    existing = [one for one in needed if one.target is not Target.TABLE or layout.has(*one.name)]
    held = find_permitted(connection, layout, role, existing)
    missing = [one for one in needed if one not in held]
    # Everybody may use public and connect, unless somebody changed that.
    expected = {*needed, Privilege(Target.SCHEMA, ("public",), "USAGE")}
    suspects = [one for one in dangerous_privileges(layout, role) if one not in expected]
    permitted = find_permitted(connection, layout, role, suspects)
    beyond = [one for one in suspects if one in permitted and not _is_harmless(one, role)]
    can_login = facts is not None and facts.can_login
    return RoleReview(
        role, tuple(kinds), exists=True, can_login=can_login, missing=tuple(missing), beyond=tuple(beyond)
    )


def _is_harmless(one: Privilege, role: str) -> bool:
    """Return whether everybody has a privilege by default, and it opens nothing of ours."""
    return role == "public" and one.target is Target.SCHEMA and one.action == "USAGE" and one.name == ("public",)


def _find_granted_by_hand(connection: Connection, layout: Layout) -> list[str]:
    names = set(layout.readable(()))
    values = {
        "ours": [schema for schema in SCHEMAS if schema != "public"],
        "readable": [one.oid for one in layout.relations if one.schema == "public" and one.name in names],
        "owner": layout.owner,
    }
    return [row[0] for row in connection.exec_driver_sql(_GRANTED_BY_HAND, values)]
