"""``projections grant``: gives roles of the database the few privileges that they need, or shows who has what."""

from __future__ import annotations

from typing import Annotated, TypedDict

import typer
from rich.table import Table

from eventstore.errors import UsageError
from projections.cli.shared.common_options import JsonOption
from projections.cli.shared.console import new_console
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.output import LogLevel, print_json, print_message
from projections.cli.shared.role_options import (
    ConsumerOption,
    DryRunOption,
    IngestOption,
    PlannedStatements,
    ReaderOption,
    ServeOption,
    WorkerOption,
    collect_requests,
    plans_as_json,
    print_statements,
    read_reviews,
    run_or_print,
)
from projections.cli.shared.typer_app import new_app
from projections.granting.grant_roles import plan_grants
from projections.granting.role_review import RoleReview, describe_privileges
from projections.terminal_text import visible

app = new_app()


class ReviewedRole(TypedDict):
    """A role, and what it may do.

    Attributes:
        role: the role; ``public`` is everybody.
        kinds: ``reader``, ``worker``, ``ingest``, ``serve`` or ``consumer``; empty if it was granted something by hand
            only.
        exists: whether there is such a role.
        can_login: whether it may log in.
        missing: privileges of its kinds that it lacks, each as a text.
        beyond: privileges on our schemas that none of its kinds includes.

    """

    role: str
    kinds: list[str]
    exists: bool
    can_login: bool
    missing: list[str]
    beyond: list[str]


class GrantedRoles(TypedDict):
    """What ``grant`` granted, or would grant.

    Attributes:
        dry_run: whether nothing was run.
        grants: each role and kind that was named, with the statements.
        roles: the roles after the grant; empty after a dry run.

    """

    dry_run: bool
    grants: list[PlannedStatements]
    roles: list[ReviewedRole]


class ShownRoles(TypedDict):
    """What ``grant --show`` prints.

    Attributes:
        roles: every role that was granted anything.

    """

    roles: list[ReviewedRole]


@app.command()
@handles_errors
@writes_json(GrantedRoles, ShownRoles)
def grant(
    *,
    reader: ReaderOption = [],  # noqa: B006 - Typer's way to say that an option may be repeated; nobody changes it
    worker: WorkerOption = [],  # noqa: B006
    ingest: IngestOption = [],  # noqa: B006
    serve: ServeOption = [],  # noqa: B006
    consumer: ConsumerOption = [],  # noqa: B006
    dry_run: DryRunOption = False,
    show: Annotated[bool, typer.Option("--show", help="Show which role may do what, and change nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Give roles of the database the few privileges that they need.

    The roles must exist. A role may have several kinds: `run` needs --ingest and --worker. Run it as the owner of the
    schema; no superuser is needed. What was granted before stays, so it can be run again, as after an update of this
    program. Tables that `migrate` creates later are granted too.

    Exit code 2 when a role doesn't exist, or this role may not grant.
    """
    if show:
        if reader or worker or ingest or serve or consumer or dry_run:
            raise UsageError("give --show alone, or with --json")
        _show(as_json=as_json)
        return
    requests = collect_requests(readers=reader, workers=worker, ingests=ingest, serves=serve, consumers=consumer)
    plans = run_or_print(plan_grants, requests, dry_run=dry_run)
    reviews = [] if dry_run else read_reviews(dict.fromkeys(one.role for one in requests))
    if as_json:
        granted: GrantedRoles = {
            "dry_run": dry_run,
            "grants": plans_as_json(plans),
            "roles": [_as_dict(one) for one in reviews],
        }
        print_json(granted)
    elif dry_run:
        print_statements(plans)
    else:
        for one in reviews:
            print_message(f"role {one.role} is now {' and '.join(kind.noun for kind in one.kinds)}")
    for one in reviews:
        _print_remarks(one)


def _show(*, as_json: bool) -> None:
    reviews = read_reviews()
    if as_json:
        shown: ShownRoles = {"roles": [_as_dict(one) for one in reviews]}
        print_json(shown)
        return
    if not reviews:
        print_message("nothing was granted to any role yet")
        return
    table = Table()
    table.add_column("role", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    for heading in ("log in", "lacks", "may do besides"):
        table.add_column(heading, overflow="fold")
    for one in reviews:
        login = "yes" if one.can_login else "no"
        cells = (one.role, _kinds(one), login if one.exists else "no such role", *_lacks_and_besides(one))
        table.add_row(*map(visible, cells))
    new_console().print(table)


def _kinds(one: RoleReview) -> str:
    return " and ".join(kind.value for kind in one.kinds) or "granted by hand"


def _lacks_and_besides(one: RoleReview) -> tuple[str, str]:
    return describe_privileges(one.missing) or "nothing", describe_privileges(one.beyond) or "nothing"


def _print_remarks(one: RoleReview) -> None:
    if one.beyond:
        print_message(
            f"projections: role {one.role} may do more: {describe_privileges(one.beyond)}; this was granted by"
            " hand, to everybody, or to a role of which it is a member",
            level=LogLevel.WARNING,
        )
    if not one.can_login:
        print_message(f"projections: role {one.role} may not log in; it can only be granted to other roles")


def _as_dict(one: RoleReview) -> ReviewedRole:
    return {
        "role": one.role,
        "kinds": [kind.value for kind in one.kinds],
        "exists": one.exists,
        "can_login": one.can_login,
        "missing": [str(privilege) for privilege in one.missing],
        "beyond": [str(privilege) for privilege in one.beyond],
    }
