"""All our tables in one place, for migrations, and for the test that compares them with a migrated database."""

from __future__ import annotations

from sqlalchemy import MetaData

from eventstore.schema import SCHEMA as EVENTSTORE_SCHEMA
from eventstore.schema import metadata as eventstore_metadata
from projections.engine_tables import SCHEMA as ENGINE_SCHEMA
from projections.engine_tables import metadata as engine_metadata
from projections.projection import READ_MODEL_SCHEMA
from projections.read_models import consent_registry, people, poll_tallies, request_status
from projections.read_models.common_columns import metadata as read_model_metadata

OUR_SCHEMAS = (EVENTSTORE_SCHEMA, ENGINE_SCHEMA, READ_MODEL_SCHEMA)

READ_MODELS = (
    request_status.RequestStatus,
    consent_registry.ConsentRegistry,
    poll_tallies.PollTallies,
    people.People,
)
"""The built-in projections; importing their modules adds their tables to the metadata."""

target_metadata: list[MetaData] = [eventstore_metadata, engine_metadata, read_model_metadata]
"""Every table that our migrations create."""
