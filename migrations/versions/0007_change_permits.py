"""What lets ``redecode`` change events is a row that only the owner's functions write, not the text of a call stack.

Postgres translates that text, so where its messages were Japanese, Chinese or Korean, redecoding was refused.

Views that no revision has made since are made again: the search path of older migrations had ``public`` in it, so
that whoever could create an operator there could have had it used in them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

REFUSE_ALL_BUT_PERMITTED = """
CREATE OR REPLACE FUNCTION eventstore.refuse_change() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    permitted text;
BEGIN
    -- Only as the owner: the permit of a role that was merely granted INSERT on the table means nothing.
    IF TG_OP = 'UPDATE' AND current_user = (
        SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'eventstore.change_permits'::regclass
    ) THEN
        SELECT purpose INTO permitted FROM eventstore.change_permits
        WHERE transaction = pg_current_xact_id()::text::bigint;
    END IF;
    IF permitted = 'redecode' THEN
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

# With its owner's rights: whoever may execute it may redecode, and needs no right on the tables.
REDECODE = """
CREATE OR REPLACE FUNCTION eventstore.redecode(decoded jsonb) RETURNS bigint LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this_transaction constant bigint := pg_current_xact_id()::text::bigint;
    changed bigint;
BEGIN
    INSERT INTO eventstore.change_permits (transaction, purpose) VALUES (this_transaction, 'redecode');
    UPDATE eventstore.events AS e
    SET event_type = d.event_type, send_request_id = d.send_request_id, ppnum = d.ppnum, error_code = d.error_code,
        message_id = d.message_id, poll_id = d.poll_id, poll_options = d.poll_options,
        poll_options_dropped = d.poll_options_dropped,
        summary_status = d.summary_status, total_recipients = d.total_recipients, delivered = d.delivered,
        failed = d.failed, pending_consent = d.pending_consent, occurred_at = d.occurred_at
    FROM jsonb_to_recordset(decoded) AS d (
        position bigint, event_type integer, send_request_id text, ppnum text, error_code text, message_id text,
        poll_id text, poll_options text[], poll_options_dropped integer, summary_status integer,
        total_recipients integer,
        delivered integer, failed integer, pending_consent integer, occurred_at timestamptz
    )
    WHERE e.position = d.position;
    GET DIAGNOSTICS changed = ROW_COUNT;
    DELETE FROM eventstore.change_permits WHERE transaction = this_transaction;
    RETURN changed;
END
$$
"""

REFUSE_ALL_BUT_CALLED_BY_REDECODE = r"""
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

REDECODE_WITHOUT_PERMIT = """
CREATE OR REPLACE FUNCTION eventstore.redecode(decoded jsonb) RETURNS bigint LANGUAGE plpgsql
SET search_path = pg_catalog AS $$
DECLARE
    changed bigint;
BEGIN
    UPDATE eventstore.events AS e
    SET event_type = d.event_type, send_request_id = d.send_request_id, ppnum = d.ppnum, error_code = d.error_code,
        message_id = d.message_id, poll_id = d.poll_id, poll_options = d.poll_options,
        poll_options_dropped = d.poll_options_dropped,
        summary_status = d.summary_status, total_recipients = d.total_recipients, delivered = d.delivered,
        failed = d.failed, pending_consent = d.pending_consent, occurred_at = d.occurred_at
    FROM jsonb_to_recordset(decoded) AS d (
        position bigint, event_type integer, send_request_id text, ppnum text, error_code text, message_id text,
        poll_id text, poll_options text[], poll_options_dropped integer, summary_status integer,
        total_recipients integer,
        delivered integer, failed integer, pending_consent integer, occurred_at timestamptz
    )
    WHERE e.position = d.position;
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN changed;
END
$$
"""

CONSENT_HISTORY = """
CREATE OR REPLACE VIEW public.consent_history AS
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
CREATE OR REPLACE VIEW public.poll_results AS
SELECT tally.app, tally.send_request_id, tally.poll_id, tally.option, tally.responses, poll.total,
       tally.responses::double precision / poll.total AS share
FROM public.poll_tallies AS tally
JOIN (
    SELECT app, send_request_id, poll_id, count(*)::integer AS total
    FROM public.poll_responses
    GROUP BY app, send_request_id, poll_id
) AS poll USING (app, send_request_id, poll_id)
"""


def upgrade() -> None:
    op.create_table(
        "change_permits",
        sa.Column(
            "transaction",
            sa.BigInteger(),
            primary_key=True,
            autoincrement=False,
            comment="The number of the transaction that may change events.",
        ),
        sa.Column("purpose", sa.Text(), nullable=False, comment="The function that wrote the permit: redecode."),
        schema="eventstore",
        comment="Who may change events: written and deleted by the functions that do it, empty between transactions.",
    )
    op.execute(REFUSE_ALL_BUT_PERMITTED)
    op.execute(REDECODE)
    for view in (CONSENT_HISTORY, POLL_RESULTS):
        op.execute(view)


def downgrade() -> None:
    op.execute(REDECODE_WITHOUT_PERMIT)
    op.execute(REFUSE_ALL_BUT_CALLED_BY_REDECODE)
    op.drop_table("change_permits", schema="eventstore")
