"""Rebuilds, and the one function through which decoded columns of events are read off the payloads again."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)

REFUSE_ALL = """
CREATE OR REPLACE FUNCTION eventstore.refuse_change() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog AS $$
BEGIN
    RAISE EXCEPTION '% on eventstore.events is refused: events stay as they came', TG_OP
        USING ERRCODE = 'modifying_sql_data_not_permitted';
END
$$
"""

# Who calls is read off the stack, where every function stands under its schema, for none is on the search path. The
# stack also has the text of statements, which may say anything: that gains nobody more than the function gives who may
# run it. Even then nothing but decoded columns may change.
REFUSE_ALL_BUT_REDECODE = r"""
CREATE OR REPLACE FUNCTION eventstore.refuse_change() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog AS $$
DECLARE
    stack text;
BEGIN
    GET DIAGNOSTICS stack = PG_CONTEXT;
    IF TG_OP = 'UPDATE' AND stack ~ '(^|\n)[^"\n]*\meventstore\.redecode\(jsonb\)'
       AND has_function_privilege('eventstore.redecode(jsonb)', 'EXECUTE') THEN
        IF TG_LEVEL = 'STATEMENT' THEN
            RETURN NULL;
        END IF;
        IF ROW(NEW.event_id, NEW.position, NEW.app, NEW.contract, NEW.received_at, NEW.payload)
           IS NOT DISTINCT FROM ROW(OLD.event_id, OLD.position, OLD.app, OLD.contract, OLD.received_at, OLD.payload)
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION '% on eventstore.events is refused: events stay as they came', TG_OP
        USING ERRCODE = 'modifying_sql_data_not_permitted';
END
$$
"""

REDECODE = """
CREATE FUNCTION eventstore.redecode(decoded jsonb) RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    changed bigint;
BEGIN
    UPDATE eventstore.events AS e
    SET event_type = d.event_type, send_request_id = d.send_request_id, ppnum = d.ppnum, error_code = d.error_code,
        message_id = d.message_id, poll_id = d.poll_id, poll_options = d.poll_options,
        summary_status = d.summary_status, total_recipients = d.total_recipients, delivered = d.delivered,
        failed = d.failed, pending_consent = d.pending_consent, occurred_at = d.occurred_at
    FROM jsonb_to_recordset(decoded) AS d (
        position bigint, event_type integer, send_request_id text, ppnum text, error_code text, message_id text,
        poll_id text, poll_options text[], summary_status integer, total_recipients integer, delivered integer,
        failed integer, pending_consent integer, occurred_at timestamptz
    )
    WHERE e.position = d.position;
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "rebuilds",
        sa.Column(
            "id",
            sa.BigInteger(),
            sa.Identity(always=True),
            primary_key=True,
            comment="A number to name the rebuild by.",
        ),
        _column("name", sa.Text(), "The projection."),
        _column("version", sa.Integer(), "The version of the code that rebuilt."),
        _column("fingerprint", sa.Text(), "Of the code, its tables and the events passed over."),
        _column("holder", sa.Text(), "The session at work; it is gone when the rebuild is over."),
        _column("state", sa.Text(), "running, done, refused, failed, or abandoned by a killed process."),
        _column("dry_run", sa.Boolean(), "Whether the difference was only shown."),
        _column("position", sa.BigInteger(), "Every event up to here is in the rebuilt tables."),
        _column("started_at", TIME, "When it began."),
        _optional("finished_at", TIME, "When it was over."),
        _optional("rows_before", sa.BigInteger(), "Rows of the read model when it was compared."),
        _optional("rows_added", sa.BigInteger(), "Rows that it lacked."),
        _optional("rows_removed", sa.BigInteger(), "Rows that it had too many."),
        _optional("rows_changed", sa.BigInteger(), "Rows that were otherwise."),
        _optional("fold_seconds", sa.Double(), "How long the events were folded."),
        _optional("compare_seconds", sa.Double(), "How long the tables were compared."),
        _optional("apply_seconds", sa.Double(), "How long the checkpoint was held to apply the difference."),
        _optional("error", sa.Text(), "Why it came to nothing; NULL when it didn't."),
        _optional(
            "into_schema", sa.Text(), "The schema that it made, of an as-of rebuild; NULL for the read model itself."
        ),
        _optional(
            "into_schema_oid",
            postgresql.OID(),
            "That schema's oid: one of the same name that others make is not ours.",
        ),
        schema="projections",
        comment="What each rebuild did, or is doing.",
    )
    op.create_index("rebuilds_name_idx", "rebuilds", ["name"], schema="projections")
    op.execute(REFUSE_ALL_BUT_REDECODE)
    op.execute(REDECODE)
    op.execute("REVOKE ALL ON FUNCTION eventstore.redecode(jsonb) FROM PUBLIC")


def downgrade() -> None:
    op.execute("DROP FUNCTION eventstore.redecode(jsonb)")
    op.execute(REFUSE_ALL)
    op.drop_table("rebuilds", schema="projections")


def _column(name: str, type_: sa.types.TypeEngine[Any], comment: str) -> sa.Column[Any]:
    return sa.Column(name, type_, nullable=False, comment=comment)


def _optional(name: str, type_: sa.types.TypeEngine[Any], comment: str) -> sa.Column[Any]:
    return sa.Column(name, type_, nullable=True, comment=comment)
