"""Comments in plain English, on tables, columns, views and a schema.

A comment that somebody has changed is left as it is: only the wording of the earlier revisions is replaced. A missing
comment is added, and an object that somebody has dropped is left out.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# For each object: the comment before and after this revision.
COMMENTS = {
    "TABLE eventstore.events": (
        "Every event received, once, as it came. Append-only: UPDATE, DELETE and TRUNCATE are refused.",
        "Every event, stored once, exactly as received. Append-only: UPDATE, DELETE and TRUNCATE are refused.",
    ),
    "COLUMN eventstore.events.position": (
        "Commit order here: 1, 2, 3, without gaps.",
        "Commit order in this database: 1, 2, 3 and so on, no number missing.",
    ),
    "COLUMN eventstore.events.app": (
        "Whose stream brought it.",
        "The app on whose stream it was received.",
    ),
    "COLUMN eventstore.events.contract": (
        "The contract it came under: chat.external or pcs.external.v1.",
        "The contract it was received under: chat.external or pcs.external.v1.",
    ),
    "COLUMN eventstore.events.event_type": (
        "The wire's number; the view event_log shows names.",
        "The type's number in the contract; the view event_log shows its name.",
    ),
    "COLUMN eventstore.events.send_request_id": (
        "The request it is about; NULL when it names none.",
        "The request that it names; NULL when it names none.",
    ),
    "COLUMN eventstore.events.summary_status": (
        "The summary's status, the wire's number; NULL without a summary.",
        "The summary's status, as a number of the contract; NULL without a summary.",
    ),
    "COLUMN eventstore.events.received_at": (
        "When it was appended here; never falls as position rises.",
        "When it was appended here; never decreases as position increases.",
    ),
    "COLUMN eventstore.events.payload": (
        "The exact bytes of the event as they came: the truth.",
        "The exact bytes of the event, as received: the source of truth.",
    ),
    "TABLE eventstore.cursors": (
        "One row for each app that is followed: where its stream goes on.",
        "One row for each followed app: where its stream resumes.",
    ),
    "COLUMN eventstore.cursors.app": (
        "Whose stream is followed.",
        "The app that is followed.",
    ),
    "COLUMN eventstore.cursors.contract": (
        "The contract that the upstream speaks; NULL until the first success decides it.",
        "The upstream's contract; NULL until the first stream that succeeds decides it.",
    ),
    "COLUMN eventstore.cursors.holes": (
        "Gaps that the upstream could not replay: a list of {lower, upper, noticed_at, detail}.",
        "Gaps that the upstream could not replay: a list of {lower, upper, noticed_at, detail, position}.",
    ),
    "COLUMN eventstore.cursors.epoch": (
        "Rises with every new follower.",
        "Increases with each new follower.",
    ),
    "COLUMN eventstore.cursors.fence": (
        "Fencing token: a random number, new with every move; a follower moves on only from its own last one.",
        "Fencing token: each cursor move writes a new random number and must name the previous one.",
    ),
    "COLUMN eventstore.cursors.went_back": (
        (
            "When the database lost committed events (failover, restore): a list of {noticed_at, from, to}; who has"
            " read past position to must read again from there."
        ),
        (
            "Commits that the database lost (failover, restore): a list of {noticed_at, from, to}. Anyone who read"
            ' beyond position "to" must read again from there.'
        ),
    ),
    "COLUMN eventstore.cursors.last_error": (
        "What last went wrong with this upstream; NULL while it is well.",
        "The upstream's last error; NULL while it works.",
    ),
    "COLUMN eventstore.cursors.last_error_at": (
        "When it went wrong.",
        "When that error occurred.",
    ),
    "COLUMN eventstore.cursors.refused_at": (
        "Since when the platform or issuer refuses the app; NULL unless refused.",
        "Since when the platform or issuer has refused the app; NULL unless refused.",
    ),
    "COLUMN eventstore.cursors.retry_at": (
        "When a refused app is tried again; NULL for never, or while it is tried.",
        "When a refused app is retried; NULL for never, or while the retry runs.",
    ),
    "COLUMN eventstore.cursors.reset_to": (
        "After a reset: the ULID that the stream begins at again; NULL for where a first contact begins.",
        "After a reset: the ULID to start from; NULL to start like a new app.",
    ),
    "COLUMN eventstore.cursors.reset_position": (
        "The last position at the reset: only events stored later say where the stream goes on; NULL without a reset.",
        "Head of the log at the last reset: only events stored after it decide where to resume; NULL without a reset.",
    ),
    "TABLE eventstore.quarantine": (
        "Bytes that came over the wire and can't be an event, kept as they came, up to a limit for each app.",
        "Messages that can't be events, exactly as received, up to a limit for each app.",
    ),
    "COLUMN eventstore.quarantine.id": (
        "A number to name the row by.",
        "The row's number.",
    ),
    "COLUMN eventstore.quarantine.app": (
        "Whose stream brought it.",
        "The app on whose stream it was received.",
    ),
    "COLUMN eventstore.quarantine.contract": (
        "The contract it came under.",
        "The contract it was received under.",
    ),
    "COLUMN eventstore.quarantine.event_id": (
        "Its ULID, where one could be read.",
        "The message's ULID, if one could be read.",
    ),
    "COLUMN eventstore.quarantine.reason": (
        "Why it can't be an event.",
        "Why the message can't be an event.",
    ),
    "COLUMN eventstore.quarantine.payload": (
        "The exact bytes as they came.",
        "The exact bytes, as received.",
    ),
    "COLUMN eventstore.quarantine.first_seen": (
        "When these bytes first came.",
        "When these bytes were first received.",
    ),
    "COLUMN eventstore.quarantine.last_seen": (
        "When these bytes last came.",
        "When these bytes were last received.",
    ),
    "COLUMN eventstore.quarantine.count": (
        "How often these bytes came.",
        "How often these bytes were received.",
    ),
    "COLUMN eventstore.quarantine.is_sample": (
        "Kept as a sample while the quarantine was full; makes room for newer samples.",
        "Kept as a sample while the quarantine was full; deleted to make room for newer samples.",
    ),
    "TABLE eventstore.quarantine_counts": (
        "How many messages were quarantined, by app and reason; exact, whatever was kept of them.",
        "How many messages were quarantined, by app and reason: exact, however many of them were kept.",
    ),
    "COLUMN eventstore.quarantine_counts.app": (
        "Whose stream brought them.",
        "The app on whose stream they were received.",
    ),
    "COLUMN eventstore.quarantine_counts.messages": (
        "Messages that came, kept or not, repetitions included.",
        "Messages received, kept or not, repetitions included.",
    ),
    "COLUMN eventstore.quarantine_counts.not_kept": (
        "Those whose bytes were not kept: the quarantine was full.",
        "Messages whose bytes were not kept because the quarantine was full.",
    ),
    "COLUMN eventstore.quarantine_counts.first_seen": (
        "When the first of them came.",
        "When the first of them was received.",
    ),
    "COLUMN eventstore.quarantine_counts.last_seen": (
        "When the last of them came.",
        "When the last of them was received.",
    ),
    "TABLE eventstore.quarantine_usage": (
        "How much of each app's quarantine is used; the table quarantine itself is the truth.",
        "How much of each app's quarantine is used; the table quarantine itself is the source of truth.",
    ),
    "COLUMN eventstore.quarantine_usage.app": (
        "Whose stream is followed.",
        "The app that is followed.",
    ),
    "COLUMN eventstore.quarantine_usage.kept_rows": (
        "Rows kept, samples left out.",
        "Rows kept, not counting samples.",
    ),
    "COLUMN eventstore.quarantine_usage.kept_bytes": (
        "Bytes of their payloads.",
        "Bytes of the payloads of these rows.",
    ),
    "COLUMN eventstore.quarantine_usage.counted_at": (
        "When both were last counted in the table itself; NULL to count them next.",
        "When both were last counted from the table quarantine; NULL to have them counted next time.",
    ),
    "COLUMN eventstore.quarantine_usage.full_since": (
        "Since when messages have not fitted; NULL while there is room.",
        "Since when the quarantine has been full; NULL while there is room.",
    ),
    "TABLE eventstore.change_permits": (
        "Who may change events: written and deleted by the functions that do it, empty between transactions.",
        (
            "Transactions that may change events: the function that changes events writes a permit and deletes it, so"
            " the table is empty between transactions."
        ),
    ),
    "COLUMN eventstore.change_permits.transaction": (
        "The number of the transaction that may change events.",
        "The id of the transaction that may change events.",
    ),
    "TABLE projections.checkpoints": (
        "How far each projection is. The row is also the lock: who holds it folds.",
        "How far each projection is. The row is also the lock: whoever locks it may fold.",
    ),
    "COLUMN projections.checkpoints.last_error": (
        "What last went wrong; NULL while it is well.",
        "The last error; NULL while it works.",
    ),
    "COLUMN projections.checkpoints.last_error_at": (
        "When it went wrong.",
        "When that error occurred.",
    ),
    "COLUMN projections.checkpoints.failures": (
        "Failures in a row.",
        "Consecutive failures.",
    ),
    "COLUMN projections.checkpoints.retry_at": (
        "When a failed projection is tried again; NULL for at once.",
        "When a failed projection is retried; NULL for immediately.",
    ),
    "COLUMN projections.checkpoints.events": (
        "Events passed so far.",
        "Events processed so far.",
    ),
    "COLUMN projections.checkpoints.redecoded_at": (
        "When columns of folded events were read otherwise; NULL when none were, or rebuilt since.",
        "When redecode last changed events that this projection had folded; NULL if never, or rebuilt since.",
    ),
    "TABLE projections.skips": (
        "Events that a projection passes over, by somebody's decision.",
        "Events that a projection skips because somebody decided so.",
    ),
    "COLUMN projections.skips.name": (
        "The projection that passes over the event.",
        "The projection that skips the event.",
    ),
    "COLUMN projections.skips.event_id": (
        "The event passed over.",
        "The skipped event.",
    ),
    "COLUMN projections.skips.version": (
        "The version of the projection that this holds for.",
        "The version of the projection that skips it.",
    ),
    "COLUMN projections.skips.why": (
        "Why, in the words of who decided it.",
        "The reason given to projections skip.",
    ),
    "COLUMN projections.skips.skipped_at": (
        "When it was decided.",
        "When the skip was recorded.",
    ),
    "TABLE projections.rebuilds": (
        "What each rebuild did, or is doing.",
        "What each rebuild or as-of did, or is doing.",
    ),
    "COLUMN projections.rebuilds.id": (
        "A number to name the rebuild by.",
        "The run's number.",
    ),
    "COLUMN projections.rebuilds.version": (
        "The version of the code that rebuilt.",
        "The projection's version in the code that ran it.",
    ),
    "COLUMN projections.rebuilds.fingerprint": (
        "Of the code, its tables and the events passed over.",
        "Digest of the code, the tables and the skipped events.",
    ),
    "COLUMN projections.rebuilds.holder": (
        "The session at work; it is gone when the rebuild is over.",
        "application_name of the session that ran it.",
    ),
    "COLUMN projections.rebuilds.dry_run": (
        "Whether the difference was only shown.",
        "Whether the difference was only reported, not applied.",
    ),
    "COLUMN projections.rebuilds.started_at": (
        "When it began.",
        "When it started.",
    ),
    "COLUMN projections.rebuilds.finished_at": (
        "When it was over.",
        "When it ended; NULL while it runs.",
    ),
    "COLUMN projections.rebuilds.rows_added": (
        "Rows that it lacked.",
        "Rows added (missing in the read model).",
    ),
    "COLUMN projections.rebuilds.rows_removed": (
        "Rows that it had too many.",
        "Rows removed (not produced by the log).",
    ),
    "COLUMN projections.rebuilds.rows_changed": (
        "Rows that were otherwise.",
        "Rows that differed and were changed.",
    ),
    "COLUMN projections.rebuilds.fold_seconds": (
        "How long the events were folded.",
        "How long folding the events took.",
    ),
    "COLUMN projections.rebuilds.compare_seconds": (
        "How long the tables were compared.",
        "How long comparing the tables took.",
    ),
    "COLUMN projections.rebuilds.apply_seconds": (
        "How long the checkpoint was held to apply the difference.",
        "How long the checkpoint was locked to apply the difference.",
    ),
    "COLUMN projections.rebuilds.error": (
        "Why it came to nothing; NULL when it didn't.",
        "Why it failed or was refused; NULL otherwise.",
    ),
    "COLUMN projections.rebuilds.into_schema": (
        "The schema that it made, of an as-of rebuild; NULL for the read model itself.",
        "The schema that an as-of created; NULL for a rebuild of the read model itself.",
    ),
    "COLUMN projections.rebuilds.into_schema_oid": (
        "That schema's oid: one of the same name that others make is not ours.",
        "Oid of that schema, to tell it from a schema of the same name created by somebody else.",
    ),
    "COLUMN projections.rebuilds.into_table_oids": (
        "The oids of the tables that it made there; NULL in rows of before that was noted.",
        "Oids of the tables that an as-of created; NULL otherwise, and for runs before this was recorded.",
    ),
    "TABLE public.request_recipients": (
        "What became of each recipient of each request.",
        "What happened to each recipient of each request.",
    ),
    "COLUMN public.request_recipients.app": (
        "Whose request it is.",
        "The app whose request it is.",
    ),
    "COLUMN public.request_recipients.status": (
        "delivered, failed or pending_consent: of the greatest event_id that tells.",
        "delivered, failed or pending_consent: from the event with the greatest event_id that reports one.",
    ),
    "COLUMN public.request_recipients.last_event_at": (
        "When that happened.",
        "When that event happened.",
    ),
    "TABLE public.request_status": (
        "What became of each send request.",
        "What happened to each send request.",
    ),
    "COLUMN public.request_status.app": (
        "Whose request it is.",
        "The app whose request it is.",
    ),
    "COLUMN public.request_status.recipients": (
        "Recipients of whom an event told something.",
        "Recipients whose status at least one event reports.",
    ),
    "COLUMN public.request_status.reported_total": (
        "Recipients, as the deciding event's summary has it.",
        "Recipients, as reported by the deciding event's summary.",
    ),
    "COLUMN public.request_status.reported_delivered": (
        "Delivered, as the summary has it.",
        "Delivered, as reported by that summary.",
    ),
    "COLUMN public.request_status.reported_failed": (
        "Failed, as the summary has it.",
        "Failed, as reported by that summary.",
    ),
    "COLUMN public.request_status.reported_pending_consent": (
        "Waiting for consent, as the summary has it.",
        "Waiting for consent, as reported by that summary.",
    ),
    "COLUMN public.request_status.first_event_at": (
        "When the first thing happened.",
        "When the earliest event of the request happened.",
    ),
    "COLUMN public.request_status.last_event_at": (
        "When the last thing happened.",
        "When the latest event of the request happened.",
    ),
    "TABLE public.consent_registry": (
        "May I write to this person, and by which event do I know?",
        "May I write to this person, and which event says so?",
    ),
    "COLUMN public.consent_registry.app": (
        "Who would write.",
        "The app.",
    ),
    "COLUMN public.consent_registry.ppnum": (
        "To whom: the phone number.",
        "The person's phone number.",
    ),
    "COLUMN public.consent_registry.first_asked_at": (
        "When the person was first asked; NULL when never, as far as is known.",
        "When the person was first asked for consent; NULL when no event says so.",
    ),
    "COLUMN public.consent_registry.consent_status": (
        "What the last consent fact says; NULL without one.",
        "What the last event about consent says; NULL without one.",
    ),
    "COLUMN public.consent_registry.consent_event_id": (
        "The last consent fact.",
        "The last event about consent; NULL without one.",
    ),
    "COLUMN public.poll_responses.app": (
        "Whose poll it is.",
        "The app whose poll it is.",
    ),
    "COLUMN public.poll_responses.event_id": (
        "The respondent's latest answer.",
        "The event with the respondent's latest answer.",
    ),
    "COLUMN public.poll_responses.responded_at": (
        "When that was.",
        "When that answer was given.",
    ),
    "COLUMN public.poll_tallies.app": (
        "Whose poll it is.",
        "The app whose poll it is.",
    ),
    "COLUMN public.poll_tallies.responses": (
        "Respondents whose latest answer names it.",
        "Respondents whose latest answer names the option.",
    ),
    "COLUMN public.poll_tallies.last_response_at": (
        "When the last of these answered.",
        "When the latest of these answers was given.",
    ),
    "COLUMN eventstore.event_log.position": (
        "Commit order here: 1, 2, 3, without gaps.",
        "Commit order in this database: 1, 2, 3 and so on, no number missing.",
    ),
    "COLUMN eventstore.event_log.app": (
        "Whose stream brought it.",
        "The app on whose stream it was received.",
    ),
    "COLUMN eventstore.event_log.contract": (
        "The contract it came under.",
        "The contract it was received under.",
    ),
    "COLUMN eventstore.event_log.event_type": (
        "The wire's number.",
        "The type's number in the contract.",
    ),
    "COLUMN eventstore.event_log.send_request_id": (
        "The request it is about; NULL when it names none.",
        "The request that it names; NULL when it names none.",
    ),
    "COLUMN eventstore.event_log.summary_status": (
        "The summary's status, the wire's number; NULL without a summary.",
        "The summary's status, as a number of the contract; NULL without a summary.",
    ),
    "COLUMN eventstore.event_log.received_at": (
        "When it was appended here; never falls as position rises.",
        "When it was appended here; never decreases as position increases.",
    ),
    "COLUMN eventstore.event_log.payload": (
        "The exact bytes of the event as they came: the truth.",
        "The exact bytes of the event, as received: the source of truth.",
    ),
    "COLUMN eventstore.event_log.event_type_name": (
        "Its name; UNKNOWN_n for a number that we don't know.",
        "The type's name; UNKNOWN_n for a number n that this version doesn't know.",
    ),
    "VIEW public.consent_history": (
        "Each consent fact and each delivery, in order, from the log.",
        "Each event about consent and each delivery, in order, read from the log.",
    ),
    "COLUMN public.consent_history.app": (
        "Who would write.",
        "The app.",
    ),
    "COLUMN public.consent_history.ppnum": (
        "To whom: the phone number.",
        "The person's phone number.",
    ),
    "COLUMN public.poll_results.app": (
        "Whose poll it is.",
        "The app whose poll it is.",
    ),
    "COLUMN public.poll_results.responses": (
        "Respondents whose latest answer names it.",
        "Respondents whose latest answer names the option.",
    ),
    "COLUMN public.read_model_freshness.events_behind": (
        "Events that lie behind that position.",
        "Events after that position.",
    ),
    "SCHEMA eventstore": (
        "What arrived, as it came, and where each stream goes on.",
        "Events exactly as received, and where each stream resumes.",
    ),
}
READ_COMMENTS = """
SELECT 'SCHEMA ' || nspname, obj_description(oid, 'pg_namespace')
FROM pg_namespace WHERE nspname = 'eventstore'
UNION ALL
SELECT CASE a.attnum WHEN 0 THEN CASE c.relkind WHEN 'v' THEN 'VIEW ' ELSE 'TABLE ' END ELSE 'COLUMN ' END
       || n.nspname || '.' || c.relname || coalesce('.' || a.attname, ''),
       CASE a.attnum WHEN 0 THEN obj_description(c.oid, 'pg_class') ELSE col_description(c.oid, a.attnum) END
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT 0 AS attnum, NULL AS attname
    UNION ALL
    SELECT attnum, attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
) AS a
WHERE n.nspname IN ('eventstore', 'projections', 'public') AND c.relkind IN ('r', 'p', 'v')
"""


def upgrade() -> None:
    _replace(COMMENTS)


def downgrade() -> None:
    _replace({what: (after, before) for what, (before, after) in COMMENTS.items()})


def _replace(comments: dict[str, tuple[str, str]]) -> None:
    found = {row[0]: row[1] for row in op.get_bind().execute(sa.text(READ_COMMENTS))}
    for what, (replaced, new) in comments.items():
        if what in found and found[what] in {None, replaced}:
            quoted = new.replace("'", "''")
            op.execute(f"COMMENT ON {what} IS '{quoted}'")
