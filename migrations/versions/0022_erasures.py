"""Persons can be erased from the log: which were, which events are theirs, and the one function that changes these."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)

REFUSE_ALL_BUT_PERMITTED = """
CREATE OR REPLACE FUNCTION eventstore.refuse_change() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    permitted text;
    kept eventstore.events;
BEGIN
    -- Only as the owner: the permit of a role that was merely granted INSERT on the table means nothing.
    IF TG_OP = 'UPDATE' AND current_user = (
        SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = 'eventstore.change_permits'::regclass
    ) THEN
        SELECT purpose INTO permitted FROM eventstore.change_permits
        WHERE transaction = pg_current_xact_id()::text::bigint;
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

# With its owner's rights: whoever may execute it may erase, and needs no right on the tables.
ERASE_EVENTS = """
CREATE OR REPLACE FUNCTION eventstore.erase_events(positions bigint[], tokens text[], payloads bytea[]) RETURNS bigint
LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    this_transaction constant bigint := pg_current_xact_id()::text::bigint;
    changed bigint;
BEGIN
    INSERT INTO eventstore.change_permits (transaction, purpose) VALUES (this_transaction, 'erase');
    UPDATE eventstore.events AS e
    SET ppnum = d.token, message_id = NULL, payload = d.payload
    FROM unnest(positions, tokens, payloads) AS d (position, token, payload)
    WHERE e.position = d.position;
    GET DIAGNOSTICS changed = ROW_COUNT;
    INSERT INTO eventstore.erased_events AS known (event_id, token)
    SELECT e.event_id, d.token
    FROM unnest(positions, tokens) AS d (position, token) JOIN eventstore.events AS e ON e.position = d.position
    ON CONFLICT (event_id) DO UPDATE SET token = excluded.token WHERE known.token <> excluded.token;
    DELETE FROM eventstore.change_permits WHERE transaction = this_transaction;
    RETURN changed;
END
$$
"""

COMMENTS = {
    "TABLE eventstore.events": (
        "Every event, stored once, exactly as received. Append-only: UPDATE, DELETE and TRUNCATE are refused.",
        "Every event, as received but for erased persons. Append-only: UPDATE, DELETE and TRUNCATE are refused.",
    ),
    "COLUMN eventstore.events.ppnum": (
        "The recipient's phone number; NULL when the event has no recipient.",
        "The recipient's phone number, or an erased person's token; NULL when the event has no recipient.",
    ),
    "COLUMN eventstore.events.payload": (
        "The exact bytes of the event, as received: the source of truth.",
        "The exact bytes of the event, as received (an erased person's are encoded anew): the source of truth.",
    ),
    "COLUMN eventstore.quarantine.sha256": (
        "SHA-256 of the payload.",
        "SHA-256 of the payload; random bytes if the payload was erased.",
    ),
    "COLUMN eventstore.quarantine.payload": (
        "The exact bytes, as received.",
        "The exact bytes, as received; empty if they were erased.",
    ),
    "COLUMN eventstore.change_permits.purpose": (
        "The function that wrote the permit: redecode.",
        "The function that wrote the permit: redecode or erase.",
    ),
    "COLUMN projections.checkpoints.redecoded_at": (
        "When redecode last changed events that this projection had folded; NULL if never, or rebuilt since.",
        (
            "When redecode or erase last changed events that this projection had folded: it needs a rebuild;"
            " NULL if never, or rebuilt since."
        ),
    ),
    "COLUMN projections.reconciliations.differing_recipients": (
        "The first thousand of them: a list of {ppnum, upstream, ours}; null where one side has none.",
        (
            "The first thousand of them: a list of {ppnum, upstream, ours}; null where one side has none, and for a"
            " number that may be an erased person's."
        ),
    ),
}
"""The comments before and after."""


def upgrade() -> None:
    op.create_table(
        "erasures",
        sa.Column(
            "id",
            sa.BigInteger,
            sa.Identity(always=True),
            primary_key=True,
            comment="The erasure's number: the greatest one tells which erasures the log has.",
        ),
        sa.Column("token", sa.Text, nullable=False, comment="What stands in place of the person's phone number."),
        sa.Column("app", sa.Text, comment="The app in which the person was erased; NULL for every app."),
        sa.Column("erased_at", TIME, nullable=False, comment="When the person was erased."),
        sa.Column("why", sa.Text, nullable=False, comment="The reason given to projections erase."),
        sa.Column("erased_by", sa.Text, nullable=False, comment="Who ran it: the database role and the system user."),
        sa.Column("position", sa.BigInteger, nullable=False, comment="The head of the log then."),
        sa.Column(
            "mac",
            sa.LargeBinary,
            comment="HMAC-SHA-256 of the number under the erasure key; NULL if there was no key.",
        ),
        sa.Column("key_check", sa.LargeBinary, comment="Tells whether a key is the one of mac; NULL without a mac."),
        sa.Column(
            "rows",
            postgresql.JSONB,
            nullable=False,
            comment="How many rows of the person were changed: an object with a number for each table.",
        ),
        sa.Column(
            "awaited",
            sa.Boolean,
            nullable=False,
            server_default=sa.text("false"),
            comment="Whether events of the person may still be received that were erased before, as after a restore.",
        ),
        sa.Column(
            "applied",
            sa.Boolean,
            nullable=False,
            server_default=sa.text("true"),
            comment="Whether the person's events in this log are erased; false until projections erase --again did it.",
        ),
        sa.UniqueConstraint("token", name="erasures_token_key"),
        sa.CheckConstraint("token ~ '^erased:[0-7][0-9A-HJKMNP-TV-Z]{25}$'", name="erasures_token_check"),
        sa.CheckConstraint("(mac IS NULL) = (key_check IS NULL)", name="erasures_key_check_check"),
        sa.CheckConstraint("mac IS NULL OR octet_length(mac) = 32", name="erasures_mac_check"),
        sa.CheckConstraint("jsonb_typeof(rows) = 'object'", name="erasures_rows_check"),
        schema="eventstore",
        comment="Persons who were erased: one row for each, without the phone number.",
    )
    op.create_index(
        "erasures_mac_idx", "erasures", ["mac"], schema="eventstore", postgresql_where=sa.text("mac IS NOT NULL")
    )
    op.create_index(
        "erasures_awaited_idx", "erasures", ["id"], schema="eventstore", postgresql_where=sa.text("awaited")
    )
    op.create_index(
        "erasures_not_applied_idx", "erasures", ["id"], schema="eventstore", postgresql_where=sa.text("NOT applied")
    )
    op.create_table(
        "erased_events",
        sa.Column("event_id", sa.Text(collation="C"), primary_key=True, comment="The event."),
        sa.Column("token", sa.Text, nullable=False, comment="The token of the person whose event it is."),
        sa.CheckConstraint("octet_length(event_id) = 26", name="erased_events_event_id_check"),
        schema="eventstore",
        comment="Events of erased persons. One that is received again is a duplicate, whatever its bytes.",
    )
    op.add_column(
        "quarantine",
        sa.Column("erased_at", TIME, comment="When the payload was erased with a person; NULL if it is there."),
        schema="eventstore",
    )
    op.create_index(
        "quarantine_erased_idx",
        "quarantine",
        ["app", "contract", "event_id"],
        schema="eventstore",
        postgresql_where=sa.text("erased_at IS NOT NULL"),
    )
    op.execute(REFUSE_ALL_BUT_PERMITTED)
    op.execute(ERASE_EVENTS)
    op.execute("REVOKE ALL ON FUNCTION eventstore.erase_events(bigint[], text[], bytea[]) FROM PUBLIC")
    for what, (_, after) in COMMENTS.items():
        _comment(what, after)


def downgrade() -> None:
    for what, (before, _) in COMMENTS.items():
        _comment(what, before)
    op.execute("DROP FUNCTION eventstore.erase_events(bigint[], text[], bytea[])")
    op.execute(REFUSE_ALL_BUT_REDECODE)
    op.drop_column("quarantine", "erased_at", schema="eventstore")
    op.drop_table("erased_events", schema="eventstore")
    op.drop_table("erasures", schema="eventstore")


def _comment(what: str, comment: str) -> None:
    quoted = comment.replace("'", "''")
    op.execute(f"COMMENT ON {what} IS '{quoted}'")


# As revision 0007 made it.
REFUSE_ALL_BUT_REDECODE = """
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
