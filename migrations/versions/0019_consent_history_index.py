"""An index on the events that the view consent_history shows, so that the history of one person takes milliseconds.

Its condition is that of the view, word for word, so Postgres sees that the view needs no other event. The rows of one
person are few, so ``event_id`` is not a part of the key: without it, equal keys share one entry, which is far smaller.

Creating it reads the whole log, and appends wait until the migration is done. On a big log the owner can create it
before, with CONCURRENTLY, which nobody waits for; it is then taken as it is.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

NAME = "events_consent_history_idx"
SHOWN = (
    "ppnum <> '' AND (event_type IN (1, 3, 4, 5)"
    " OR (event_type = 2 AND error_code IN ('consent_denied', 'consent_expired')))"
)


def upgrade() -> None:
    op.create_index(
        NAME, "events", ["app", "ppnum"], schema="eventstore", postgresql_where=sa.text(SHOWN), if_not_exists=True
    )


def downgrade() -> None:
    op.drop_index(NAME, "events", schema="eventstore", if_exists=True)
