"""Stored events of a distributed log can be changed where they can on one server: when redecoded, and with a person."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

REFUSE_ALL_BUT_PERMITTED = """
CREATE OR REPLACE FUNCTION eventstore.refuse_change() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    permitted text;
    kept eventstore.events;
BEGIN
    -- Only as the owner: the permit of a role that was merely granted INSERT on the table means nothing.
    IF TG_OP = 'UPDATE' AND current_user = (
        SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass('eventstore.change_permits')
    ) THEN
        SELECT purpose INTO permitted FROM eventstore.change_permits
        WHERE transaction = pg_current_xact_id()::text::bigint;
    END IF;
    -- Another server of a distributed log can't read the permit: the function sends it along.
    IF permitted IS NULL THEN
        IF TG_OP = 'UPDATE' AND current_setting('eventstore.change_permit', true) <> ''
           AND current_user = (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = TG_RELID)
           AND to_regclass('pg_catalog.pg_dist_shard') IS NOT NULL
        THEN
            SELECT current_setting('eventstore.change_permit') INTO permitted FROM pg_catalog.pg_dist_shard
            WHERE logicalrelid = 'eventstore.events'::regclass AND TG_TABLE_NAME = 'events_' || shardid;
        END IF;
    END IF;
    IF permitted IN ('redecode', 'erase') AND TG_LEVEL = 'STATEMENT' THEN
        RETURN NULL;
    END IF;
    IF permitted = 'redecode' THEN
        IF ROW(NEW.event_id, NEW.position, NEW.app, NEW.contract, NEW.received_at, NEW.payload)
           IS NOT DISTINCT FROM ROW(OLD.event_id, OLD.position, OLD.app, OLD.contract, OLD.received_at, OLD.payload)
        THEN
            RETURN NEW;
        END IF;
    ELSIF permitted = 'erase' THEN
        -- A token takes the place of a number, never of another token; whatever else the row has stays.
        kept := OLD;
        kept.ppnum := NEW.ppnum;
        kept.message_id := NULL;
        kept.payload := NEW.payload;
        IF NEW *= kept AND OLD.ppnum <> ''
           AND OLD.ppnum !~ '^erased:[0-7][0-9A-HJKMNP-TV-Z]{25}$'
           AND NEW.ppnum ~ '^erased:[0-7][0-9A-HJKMNP-TV-Z]{25}$'
           AND position(convert_to(NEW.ppnum, 'UTF8') IN NEW.payload) > 0
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION '% on eventstore.events is refused: events stay as they came', TG_OP
        USING ERRCODE = 'modifying_sql_data_not_permitted';
END
$$
"""
# What it has more than that of revision 0027.
_SENT_PERMIT = """    -- Another server of a distributed log can't read the permit: the function sends it along.
    IF permitted IS NULL THEN
        IF TG_OP = 'UPDATE' AND current_setting('eventstore.change_permit', true) <> ''
           AND current_user = (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = TG_RELID)
           AND to_regclass('pg_catalog.pg_dist_shard') IS NOT NULL
        THEN
            SELECT current_setting('eventstore.change_permit') INTO permitted FROM pg_catalog.pg_dist_shard
            WHERE logicalrelid = 'eventstore.events'::regclass AND TG_TABLE_NAME = 'events_' || shardid;
        END IF;
    END IF;
"""

# With its owner's rights: whoever may execute it may erase, and needs no right on the tables.
ERASE_EVENTS = """
CREATE OR REPLACE FUNCTION eventstore.erase_events(positions bigint[], tokens text[], payloads bytea[]) RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this_transaction constant bigint := pg_current_xact_id()::text::bigint;
    is_distributed constant boolean := EXISTS (SELECT FROM eventstore.distributed_head);
    changed bigint;
BEGIN
    INSERT INTO eventstore.change_permits (transaction, purpose) VALUES (this_transaction, 'erase');
    IF is_distributed THEN
        PERFORM set_config('citus.propagate_set_commands', 'local', true);
        SET LOCAL eventstore.change_permit = 'erase';
    END IF;
    UPDATE eventstore.events AS e
    SET ppnum = d.token, message_id = NULL, payload = d.payload
    FROM unnest(positions, tokens, payloads) AS d (position, token, payload)
    WHERE e.position = d.position;
    GET DIAGNOSTICS changed = ROW_COUNT;
    IF is_distributed THEN
        SET LOCAL eventstore.change_permit = '';
    END IF;
    INSERT INTO eventstore.erased_events AS known (event_id, token)
    SELECT e.event_id, d.token
    FROM unnest(positions, tokens) AS d (position, token) JOIN eventstore.events AS e ON e.position = d.position
    ON CONFLICT (event_id) DO UPDATE SET token = excluded.token WHERE known.token <> excluded.token;
    DELETE FROM eventstore.change_permits WHERE transaction = this_transaction;
    RETURN changed;
END
$$
"""
# What it has more than that of revision 0022.
_IS_DISTRIBUTED = """    is_distributed constant boolean := EXISTS (SELECT FROM eventstore.distributed_head);
"""
_SEND_PERMIT = """    IF is_distributed THEN
        PERFORM set_config('citus.propagate_set_commands', 'local', true);
        SET LOCAL eventstore.change_permit = 'erase';
    END IF;
"""
_END_PERMIT = """    IF is_distributed THEN
        SET LOCAL eventstore.change_permit = '';
    END IF;
"""

# With its owner's rights: whoever may execute it may redecode, and needs no right on the tables.
REDECODE = """
CREATE OR REPLACE FUNCTION eventstore.redecode(decoded jsonb) RETURNS bigint LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this_transaction constant bigint := pg_current_xact_id()::text::bigint;
    is_distributed constant boolean := EXISTS (SELECT FROM eventstore.distributed_head);
    changed bigint;
BEGIN
    INSERT INTO eventstore.change_permits (transaction, purpose) VALUES (this_transaction, 'redecode');
    IF is_distributed THEN
        PERFORM set_config('citus.propagate_set_commands', 'local', true);
        SET LOCAL eventstore.change_permit = 'redecode';
        -- The column that distributes events can't be updated.
        UPDATE eventstore.events AS e
        SET event_type = d.event_type, ppnum = d.ppnum, error_code = d.error_code,
            message_id = d.message_id, poll_id = d.poll_id, poll_options = d.poll_options,
            poll_options_dropped = d.poll_options_dropped,
            summary_status = d.summary_status, total_recipients = d.total_recipients, delivered = d.delivered,
            failed = d.failed, pending_consent = d.pending_consent, occurred_at = d.occurred_at,
            recipient_created_at = d.recipient_created_at, summary_created_at = d.summary_created_at,
            summary_completed_at = d.summary_completed_at
        FROM jsonb_to_recordset(decoded) AS d (
            position bigint, event_type integer, send_request_id text, ppnum text, error_code text, message_id text,
            poll_id text, poll_options text[], poll_options_dropped integer, summary_status integer,
            total_recipients integer,
            delivered integer, failed integer, pending_consent integer, occurred_at timestamptz,
            recipient_created_at timestamptz, summary_created_at timestamptz, summary_completed_at timestamptz
        )
        WHERE e.position = d.position AND e.send_request_id = coalesce(d.send_request_id, '');
        GET DIAGNOSTICS changed = ROW_COUNT;
        SET LOCAL eventstore.change_permit = '';
        IF changed <> jsonb_array_length(decoded) THEN
            RAISE EXCEPTION 'an event of a distributed log can not get another send_request_id';
        END IF;
    ELSE
        UPDATE eventstore.events AS e
        SET event_type = d.event_type, send_request_id = d.send_request_id, ppnum = d.ppnum, error_code = d.error_code,
            message_id = d.message_id, poll_id = d.poll_id, poll_options = d.poll_options,
            poll_options_dropped = d.poll_options_dropped,
            summary_status = d.summary_status, total_recipients = d.total_recipients, delivered = d.delivered,
            failed = d.failed, pending_consent = d.pending_consent, occurred_at = d.occurred_at,
            recipient_created_at = d.recipient_created_at, summary_created_at = d.summary_created_at,
            summary_completed_at = d.summary_completed_at
        FROM jsonb_to_recordset(decoded) AS d (
            position bigint, event_type integer, send_request_id text, ppnum text, error_code text, message_id text,
            poll_id text, poll_options text[], poll_options_dropped integer, summary_status integer,
            total_recipients integer,
            delivered integer, failed integer, pending_consent integer, occurred_at timestamptz,
            recipient_created_at timestamptz, summary_created_at timestamptz, summary_completed_at timestamptz
        )
        WHERE e.position = d.position;
        GET DIAGNOSTICS changed = ROW_COUNT;
    END IF;
    DELETE FROM eventstore.change_permits WHERE transaction = this_transaction;
    RETURN changed;
END
$$
"""
# As revision 0013 made it.
REDECODE_ON_ONE_SERVER = """
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
        failed = d.failed, pending_consent = d.pending_consent, occurred_at = d.occurred_at,
        recipient_created_at = d.recipient_created_at, summary_created_at = d.summary_created_at,
        summary_completed_at = d.summary_completed_at
    FROM jsonb_to_recordset(decoded) AS d (
        position bigint, event_type integer, send_request_id text, ppnum text, error_code text, message_id text,
        poll_id text, poll_options text[], poll_options_dropped integer, summary_status integer,
        total_recipients integer,
        delivered integer, failed integer, pending_consent integer, occurred_at timestamptz,
        recipient_created_at timestamptz, summary_created_at timestamptz, summary_completed_at timestamptz
    )
    WHERE e.position = d.position;
    GET DIAGNOSTICS changed = ROW_COUNT;
    DELETE FROM eventstore.change_permits WHERE transaction = this_transaction;
    RETURN changed;
END
$$
"""

REFUSE_WITH_ERASURES = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM eventstore.distributed_head) AND EXISTS (SELECT FROM eventstore.erasures) THEN
        RAISE EXCEPTION 'persons were erased from a distributed log, which earlier revisions do not know';
    END IF;
END $$
"""


def upgrade() -> None:
    op.add_column(
        "distributed_head",
        sa.Column(
            "events_changed",
            sa.Boolean,
            nullable=False,
            server_default=sa.text("false"),
            comment="Whether stored events were changed, and a server may not have committed it yet.",
        ),
        schema="eventstore",
    )
    for statement in (REFUSE_ALL_BUT_PERMITTED, ERASE_EVENTS, REDECODE):
        op.execute(statement)


def downgrade() -> None:
    op.execute(REFUSE_WITH_ERASURES)
    op.execute(REDECODE_ON_ONE_SERVER)
    erase_events = ERASE_EVENTS
    for more in (_IS_DISTRIBUTED, _SEND_PERMIT, _END_PERMIT):
        erase_events = erase_events.replace(more, "")
    op.execute(erase_events)
    op.execute(REFUSE_ALL_BUT_PERMITTED.replace(_SENT_PERMIT, ""))
    op.drop_column("distributed_head", "events_changed", schema="eventstore")
