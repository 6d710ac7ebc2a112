"""``projections revoke``: takes away what ``projections grant`` gave to roles."""

from __future__ import annotations

from typing import TypedDict

from projections.cli.shared.common_options import JsonOption
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.output import print_json, print_message
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
    run_or_print,
)
from projections.cli.shared.typer_app import new_app
from projections.granting.grant_roles import plan_revokes

app = new_app()


class RevokedRoles(TypedDict):
    """What ``revoke`` revoked, or would revoke.

    Attributes:
        dry_run: whether nothing was run.
        revokes: each role and kind that was named, with the statements; none if there was nothing to revoke.

    """

    dry_run: bool
    revokes: list[PlannedStatements]


@app.command()
@handles_errors
@writes_json(RevokedRoles)
def revoke(
    *,
    reader: ReaderOption = [],  # noqa: B006 - Typer's way to say that an option may be repeated; nobody changes it
    worker: WorkerOption = [],  # noqa: B006
    ingest: IngestOption = [],  # noqa: B006
    serve: ServeOption = [],  # noqa: B006
    consumer: ConsumerOption = [],  # noqa: B006
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take away what grant gave to roles.

    Privileges stay that another kind of the role needs, and those that others granted. The role itself stays too, and
    so do its sessions: they notice at their next statement. A revoked worker's unfinished shadows are dropped.

    Exit code 2 when a role doesn't exist and nothing was granted to it, or when this role may not revoke.
    """
    requests = collect_requests(readers=reader, workers=worker, ingests=ingest, serves=serve, consumers=consumer)
    plans = run_or_print(plan_revokes, requests, dry_run=dry_run)
    if as_json:
        revoked: RevokedRoles = {"dry_run": dry_run, "revokes": plans_as_json(plans)}
        print_json(revoked)
    elif dry_run:
        print_statements(plans)
    else:
        for plan in plans:
            role, kind = plan.request
            what = f"is no longer {kind.noun}" if plan.statements else f"was not {kind.noun}; nothing was revoked"
            print_message(f"role {role} {what}")
