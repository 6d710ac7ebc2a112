"""Roles with few privileges in a test's database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from projections.granting.database_layout import read_layout
from projections.granting.grant_roles import GrantPlan, RoleRequest, plan_grants, plan_revokes, run_plans
from projections.granting.role_kinds import RoleKind
from projections.granting.role_review import RoleReview, review_roles
from projections.migrating.metadata import READ_MODELS
from projections.migrating.migration_transaction import run_in_transaction
from projections.migrating.sqlalchemy_connection import sqlalchemy_connection
from projections.projection import Projection
from tests.databases import Server
from tests.rebuilding import Role, role

BUILT_IN: tuple[Projection, ...] = tuple(one() for one in READ_MODELS)


@asynccontextmanager
async def granted_roles(postgres: Server, url: str, *kinds: RoleKind) -> AsyncIterator[dict[RoleKind, Role]]:
    """Create a role of each kind; they are dropped afterwards."""
    async with AsyncExitStack() as stack:
        made = {kind: await stack.enter_async_context(role(postgres, url)) for kind in kinds}
        grant_to(url, *(RoleRequest(one.name, kind) for kind, one in made.items()))
        yield made


def grant_to(url: str, *requests: RoleRequest, projections: Iterable[Projection] = BUILT_IN) -> list[GrantPlan]:
    """Grant as ``projections grant`` does."""
    return run_in_transaction(
        url,
        lambda connection: run_plans(connection, plan_grants(connection, requests, projections)),
        None,
    )


def revoke_from(url: str, *requests: RoleRequest) -> list[GrantPlan]:
    """Revoke as ``projections revoke`` does."""
    return run_in_transaction(
        url, lambda connection: run_plans(connection, plan_revokes(connection, requests, BUILT_IN)), None
    )


def review(url: str, *roles: str, projections: Sequence[Projection] = BUILT_IN) -> list[RoleReview]:
    """Return what roles may do; of all that were granted anything, if none is named."""
    with sqlalchemy_connection(url) as connection:
        assert read_layout(connection).owner
        return review_roles(connection, projections, roles or None)
