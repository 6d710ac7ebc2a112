"""The statements that folds are compared with: each computes a read model from the whole log, as fast as SQL can."""

from __future__ import annotations

from typing import LiteralString

SESSION = (
    "SELECT set_config('max_parallel_workers_per_gather', '0', false),"
    " set_config('max_parallel_maintenance_workers', '0', false), set_config('jit', 'off', false),"
    " set_config('work_mem', '256MB', false), set_config('maintenance_work_mem', '256MB', false)"
)

_REQUEST_STATUS: tuple[LiteralString, ...] = (
    """CREATE TABLE reference.request_recipients AS
       SELECT DISTINCT ON (app, send_request_id, ppnum) app, send_request_id, ppnum,
              CASE event_type WHEN 1 THEN 'delivered' WHEN 2 THEN 'failed' ELSE 'pending_consent' END AS status,
              error_code, message_id, event_id AS last_event_id, occurred_at AS last_event_at,
              min(recipient_created_at) OVER recipient AS created_at,
              min(occurred_at) OVER recipient AS first_event_at,
              min(occurred_at) FILTER (WHERE event_type = 1) OVER recipient AS delivered_at
       FROM eventstore.events
       WHERE event_type IN (1, 2, 3) AND send_request_id <> '' AND ppnum <> ''
       WINDOW recipient AS (PARTITION BY app, send_request_id, ppnum ORDER BY event_id DESC
                            ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)
       ORDER BY app, send_request_id, ppnum, event_id DESC""",
    "ALTER TABLE reference.request_recipients ADD PRIMARY KEY (app, send_request_id, ppnum)",
    """CREATE TABLE reference.request_status AS
       SELECT app, send_request_id,
              CASE WHEN d.event_id IS NULL THEN 'in_progress'
                   WHEN d.event_type = 8 OR d.summary_status = 4 THEN 'failed' ELSE 'completed' END AS state,
              coalesce(r.recipients, 0) AS recipients, coalesce(r.delivered, 0) AS delivered,
              coalesce(r.failed, 0) AS failed, coalesce(r.pending_consent, 0) AS pending_consent,
              d.total_recipients AS reported_total, d.delivered AS reported_delivered, d.failed AS reported_failed,
              d.pending_consent AS reported_pending_consent, e.first_event_at, e.last_event_at,
              d.occurred_at AS completed_at, e.last_event_id, d.event_id AS decided_event_id, e.created_at
       FROM (SELECT app, send_request_id, min(occurred_at) AS first_event_at, max(occurred_at) AS last_event_at,
                    max(event_id) AS last_event_id,
                    min(CASE WHEN event_type IN (6, 8) THEN summary_created_at
                             WHEN event_type IN (1, 2, 3) AND ppnum <> '' THEN recipient_created_at END) AS created_at
             FROM eventstore.events WHERE event_type BETWEEN 1 AND 8 AND send_request_id <> ''
             GROUP BY app, send_request_id) AS e
       LEFT JOIN (SELECT app, send_request_id, count(*) AS recipients,
                         count(*) FILTER (WHERE status = 'delivered') AS delivered,
                         count(*) FILTER (WHERE status = 'failed') AS failed,
                         count(*) FILTER (WHERE status = 'pending_consent') AS pending_consent
                  FROM reference.request_recipients GROUP BY app, send_request_id) AS r USING (app, send_request_id)
       LEFT JOIN (SELECT DISTINCT ON (app, send_request_id) app, send_request_id, event_id, event_type, summary_status,
                         total_recipients, delivered, failed, pending_consent, occurred_at
                  FROM eventstore.events WHERE event_type IN (6, 8) AND send_request_id <> ''
                  ORDER BY app, send_request_id, event_id DESC) AS d USING (app, send_request_id)""",
    "ALTER TABLE reference.request_status ADD PRIMARY KEY (app, send_request_id)",
)

_CONSENT_REGISTRY: tuple[LiteralString, ...] = (
    """CREATE TABLE reference.consent_registry AS
       SELECT app, ppnum,
              CASE WHEN by_delivery THEN 'granted' ELSE consent_status END AS status,
              CASE WHEN by_delivery THEN 'delivery' ELSE 'consent' END AS basis,
              CASE WHEN by_delivery THEN delivery_at ELSE consent_at END AS decided_at,
              CASE WHEN by_delivery THEN delivery_event_id ELSE consent_event_id END AS event_id,
              CASE WHEN by_delivery THEN delivery_request_id ELSE consent_request_id END AS send_request_id,
              first_asked_at, consent_status, consent_event_id, consent_at, consent_request_id,
              delivery_event_id, delivery_at, delivery_request_id
       FROM (
           SELECT *, delivery_event_id IS NOT NULL AND (consent_event_id IS NULL
                     OR (consent_status <> 'granted' AND delivery_event_id > consent_event_id)) AS by_delivery
           FROM (SELECT DISTINCT ON (app, ppnum) app, ppnum,
                        CASE WHEN event_type = 3 THEN 'pending' WHEN event_type = 4 THEN 'granted'
                             WHEN event_type = 5 THEN 'denied' WHEN error_code = 'consent_denied' THEN 'denied'
                             ELSE 'expired' END AS consent_status,
                        event_id AS consent_event_id, occurred_at AS consent_at,
                        coalesce(send_request_id, '') AS consent_request_id
                 FROM eventstore.events
                 WHERE ppnum <> '' AND (event_type IN (3, 4, 5)
                       OR (event_type = 2 AND error_code IN ('consent_denied', 'consent_expired')))
                 ORDER BY app, ppnum, event_id DESC) AS consent
           FULL JOIN (SELECT DISTINCT ON (app, ppnum) app, ppnum, event_id AS delivery_event_id,
                             occurred_at AS delivery_at, coalesce(send_request_id, '') AS delivery_request_id
                      FROM eventstore.events WHERE ppnum <> '' AND event_type = 1
                      ORDER BY app, ppnum, event_id DESC) AS delivery USING (app, ppnum)
           LEFT JOIN (SELECT app, ppnum, min(occurred_at) AS first_asked_at
                      FROM eventstore.events WHERE ppnum <> '' AND event_type = 3
                      GROUP BY app, ppnum) AS asked USING (app, ppnum)
       ) AS facts""",
    "ALTER TABLE reference.consent_registry ADD PRIMARY KEY (app, ppnum)",
)

_POLL_TALLIES: tuple[LiteralString, ...] = (
    """CREATE TABLE reference.poll_responses AS
       SELECT DISTINCT ON (app, send_request_id, coalesce(poll_id, ''), ppnum)
              app, send_request_id, coalesce(poll_id, '') AS poll_id, ppnum, coalesce(poll_options, '{}') AS options,
              event_id, occurred_at AS responded_at
       FROM eventstore.events
       WHERE event_type = 7 AND send_request_id <> '' AND ppnum <> ''
       ORDER BY app, send_request_id, coalesce(poll_id, ''), ppnum, event_id DESC""",
    "ALTER TABLE reference.poll_responses ADD PRIMARY KEY (app, send_request_id, poll_id, ppnum)",
    """CREATE TABLE reference.poll_tallies AS
       SELECT app, send_request_id, poll_id, option, count(DISTINCT ppnum)::integer AS responses,
              max(responded_at) AS last_response_at
       FROM (SELECT app, send_request_id, poll_id, ppnum, responded_at,
                    unnest(CASE WHEN cardinality(options) = 0 THEN '{""}' ELSE options END) AS option
             FROM reference.poll_responses) AS answers
       GROUP BY app, send_request_id, poll_id, option""",
    "ALTER TABLE reference.poll_tallies ADD PRIMARY KEY (app, send_request_id, poll_id, option)",
)

_PEOPLE: tuple[LiteralString, ...] = (
    """CREATE TABLE reference.person_requests AS
       SELECT DISTINCT ON (app, ppnum, send_request_id) app, ppnum, send_request_id,
              CASE event_type WHEN 1 THEN 'delivered' WHEN 2 THEN 'failed' ELSE 'pending_consent' END AS status,
              error_code, event_id AS last_event_id, occurred_at AS last_event_at
       FROM eventstore.events
       WHERE event_type IN (1, 2, 3) AND send_request_id <> '' AND ppnum <> ''
       ORDER BY app, ppnum, send_request_id, event_id DESC""",
    "ALTER TABLE reference.person_requests ADD PRIMARY KEY (app, ppnum, send_request_id)",
    """CREATE TABLE reference.people AS
       SELECT app, ppnum, coalesce(requests, 0) AS requests, coalesce(delivered, 0) AS delivered,
              coalesce(failed, 0) AS failed, coalesce(pending_consent, 0) AS pending_consent,
              last_outcome, last_error_code, last_outcome_at, last_event_id, consent_status, consent_event_id
       FROM (SELECT app, ppnum, count(*) AS requests,
                    count(*) FILTER (WHERE status = 'delivered') AS delivered,
                    count(*) FILTER (WHERE status = 'failed') AS failed,
                    count(*) FILTER (WHERE status = 'pending_consent') AS pending_consent
             FROM reference.person_requests GROUP BY app, ppnum) AS counted
       JOIN (SELECT DISTINCT ON (app, ppnum) app, ppnum, status AS last_outcome, error_code AS last_error_code,
                    last_event_at AS last_outcome_at, last_event_id
             FROM reference.person_requests ORDER BY app, ppnum, last_event_id DESC) AS last USING (app, ppnum)
       FULL JOIN (SELECT DISTINCT ON (app, ppnum) app, ppnum,
                         CASE WHEN event_type IN (1, 4) THEN 'granted' WHEN event_type = 3 THEN 'pending'
                              WHEN event_type = 5 THEN 'denied' WHEN error_code = 'consent_denied' THEN 'denied'
                              ELSE 'expired' END AS consent_status, event_id AS consent_event_id
                  FROM eventstore.events
                  WHERE ppnum <> '' AND (event_type IN (1, 3, 4, 5)
                        OR (event_type = 2 AND error_code IN ('consent_denied', 'consent_expired')))
                  ORDER BY app, ppnum, event_id DESC) AS consent USING (app, ppnum)""",
    "ALTER TABLE reference.people ADD PRIMARY KEY (app, ppnum)",
)

REFERENCES: dict[str, tuple[LiteralString, ...]] = {
    "request_status": _REQUEST_STATUS,
    "consent_registry": _CONSENT_REGISTRY,
    "poll_tallies": _POLL_TALLIES,
    "people": _PEOPLE,
}
"""By projection: the statements, in order."""
