"""The HTTP server of ``run``, ``ingest`` and ``dashboard``: metrics, health and the page, read-only.

::

    http_options     what the command line says: the address, and whether personal data may be shown
    http_server      binds the address, and runs uvicorn inside the event loop of the command
    web_app          builds the Starlette application from lists of routes
    web_context      what every route is given
    status_source    the one reader of the database, shared by all pages and scrapes
    read_session     a read-only session with timeouts, which opens itself again
    dashboard_routes the page, its files, its readings, and the history of a row
    page_feed        what open pages receive; page_extras reads it, page_memory remembers it, page_reading describes it
    database_metrics, process_metrics    the metrics; metric_catalogue has their types
    verdict          whether the read models can be believed, why not if not, and what to run
    row_history      the history of a person or of a request
    ..._endpoints    the routes, one module for each concern

Routes. A module of routes has a function that takes a :class:`~projections.http.web_context.WebContext` and returns a
list of Starlette routes; :mod:`projections.http.web_app` names these functions. An endpoint that shows the state of the
system awaits ``context.status.current()``; one that follows it (server-sent events) iterates over
``context.status.changes()``, which ends when the server stops. Both hand out a
:class:`~projections.http.status_source.Reading`: a :class:`~projections.inspecting.live_status.LiveStatus`, or else why
there is none. A query for one person or one request runs on ``context.queries.session()``.

Invariants.

- Nothing here writes to the database: its sessions are read-only, and have a statement timeout.
- The database has at most two sessions of this server, whatever the number of open pages: one refreshes the status, at
  most once a second and only while somebody looks; the other one answers queries, one at a time. The history of
  a row needs a third one while it is computed, one at a time: it folds into temporary tables.
- A route that fails answers 500 with a sentence; it never ends the run. An error of the database or of the code is
  logged once, redacted, and never sent to the browser with a traceback.
- Only GET and HEAD are answered. On a loopback address only requests are answered that name it or an IP address, so
  that no page of another site can read this one through a name that it controls.
"""
