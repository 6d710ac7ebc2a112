"""What every route is given: the readers of the database, and the parts of the run that this process runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from eventstore.waits import Waits
from projections.http.http_options import HttpOptions
from projections.http.http_settings import HttpSettings, load_http_settings
from projections.http.read_session import ReadSession
from projections.http.status_source import StatusSource
from projections.registry import Registry
from projections.running.run_parts import RunParts


@dataclass(frozen=True, slots=True)
class WebContext:
    """What every route is given.

    Attributes:
        url: the database.
        options: where the server listens, and whether personal data may be shown.
        registry: the projections of this code.
        waits: the timeouts.
        settings: when a projection counts as stalled.
        status: the state of the system.
        queries: a session for queries about one person or one request; one runs at a time.
        parts: what this process runs; empty for ``projections dashboard``.

    """

    url: str
    options: HttpOptions
    registry: Registry
    waits: Waits
    settings: HttpSettings
    status: StatusSource
    queries: ReadSession
    parts: RunParts = field(default_factory=RunParts)

    @classmethod
    def build(
        cls, url: str, waits: Waits, registry: Registry, options: HttpOptions, parts: RunParts | None = None
    ) -> WebContext:
        """Build the context for a database; it is connected to when somebody first looks.

        Raises:
            UsageError: a setting is not valid.

        """
        status, queries = StatusSource(ReadSession(url, waits, "status"), registry), ReadSession(url, waits, "queries")
        return cls(url, options, registry, waits, load_http_settings(), status, queries, parts or RunParts())

    async def close(self) -> None:
        """Close both sessions."""
        await self.status.close()
        await self.queries.close()
