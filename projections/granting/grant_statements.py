"""Composes the statements that grant and revoke privileges: few, sorted, and readable by a person who runs them."""

from __future__ import annotations

from collections.abc import Iterable

from psycopg import sql

from projections.granting.role_kinds import Privilege, RoleKind, Target

_Actions = tuple[tuple[str, tuple[str, ...]], ...]
"""What is granted on an object: each action with its columns, if it isn't for the whole table."""


def compose_grants(privileges: Iterable[Privilege], role: str, owner: str) -> list[str]:
    """Return the statements that grant privileges to a role; objects with the same ones share a statement."""
    return _compose(privileges, role, owner, sql.SQL("GRANT"), sql.SQL("TO"))


def compose_revokes(privileges: Iterable[Privilege], role: str, owner: str) -> list[str]:
    """Return the statements that take privileges away from a role."""
    return _compose(privileges, role, owner, sql.SQL("REVOKE"), sql.SQL("FROM"))


def compose_record(role: str, kind: RoleKind) -> str:
    """Return the statement that records what a role is for."""
    return (
        sql.SQL(
            "INSERT INTO projections.granted_roles (role, kind, granted_at) VALUES ({}, {}, clock_timestamp())"
            " ON CONFLICT (role, kind) DO NOTHING"
        )
        .format(sql.Literal(role), sql.Literal(kind.value))
        .as_string()
    )


def compose_forget(role: str, kind: RoleKind) -> str:
    """Return the statement that deletes such a record."""
    text = sql.SQL("DELETE FROM projections.granted_roles WHERE role = {} AND kind = {}")
    return text.format(sql.Literal(role), sql.Literal(kind.value)).as_string()


def compose_drops(tables: Iterable[str]) -> list[str]:
    """Return the statements that drop tables of shadows."""
    return [sql.SQL("DROP TABLE {}").format(sql.Identifier("projections_shadow", name)).as_string() for name in tables]


def _compose(privileges: Iterable[Privilege], role: str, owner: str, verb: sql.SQL, to: sql.SQL) -> list[str]:
    by_object: dict[tuple[Target, tuple[str, ...]], dict[str, list[str]]] = {}
    for one in privileges:
        columns = by_object.setdefault((one.target, one.name), {}).setdefault(one.action, [])
        columns += [one.column] if one.column else []
    alike: dict[tuple[Target, _Actions], list[tuple[str, ...]]] = {}
    for (target, name), actions in by_object.items():
        key = (target, tuple((action, tuple(columns)) for action, columns in actions.items()))
        alike.setdefault(key, []).append(name)
    order = list(Target)
    statements = []
    for (target, found), names in sorted(alike.items(), key=lambda item: (order.index(item[0][0]), min(item[1]))):
        actions_text = sql.SQL(", ").join(_action(action, columns) for action, columns in found)
        role_name = sql.Identifier(role)
        if target is Target.NEW_TABLES:
            text = sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA {} {} {} ON TABLES {} {}").format(
                sql.Identifier(owner), sql.Identifier(names[0][0]), verb, actions_text, to, role_name
            )
        else:
            objects = sql.SQL(", ").join(_object(target, name) for name in sorted(names))
            text = sql.SQL("{} {} ON {} {} {} {}").format(
                verb, actions_text, sql.SQL(target.value), objects, to, role_name
            )
        statements.append(text.as_string())
    return statements


def _action(action: str, columns: Iterable[str]) -> sql.Composable:
    listed = list(columns)
    if not listed:
        return sql.SQL(action)
    return sql.SQL("{} ({})").format(sql.SQL(action), sql.SQL(", ").join(map(sql.Identifier, listed)))


def _object(target: Target, name: tuple[str, ...]) -> sql.Composable:
    if target is Target.FUNCTION:  # a signature of ours, with the types of its arguments
        function, bracket, rest = name[1].partition("(")
        return sql.SQL("{}{}").format(sql.Identifier(name[0], function), sql.SQL(bracket + rest))
    return sql.Identifier(*name)
