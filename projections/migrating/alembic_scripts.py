"""Alembic's view of our migrations: its configuration, and the modules of the revisions."""

from __future__ import annotations

from types import ModuleType

from alembic.config import Config
from alembic.script import ScriptDirectory

from eventstore.resources import migrations_folder


def alembic_config() -> Config:
    """Return Alembic's configuration for our migrations."""
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    return config


def load_revision(revision: str) -> ModuleType:
    """Load the module of one of our revisions."""
    script = ScriptDirectory.from_config(alembic_config()).get_revision(revision)
    if script is None:
        raise LookupError(f"revision {revision} is missing")
    return script.module
