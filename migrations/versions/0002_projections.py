"""Checkpoints, skips, and the first three read models with their views."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
ULID = sa.Text(collation="C")

BY_DELIVERY = (
    "delivery_event_id IS NOT NULL AND (consent_event_id IS NULL"
    " OR (consent_status <> 'granted' AND delivery_event_id > consent_event_id))"
)

CONSENT_HISTORY = """
CREATE VIEW public.consent_history AS
SELECT app, ppnum,
       CASE
           WHEN event_type = 1 THEN 'granted'
           WHEN event_type = 3 THEN 'pending'
           WHEN event_type = 4 THEN 'granted'
           WHEN event_type = 5 THEN 'denied'
           WHEN error_code = 'consent_denied' THEN 'denied'
           ELSE 'expired'
       END AS status,
       CASE WHEN event_type = 1 THEN 'delivery' ELSE 'consent' END AS basis,
       occurred_at AS at, event_id, coalesce(send_request_id, '') AS send_request_id
FROM eventstore.events
WHERE ppnum <> ''
  AND (event_type IN (1, 3, 4, 5) OR (event_type = 2 AND error_code IN ('consent_denied', 'consent_expired')))
ORDER BY app, ppnum, event_id
"""

POLL_RESULTS = """
CREATE VIEW public.poll_results AS
SELECT tally.app, tally.send_request_id, tally.poll_id, tally.option, tally.responses, poll.total,
       tally.responses::double precision / poll.total AS share
FROM public.poll_tallies AS tally
JOIN (
    SELECT app, send_request_id, poll_id, count(*)::integer AS total
    FROM public.poll_responses
    GROUP BY app, send_request_id, poll_id
) AS poll USING (app, send_request_id, poll_id)
"""

FRESHNESS = """
CREATE VIEW public.read_model_freshness AS
SELECT checkpoint.name AS read_model, checkpoint.position,
       greatest(head.position - checkpoint.position, 0) AS events_behind,
       CASE WHEN head.position <= checkpoint.position THEN 0
            ELSE coalesce(greatest(extract(epoch FROM clock_timestamp() - (
                SELECT received_at FROM eventstore.events WHERE position > checkpoint.position
                ORDER BY position LIMIT 1
            )), 0), 0)
       END::double precision AS seconds_behind,
       checkpoint.state
FROM projections.checkpoints AS checkpoint,
     (SELECT coalesce(max(position), 0) AS position FROM eventstore.events) AS head
"""

VIEW_COMMENTS = {
    "consent_history": "Each consent fact and each delivery, in order, from the log.",
    "poll_results": "The tallies with each poll's respondents and shares (which may sum to more than 1).",
    "read_model_freshness": "How far each read model is behind the log.",
}
COLUMN_COMMENTS = {
    "consent_history": {
        "app": "Who would write.",
        "ppnum": "To whom: the phone number.",
        "status": "What the event says: pending, granted, denied or expired.",
        "basis": "consent, or delivery: the platform delivers only with consent.",
        "at": "When it happened.",
        "event_id": "The event.",
        "send_request_id": "The request that it names; '' when none.",
    },
    "poll_results": {
        "app": "Whose poll it is.",
        "send_request_id": "The request that carried the poll.",
        "poll_id": "The poll; '' when not stated.",
        "option": "The option; '' when not stated.",
        "responses": "Respondents whose latest answer names it.",
        "total": "Respondents of the poll.",
        "share": "responses / total.",
    },
    "read_model_freshness": {
        "read_model": "The projection.",
        "position": "Every event up to here is folded.",
        "events_behind": "Events that lie behind that position.",
        "seconds_behind": "Seconds since the first of these was received; 0 when there is none.",
        "state": "running, paused, waiting (for a rebuild) or failed.",
    },
}


ODD_EVENTS = {
    "events_without_request_idx": "send_request_id IS NULL",
    "events_poll_responses_idx": "event_type = 7",
    "events_of_unknown_type_idx": "event_type < 1 OR event_type > 8",
}


def upgrade() -> None:
    for name, condition in ODD_EVENTS.items():
        op.create_index(name, "events", ["position"], schema="eventstore", postgresql_where=sa.text(condition))
    _engine()
    _request_status()
    _consent_registry()
    _poll_tallies()
    for view in (CONSENT_HISTORY, POLL_RESULTS, FRESHNESS):
        op.execute(view)
    for view_name, comment in VIEW_COMMENTS.items():
        _comment(f"VIEW public.{view_name}", comment)
        for column, said in COLUMN_COMMENTS[view_name].items():
            _comment(f"COLUMN public.{view_name}.{column}", said)


def downgrade() -> None:
    for view in VIEW_COMMENTS:
        op.execute(f"DROP VIEW public.{view}")
    for table in ("poll_tallies", "poll_responses", "consent_registry", "request_status", "request_recipients"):
        op.drop_table(table, schema="public")
    op.drop_table("skips", schema="projections")
    op.drop_table("checkpoints", schema="projections")
    for name in ODD_EVENTS:
        op.drop_index(name, "events", schema="eventstore")


def _engine() -> None:
    zero = sa.text("0")
    op.create_table(
        "checkpoints",
        _key("name", "The projection."),
        _column("version", sa.Integer(), "The version whose rows the read model holds."),
        _column("position", sa.BigInteger(), "Every event up to here is folded."),
        _column("state", sa.Text(), "running, paused, waiting (for a rebuild) or failed."),
        _optional("last_error", sa.Text(), "What last went wrong; NULL while it is well."),
        _optional("last_error_at", TIME, "When it went wrong."),
        _column("failures", sa.Integer(), "Failures in a row.", zero),
        _optional("retry_at", TIME, "When a failed projection is tried again; NULL for at once."),
        _column("windows", sa.BigInteger(), "Windows folded so far.", zero),
        _column("events", sa.BigInteger(), "Events passed so far.", zero),
        _optional("folded_at", TIME, "When the last window was folded."),
        _optional("fold_seconds", sa.Double(), "How long the last window took."),
        schema="projections",
        comment="How far each projection is. The row is also the lock: who holds it folds.",
    )
    op.create_table(
        "skips",
        _key("name", "The projection that passes over the event."),
        sa.Column("event_id", ULID, primary_key=True, comment="The event passed over."),
        sa.Column(
            "version",
            sa.Integer(),
            primary_key=True,
            autoincrement=False,
            comment="The version of the projection that this holds for.",
        ),
        _column("why", sa.Text(), "Why, in the words of who decided it."),
        _column("skipped_at", TIME, "When it was decided."),
        schema="projections",
        comment="Events that a projection passes over, by somebody's decision.",
    )


def _request_status() -> None:
    op.create_table(
        "request_recipients",
        _key("app", "Whose request it is."),
        _key("send_request_id", "The request."),
        _key("ppnum", "The recipient's phone number."),
        _column("status", sa.Text(), "delivered, failed or pending_consent: of the greatest event_id that tells."),
        _optional(
            "error_code", sa.Text(), "The error code of the deciding event: why it failed, in the platform's words."
        ),
        _optional("message_id", sa.Text(), "The platform's id of the message to this recipient."),
        _column("last_event_id", ULID, "The event that decides the row."),
        _column("last_event_at", TIME, "When that happened."),
        schema="public",
        comment="What became of each recipient of each request.",
    )
    _index("request_recipients", "ppnum")
    op.create_table(
        "request_status",
        _key("app", "Whose request it is."),
        _key("send_request_id", "The request."),
        _column("state", sa.Text(), "in_progress, completed or failed."),
        _column("recipients", sa.Integer(), "Recipients of whom an event told something."),
        _column("delivered", sa.Integer(), "Of these, delivered."),
        _column("failed", sa.Integer(), "Of these, failed."),
        _column("pending_consent", sa.Integer(), "Of these, waiting for consent."),
        _optional("reported_total", sa.Integer(), "Recipients, as the deciding event's summary has it."),
        _optional("reported_delivered", sa.Integer(), "Delivered, as the summary has it."),
        _optional("reported_failed", sa.Integer(), "Failed, as the summary has it."),
        _optional("reported_pending_consent", sa.Integer(), "Waiting for consent, as the summary has it."),
        _column("first_event_at", TIME, "When the first thing happened."),
        _column("last_event_at", TIME, "When the last thing happened."),
        _optional("completed_at", TIME, "When the deciding event happened; NULL while in progress."),
        _column("last_event_id", ULID, "The greatest event_id of the request."),
        _optional("decided_event_id", ULID, "The event that decides the state; NULL while in progress."),
        schema="public",
        comment="What became of each send request.",
    )
    _index("request_status", "state")
    op.create_index(
        "request_status_day_idx",
        "request_status",
        [sa.text("((first_event_at AT TIME ZONE 'UTC')::date)")],
        schema="public",
    )


def _consent_registry() -> None:
    op.create_table(
        "consent_registry",
        _key("app", "Who would write."),
        _key("ppnum", "To whom: the phone number."),
        _decided("status", sa.Text(), "pending, granted, denied or expired.", "'granted'", "consent_status"),
        _decided("basis", sa.Text(), "consent or delivery: the kind of event that decides.", "'delivery'", "'consent'"),
        _decided("decided_at", TIME, "When the deciding event happened.", "delivery_at", "consent_at"),
        _decided("event_id", ULID, "The deciding event.", "delivery_event_id", "consent_event_id"),
        _decided(
            "send_request_id",
            sa.Text(),
            "The request that the deciding event names; '' when none.",
            "delivery_request_id",
            "consent_request_id",
        ),
        _optional("first_asked_at", TIME, "When the person was first asked; NULL when never, as far as is known."),
        _optional("consent_status", sa.Text(), "What the last consent fact says; NULL without one."),
        _optional("consent_event_id", ULID, "The last consent fact."),
        _optional("consent_at", TIME, "When it happened."),
        _optional("consent_request_id", sa.Text(), "The request that it names; '' when none."),
        _optional("delivery_event_id", ULID, "The last delivery; NULL without one."),
        _optional("delivery_at", TIME, "When it happened."),
        _optional("delivery_request_id", sa.Text(), "The request that it names; '' when none."),
        schema="public",
        comment="May I write to this person, and by which event do I know?",
    )
    _index("consent_registry", "ppnum")
    _index("consent_registry", "status")


def _poll_tallies() -> None:
    op.create_table(
        "poll_responses",
        _key("app", "Whose poll it is."),
        _key("send_request_id", "The request that carried the poll."),
        _key("poll_id", "The poll; '' when not stated."),
        _key("ppnum", "The respondent's phone number."),
        _column("options", postgresql.ARRAY(sa.Text()), "The options chosen, as answered; empty when not stated."),
        _column("event_id", ULID, "The respondent's latest answer."),
        _column("responded_at", TIME, "When that was."),
        schema="public",
        comment="The latest answer of each respondent to each poll.",
    )
    _index("poll_responses", "ppnum")
    op.create_table(
        "poll_tallies",
        _key("app", "Whose poll it is."),
        _key("send_request_id", "The request that carried the poll."),
        _key("poll_id", "The poll; '' when not stated."),
        _key("option", "The option; '' when not stated."),
        _column("responses", sa.Integer(), "Respondents whose latest answer names it."),
        _column("last_response_at", TIME, "When the last of these answered."),
        schema="public",
        comment="How many respondents chose each option of each poll; options that nobody chooses now have no row.",
    )


def _key(name: str, comment: str) -> sa.Column[Any]:
    return sa.Column(name, sa.Text(), primary_key=True, comment=comment)


def _column(
    name: str, type_: sa.types.TypeEngine[Any], comment: str, server_default: sa.TextClause | None = None
) -> sa.Column[Any]:
    return sa.Column(name, type_, nullable=False, comment=comment, server_default=server_default)


def _optional(name: str, type_: sa.types.TypeEngine[Any], comment: str) -> sa.Column[Any]:
    return sa.Column(name, type_, nullable=True, comment=comment)


def _decided(
    name: str, type_: sa.types.TypeEngine[Any], comment: str, by_delivery: str, by_consent: str
) -> sa.Column[Any]:
    rule = f"CASE WHEN {BY_DELIVERY} THEN {by_delivery} ELSE {by_consent} END"
    return sa.Column(name, type_, sa.Computed(rule, persisted=True), nullable=False, comment=comment)


def _index(table: str, column: str) -> None:
    op.create_index(f"{table}_{column}_idx", table, [column], schema="public")


def _comment(what: str, comment: str) -> None:
    quoted = comment.replace("'", "''")
    op.execute(f"COMMENT ON {what} IS '{quoted}'")
