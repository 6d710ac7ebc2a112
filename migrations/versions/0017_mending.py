"""Events that a retry stored from quarantine, and what the upstream answered when requests were reconciled."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _create_retried_events()
    _create_reconciliations()


def _create_retried_events() -> None:
    op.create_table(
        "retried_events",
        sa.Column("event_id", sa.Text(collation="C"), nullable=False, comment="The event that the message became."),
        sa.Column("app", sa.Text, nullable=False, comment="The app on whose stream it was received."),
        sa.Column("reason", sa.Text, nullable=False, comment="Why the message was quarantined."),
        sa.Column("first_seen", TIME, nullable=False, comment="When these bytes were first received."),
        sa.Column("last_seen", TIME, nullable=False, comment="When these bytes were last received."),
        sa.Column("retried_at", TIME, nullable=False, comment="When a retry stored the event."),
        sa.PrimaryKeyConstraint("event_id", name="retried_events_pkey"),
        sa.CheckConstraint("octet_length(event_id) = 26", name="retried_events_event_id_check"),
        schema="eventstore",
        comment="Events that were quarantined when they were received, and that a retry stored later. They don't decide"
        " where a stream resumes.",
    )


def _create_reconciliations() -> None:
    op.create_table(
        "reconciliations",
        sa.Column(
            "id",
            sa.BigInteger,
            sa.Identity(always=True),
            nullable=False,
            comment="The row's number.",
        ),
        sa.Column(
            "run",
            sa.BigInteger,
            nullable=False,
            comment="The run of projections reconcile; the rows of a run share it.",
        ),
        sa.Column("started_at", TIME, nullable=False, comment="When the run started."),
        sa.Column("app", sa.Text, nullable=False, comment="The app whose request it is."),
        sa.Column("send_request_id", sa.Text, nullable=False, comment="The request that the upstream was asked about."),
        sa.Column(
            "why",
            sa.Text,
            nullable=False,
            comment="gap (a recorded gap may hide events of it) or unfinished.",
        ),
        sa.Column("asked_at", TIME, nullable=False, comment="When the upstream answered, or could not be asked."),
        sa.Column(
            "verdict",
            sa.Text,
            nullable=False,
            comment="equal; behind (the upstream knows more); differs (both contradict each other); unknown_upstream"
            " (the upstream has no such request); or not_asked.",
        ),
        sa.Column("reason", sa.Text, comment="Why the upstream could not be asked; NULL otherwise."),
        *_counts(),
        sa.Column(
            "recipients_that_differ",
            sa.Integer,
            nullable=False,
            server_default=sa.text("0"),
            comment="How many recipients have another status upstream than in request_recipients.",
        ),
        sa.Column(
            "differing_recipients",
            postgresql.JSONB,
            nullable=False,
            server_default=sa.text("'[]'::jsonb"),
            comment="The first thousand of them: a list of {ppnum, upstream, ours}; null where one side has none.",
        ),
        sa.PrimaryKeyConstraint("id", name="reconciliations_pkey"),
        sa.UniqueConstraint("run", "app", "send_request_id", name="reconciliations_run_app_send_request_id_key"),
        sa.CheckConstraint("why IN ('gap', 'unfinished')", name="reconciliations_why_check"),
        sa.CheckConstraint(
            "verdict IN ('equal', 'behind', 'differs', 'unknown_upstream', 'not_asked')",
            name="reconciliations_verdict_check",
        ),
        sa.CheckConstraint("recipients_that_differ >= 0", name="reconciliations_recipients_that_differ_check"),
        sa.CheckConstraint(
            "jsonb_typeof(differing_recipients) = 'array'", name="reconciliations_differing_recipients_check"
        ),
        schema="projections",
        comment="What the upstream answered about requests whose events may be missing, compared with the read models."
        " The last 30 runs are kept.",
    )
    op.create_index("reconciliations_request_idx", "reconciliations", ["app", "send_request_id"], schema="projections")


def _counts() -> list[sa.Column[Any]]:
    numbers = {
        "upstream_total": "Recipients, as the upstream's summary counts them.",
        "upstream_delivered": "Of these, delivered.",
        "upstream_failed": "Of these, failed.",
        "upstream_pending_consent": "Of these, waiting for consent.",
        "our_recipients": "Recipients in request_status.",
        "our_delivered": "Of these, delivered.",
        "our_failed": "Of these, failed.",
        "our_pending_consent": "Of these, waiting for consent.",
    }
    columns: list[sa.Column[Any]] = [
        sa.Column(name, sa.BigInteger, comment=comment) for name, comment in numbers.items()
    ]
    states = {
        "upstream_state": "The upstream's state: queued, processing, completed, failed or unknown.",
        "our_state": "The state in request_status.",
    }
    upstream, ours = (sa.Column(name, sa.Text, comment=comment) for name, comment in states.items())
    return [upstream, *columns[:4], ours, *columns[4:]]


def downgrade() -> None:
    op.drop_table("reconciliations", schema="projections")
    op.drop_table("retried_events", schema="eventstore")
