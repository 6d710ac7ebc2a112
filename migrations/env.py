"""Alembic's environment: runs the migrations on the connection that ``projections.migrating.migrate`` passes in."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

from projections.migrating.metadata import OUR_SCHEMAS, target_metadata
from projections.migrating.schema_revision import VERSION_SCHEMA, VERSION_TABLE


def include_name(name: str | None, type_: str, _parents: object) -> bool:
    """Compare our schemas only."""
    return name in OUR_SCHEMAS if type_ == "schema" else True


def include_object(item: object, _name: str | None, type_: str, reflected: bool, other: object) -> bool:  # noqa: FBT001 - Alembic passes it so
    """Leave out other tables in ``public``, which we share."""
    return not (type_ == "table" and reflected and other is None and getattr(item, "schema", None) == "public")


connection = context.config.attributes["connection"]
# The version table is in one of our schemas, which must exist before the first migration.
connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {VERSION_SCHEMA}"))
# Alembic treats tables of the default schema as having no schema, but ours in public name theirs. So none is default.
connection.dialect.default_schema_name = None
context.configure(
    connection=connection,
    target_metadata=target_metadata,
    # This environment also runs the folders of users' projections, each with its own version table.
    version_table=context.config.attributes.get("version_table", VERSION_TABLE),
    version_table_schema=VERSION_SCHEMA,
    include_schemas=True,
    include_name=include_name,
    include_object=include_object,
    compare_type=True,
    compare_server_default=True,
)
context.run_migrations()
