"""The read model ``people``: its two tables."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
ULID = sa.Text(collation="C")


def upgrade() -> None:
    op.create_table(
        "person_requests",
        _key("app", "The app whose request it is."),
        _key("ppnum", "The person's phone number."),
        _key("send_request_id", "The request."),
        _column(
            "status",
            sa.Text(),
            "delivered, failed or pending_consent: from the event with the greatest event_id that reports one.",
        ),
        _optional(
            "error_code", sa.Text(), "The error code of the deciding event: why it failed, in the platform's words."
        ),
        _column("last_event_id", ULID, "The event that decides the row."),
        _column("last_event_at", TIME, "When that event happened."),
        schema="public",
        comment="What happened to each person in each request; the rows that the table people counts.",
    )
    op.create_table(
        "people",
        _key("app", "The app."),
        _key("ppnum", "The person's phone number."),
        _column("requests", sa.Integer(), "Requests that report a status of the person as a recipient."),
        _column("delivered", sa.Integer(), "Of these, delivered."),
        _column("failed", sa.Integer(), "Of these, failed."),
        _column("pending_consent", sa.Integer(), "Of these, waiting for consent."),
        _optional(
            "last_outcome",
            sa.Text(),
            "delivered, failed or pending_consent: what the last event about any of these requests reports; NULL"
            " without a request.",
        ),
        _optional(
            "last_error_code", sa.Text(), "The error code of that event: why it failed, in the platform's words."
        ),
        _optional("last_outcome_at", TIME, "When that event happened."),
        _optional(
            "last_event_id",
            ULID,
            "That event: the greatest event_id that reports an outcome; NULL without a request.",
        ),
        _optional(
            "consent_status",
            sa.Text(),
            "pending, granted, denied or expired, as in consent_registry; NULL when no event says so.",
        ),
        _optional("consent_event_id", ULID, "The last event about consent or the last delivery, whichever is newer."),
        schema="public",
        comment="What became of all messages to each person, and the person's consent.",
    )
    op.create_index("people_ppnum_idx", "people", ["ppnum"], schema="public")


def downgrade() -> None:
    op.drop_table("people", schema="public")
    op.drop_table("person_requests", schema="public")


def _key(name: str, comment: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), primary_key=True, comment=comment)


def _column(name: str, type_: sa.types.TypeEngine[Any], comment: str) -> sa.Column[Any]:
    return sa.Column(name, type_, nullable=False, comment=comment)


def _optional(name: str, type_: sa.types.TypeEngine[Any], comment: str) -> sa.Column[Any]:
    return sa.Column(name, type_, nullable=True, comment=comment)
