"""Alembic's way in: runs the migrations on the connection that ``projections.migrating.migrate`` hands over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from projections.migrating.metadata import OUR_SCHEMAS, target_metadata
from projections.migrating.schema_revision import VERSION_SCHEMA, VERSION_TABLE


def include_name(name: str | None, type_: str, _parents: object) -> bool:
    """Compare our schemas only; others' tables are none of our business."""
    return name in OUR_SCHEMAS if type_ == "schema" else True


def include_object(item: object, _name: str | None, type_: str, reflected: bool, other: object) -> bool:  # noqa: FBT001 - Alembic passes it so
    """Leave out the tables of others that share a schema with ours, as ``public`` is shared."""
    return not (type_ == "table" and reflected and other is None and getattr(item, "schema", None) == "public")


connection = context.config.attributes["connection"]
# The version table lives in a schema of ours, which must be there before the first migration.
connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {VERSION_SCHEMA}"))
# Alembic takes the default schema's tables to have no schema, and ours in public say theirs; so none is the default.
connection.dialect.default_schema_name = None
context.configure(
    connection=connection,
    target_metadata=target_metadata,
    # A projection's own folder is run by this environment too, with a version table of its own.
    version_table=context.config.attributes.get("version_table", VERSION_TABLE),
    version_table_schema=VERSION_SCHEMA,
    include_schemas=True,
    include_name=include_name,
    include_object=include_object,
    compare_type=True,
    compare_server_default=True,
)
context.run_migrations()
