"""Plans what is granted to roles, and what is taken away from them; a plan is a list of statements.

Invariants. A plan that is run twice changes nothing the second time. All of its statements run in one transaction. A
revoke takes away the privileges of one kind, as far as the role was granted them by the owner and no other kind of the
role needs them; what others granted stays.

The owner of the schema creates the schema of shadows and its table of positions before a worker may create tables
there: a table of a worker could have triggers, which would run as whoever writes into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from psycopg import sql
from sqlalchemy import Connection

from projections.engine_tables import SHADOW_POSITIONS_DDL
from projections.errors import GrantRefused
from projections.granting.database_layout import (
    SHADOW_POSITIONS_TABLE,
    Layout,
    RoleFacts,
    find_permitted,
    read_held,
    read_layout,
    read_recorded_roles,
    read_role,
)
from projections.granting.grant_statements import (
    compose_drops,
    compose_forget,
    compose_grants,
    compose_record,
    compose_revokes,
)
from projections.granting.role_kinds import Privilege, RoleKind, Target, privileges_of
from projections.projection import READ_MODEL_SCHEMA, Projection
from projections.read_models.common_columns import VIEWS

_SHADOW_SCHEMA = SHADOW_POSITIONS_TABLE[0]


class RoleRequest(NamedTuple):
    """A role, and a kind that it is to have or to lose."""

    role: str
    kind: RoleKind


class GrantPlan(NamedTuple):
    """The statements for one role; ``preparation`` has those that the whole database needs first."""

    request: RoleRequest
    preparation: tuple[str, ...]
    statements: tuple[str, ...]


def plan_grants(
    connection: Connection, requests: Sequence[RoleRequest], projections: Iterable[Projection]
) -> list[GrantPlan]:
    """Return what has to be run so that roles have these kinds.

    Args:
        connection: inside a transaction; nothing is changed.
        requests: the roles and their kinds.
        projections: the installed ones, whose tables workers fold.

    Raises:
        GrantRefused: a role doesn't exist, needs no grant, or an object belongs to somebody else; the message says what
            to do.

    """
    layout = read_layout(connection)
    installed = list(projections)
    plans: list[GrantPlan] = []
    # Before all grants: Citus creates no schema in a transaction that has changed a distributed table.
    preparation = tuple(_prepare_shadows(layout)) if any(one.kind is RoleKind.WORKER for one in requests) else ()
    for request in requests:
        _find_role(connection, layout, request.role)
        asked = kind_privileges(layout, request.kind, installed)
        grants = _without_foreign(connection, layout, request, asked)
        statements = (
            *compose_grants(grants, request.role, layout.owner),
            compose_record(request.role, request.kind),
        )
        plans.append(GrantPlan(request, () if plans else preparation, statements))
    return plans


def plan_revokes(
    connection: Connection, requests: Sequence[RoleRequest], projections: Iterable[Projection]
) -> list[GrantPlan]:
    """Return what has to be run so that roles no longer have these kinds; see :func:`plan_grants`."""
    layout = read_layout(connection)
    recorded = read_recorded_roles(connection)
    installed = list(projections)
    plans = []
    for role, kind in requests:
        if read_role(connection, role, layout.owner) is None:
            if kind not in recorded.get(role, ()):
                raise GrantRefused(f"role {role} does not exist, and nothing was granted to it")
            plans.append(GrantPlan(RoleRequest(role, kind), (), (compose_forget(role, kind),)))
            continue
        losing = {other for name, other in requests if name == role}
        kept = {
            privilege
            for other in recorded.get(role, ())
            if other not in losing
            for privilege in kind_privileges(layout, other, installed)
        }
        held = read_held(connection, layout, role)
        # Tables that are no longer there, or whose projection isn't installed here, were granted all the same.
        lost = {one for one in held if _belongs_to(one, kind, layout, installed)} - kept
        statements = list(compose_revokes(sorted(lost, key=_by_target), role, layout.owner))
        if kind is RoleKind.WORKER:
            left = [one.name for one in layout.relations if (one.schema, one.owner) == (_SHADOW_SCHEMA, role)]
            statements += compose_drops(left)
        if kind in recorded.get(role, ()):
            statements.append(compose_forget(role, kind))
        plans.append(GrantPlan(RoleRequest(role, kind), (), tuple(statements)))
    return plans


def run_plans(connection: Connection, plans: list[GrantPlan]) -> list[GrantPlan]:
    """Run the statements of plans, inside the caller's transaction, and return the plans.

    Raises:
        GrantRefused: this role may not; the message says which one may.

    """
    layout = read_layout(connection)
    if not layout.is_owner:
        raise GrantRefused(
            f"role {layout.user} may not do this: the schema belongs to role {layout.owner}; connect as that role, or"
            " let it run what --dry-run prints"
        )
    creates = [one for plan in plans for one in plan.preparation if one.startswith("CREATE SCHEMA")]
    needed = Privilege(Target.DATABASE, (layout.database,), "CREATE")
    if creates and not find_permitted(connection, layout, layout.user, [needed]):
        raise GrantRefused(
            f"role {layout.user} may not create schemas in this database; let its owner {layout.database_owner} run:"
            f" {creates[0]}"
        )
    for plan in plans:
        for statement in (*plan.preparation, *plan.statements):
            connection.exec_driver_sql(statement.replace("%", "%%"))
    return plans


def grant_on_new_relations(connection: Connection, before: set[int], projections: Iterable[Projection]) -> list[str]:
    """Grant what recorded roles need on the tables and views that a migration created; nothing on earlier ones.

    Args:
        connection: inside the migration's transaction.
        before: the oids of the relations before the migration.
        projections: the installed ones.

    Returns:
        The roles that no longer exist.

    """
    layout = read_layout(connection)
    installed = list(projections)
    new = {(one.schema, one.name) for one in layout.relations if one.oid not in before}
    gone = []
    for role, kinds in read_recorded_roles(connection).items():
        if read_role(connection, role, layout.owner) is None:
            gone.append(role)
            continue
        for kind in kinds:
            wanted = [one for one in kind_privileges(layout, kind, installed) if one.name in new]
            for statement in compose_grants(wanted, role, layout.owner):
                connection.exec_driver_sql(statement.replace("%", "%%"))
    return gone


def kind_privileges(layout: Layout, kind: RoleKind, projections: Sequence[Projection]) -> list[Privilege]:
    """Return the privileges of a kind on what is in a database."""
    folded = [table.name for one in projections for table in one.tables]
    views = [view.name for one in projections for view in one.views]
    wanted = privileges_of(kind, layout.database, folded, layout.readable([*folded, *views, *VIEWS]))
    return [one for one in wanted if one.target not in (Target.TABLE, Target.SEQUENCE) or _will_exist(layout, one)]


def _will_exist(layout: Layout, one: Privilege) -> bool:
    return one.name == SHADOW_POSITIONS_TABLE or layout.has(*one.name)


def _find_role(connection: Connection, layout: Layout, role: str) -> RoleFacts:
    if role.lower() == "public":
        raise GrantRefused("public is everybody, not a role: create a role and grant to it")
    found = read_role(connection, role, layout.owner)
    if found is None:
        name = sql.Identifier(role).as_string()
        raise GrantRefused(f"role {role} does not exist; create it first: CREATE ROLE {name} LOGIN PASSWORD '…'")
    if found.is_superuser:
        raise GrantRefused(f"role {role} is a superuser, whom no grant limits; create another role")
    if found.is_owner:
        raise GrantRefused(f"role {role} may do everything already: it is {layout.owner}, the owner, or a member of it")
    return found


def _without_foreign(
    connection: Connection, layout: Layout, request: RoleRequest, asked: Sequence[Privilege]
) -> list[Privilege]:
    """Leave out what the role has already on objects that belong to others and that we may not grant on."""
    outside = [one for one in asked if one.target is Target.DATABASE or one.name == (READ_MODEL_SCHEMA,)]
    outside = [one for one in outside if one.target is not Target.NEW_TABLES]
    grantable = find_permitted(
        connection,
        layout,
        layout.user,
        [one._replace(action=f"{one.action} WITH GRANT OPTION") for one in outside],
    )
    ours = {one._replace(action=one.action.removesuffix(" WITH GRANT OPTION")) for one in grantable}
    foreign = [one for one in outside if one not in ours]
    had = find_permitted(connection, layout, request.role, foreign)
    for one in foreign:
        if one not in had:
            owner = layout.database_owner if one.target is Target.DATABASE else layout.public_owner
            (statement,) = compose_grants([one], request.role, layout.owner)
            raise GrantRefused(f"role {request.role} lacks {one}, which only {owner} can grant: {statement}")
    return [one for one in asked if one not in foreign]


def _prepare_shadows(layout: Layout) -> list[str]:
    for foreign in {layout.shadow_owner, layout.positions_owner} - {None, layout.owner}:
        raise GrantRefused(
            f"schema {_SHADOW_SCHEMA} or its table {SHADOW_POSITIONS_TABLE[1]} belongs to role {foreign}, not to"
            f" {layout.owner}; while no rebuild runs, nothing in it is needed: DROP SCHEMA {_SHADOW_SCHEMA} CASCADE"
        )
    statements = []
    if layout.shadow_owner is None:
        name = sql.Identifier(_SHADOW_SCHEMA)
        authorization = sql.SQL("CREATE SCHEMA {} AUTHORIZATION {}").format(name, sql.Identifier(layout.owner))
        statements.append(authorization.as_string())
    if not layout.has(*SHADOW_POSITIONS_TABLE):
        statements.append(SHADOW_POSITIONS_DDL)
        if layout.user != layout.owner:
            table = sql.Identifier(*SHADOW_POSITIONS_TABLE)
            owner = sql.SQL("ALTER TABLE {} OWNER TO {}").format(table, sql.Identifier(layout.owner))
            statements.append(owner.as_string())
    return statements


def _belongs_to(held: Privilege, kind: RoleKind, layout: Layout, projections: Sequence[Projection]) -> bool:
    if held in kind_privileges(layout, kind, projections):
        return True
    is_in_public = held.target is Target.TABLE and held.name[0] == READ_MODEL_SCHEMA
    return is_in_public and (
        (kind is RoleKind.WORKER and held.action in ("SELECT", "INSERT", "UPDATE", "DELETE"))
        or (kind is RoleKind.READER and held.action == "SELECT")
    )


def _by_target(one: Privilege) -> tuple[int, Privilege]:
    return list(Target).index(one.target), one
