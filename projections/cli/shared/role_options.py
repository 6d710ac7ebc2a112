"""The options of ``grant`` and ``revoke`` that name roles, and how both commands run and print their plans."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, TypedDict

import typer
from sqlalchemy import Connection

from eventstore.errors import UsageError
from eventstore.waits import load_waits
from projections.cli.shared.argument_checks import storable_texts
from projections.cli.shared.open_database import migrated_database
from projections.cli.shared.output import print_data, print_left_out
from projections.granting.grant_roles import GrantPlan, RoleRequest, run_plans
from projections.granting.role_kinds import RoleKind
from projections.granting.role_review import RoleReview, review_roles
from projections.migrating.migration_transaction import run_in_transaction
from projections.migrating.sqlalchemy_connection import sqlalchemy_connection
from projections.projection import Projection
from projections.registry import find_projections

Planner = Callable[[Connection, Sequence[RoleRequest], Iterable[Projection]], list[GrantPlan]]


def _role_option(flag: str, help_text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        flag, metavar="ROLE", callback=storable_texts, help=f"{help_text} May be repeated."
    )
    return option


ReaderOption = Annotated[
    list[str],
    _role_option(
        "--reader",
        "For BI: reads the tables and views of the schema's owner in public, those of other programs too; elsewhere it"
        " reads no row, but sees the names of schemas.",
    ),
]
WorkerOption = Annotated[list[str], _role_option("--worker", "Folds, rebuilds and verifies read models.")]
IngestOption = Annotated[list[str], _role_option("--ingest", "Follows upstreams and stores their events.")]
ServeOption = Annotated[list[str], _role_option("--serve", "Reads stored events, to serve them.")]
ConsumerOption = Annotated[
    list[str], _role_option("--consumer", "Consumes stored events from programs, and sees their payloads.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the SQL statements instead of running them.")]


class PlannedStatements(TypedDict):
    """The statements for one role and kind.

    Attributes:
        role: the role.
        kind: ``reader``, ``worker``, ``ingest``, ``serve`` or ``consumer``.
        statements: the SQL statements, in their order.

    """

    role: str
    kind: str
    statements: list[str]


def plans_as_json(plans: Iterable[GrantPlan]) -> list[PlannedStatements]:
    """Return plans as JSON objects."""
    return [
        {
            "role": plan.request.role,
            "kind": plan.request.kind.value,
            "statements": [*plan.preparation, *plan.statements],
        }
        for plan in plans
    ]


def collect_requests(
    *,
    readers: Iterable[str],
    workers: Iterable[str],
    ingests: Iterable[str],
    serves: Iterable[str],
    consumers: Iterable[str],
) -> list[RoleRequest]:
    """Return the roles and the kinds that a command names, each once.

    Raises:
        UsageError: none is named.

    """
    named = (
        (RoleKind.READER, readers),
        (RoleKind.WORKER, workers),
        (RoleKind.INGEST, ingests),
        (RoleKind.SERVE, serves),
        (RoleKind.CONSUMER, consumers),
    )
    found = [RoleRequest(role, kind) for kind, roles in named for role in dict.fromkeys(roles)]
    if not found:
        raise UsageError(
            "name at least one role: --reader ROLE, --worker ROLE, --ingest ROLE, --serve ROLE or --consumer ROLE"
        )
    return found


def run_or_print(planner: Planner, requests: Sequence[RoleRequest], *, dry_run: bool) -> list[GrantPlan]:
    """Make the plans and run them in one transaction; a dry run only makes them."""
    url, projections = _database_and_projections(writes=not dry_run)
    if dry_run:
        with sqlalchemy_connection(url) as connection:
            return planner(connection, requests, projections)
    return run_in_transaction(
        url, lambda connection: run_plans(connection, planner(connection, requests, projections)), None
    )


def read_reviews(roles: Iterable[str] | None = None) -> list[RoleReview]:
    """Return what these roles may do, or all that were granted anything."""
    url, projections = _database_and_projections(writes=False)
    with sqlalchemy_connection(url) as connection:
        return review_roles(connection, projections, roles)


def print_statements(plans: Iterable[GrantPlan]) -> None:
    """Print the statements of plans as a script that one transaction runs."""
    print_data("BEGIN;")
    for plan in plans:
        for statement in (*plan.preparation, *plan.statements):
            print_data(f"{statement};")
    print_data("COMMIT;")


def _database_and_projections(*, writes: bool) -> tuple[str, list[Projection]]:
    registry = find_projections()
    print_left_out(registry.broken)
    return migrated_database(load_waits(), writes=writes), list(registry.projections.values())
