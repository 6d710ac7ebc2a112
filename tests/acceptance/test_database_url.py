"""The commands, migrate included, accept a database in every form that libpq accepts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote, urlsplit

import pytest

from projections.migrating.migrate import downgrade
from projections.migrating.schema_revision import head_revision
from tests.acceptance.command import Commands
from tests.databases import Server

FORMS = ("socket in a URL", "socket as keyword", "two hosts", "service", "service of PGSERVICE", "hostaddr")


@pytest.fixture(scope="module")
def last_revision_missing(postgres: Server) -> Iterator[str]:
    """The URL of a database that lacks the last revision, so that migrate has one to apply; tests get copies."""
    with postgres.database() as url:
        downgrade(url, "-1")
        yield url


@pytest.fixture
def to_migrate(postgres: Server, last_revision_missing: str) -> Iterator[str]:
    """The URL of a database of the test's own that lacks the last revision."""
    with postgres.copy(last_revision_missing) as url:
        yield url


@asynccontextmanager
async def unix_socket(host: str, port: int) -> AsyncIterator[str]:
    """Forward connections from a socket file to a server's port; yields the socket's folder."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(host, port)
        await asyncio.gather(pump(reader, to_server), pump(from_server, writer))

    # The path of a socket has at most 107 bytes.
    with TemporaryDirectory(prefix="pg") as folder:
        server = await asyncio.start_unix_server(serve, Path(folder) / ".s.PGSQL.5432")
        try:
            yield folder
        finally:
            server.close()


@pytest.mark.parametrize("form", FORMS)
async def test_the_commands_accept_what_libpq_accepts(commands: Commands, to_migrate: str, form: str) -> None:
    parts = urlsplit(to_migrate)
    host, port, database = parts.hostname or "", parts.port or 0, parts.path.lstrip("/")
    login = f"{parts.username}:{quote(parts.password or '', safe='')}"
    keywords = {"host": host, "port": port, "dbname": database, "user": parts.username, "password": parts.password}
    services = commands.folder / "services.conf"
    services.write_text("\n".join(["[main]", *(f"{key}={value}" for key, value in keywords.items())]) + "\n")
    async with unix_socket(host, port) as folder:
        variables = {
            "socket in a URL": {"DATABASE_URL": f"postgresql://{login}@{quote(folder, safe='')}/{database}"},
            "socket as keyword": {
                "DATABASE_URL": f"host={folder} dbname={database} user={parts.username} password={parts.password}"
            },
            "two hosts": {
                "DATABASE_URL": f"postgresql://{login}@127.0.0.1:1,{host}:{port}/{database}"
                "?target_session_attrs=read-write"
            },
            "service": {"DATABASE_URL": "service=main", "PGSERVICEFILE": str(services)},
            "service of PGSERVICE": {"PGSERVICE": "main", "PGSERVICEFILE": str(services)},
            "hostaddr": {"DATABASE_URL": f"postgresql://{login}@no.such.host:{port}/{database}?hostaddr={host}"},
        }[form]
        migrated = await commands.run("migrate", **variables)
        assert migrated.code == 0, migrated.transcript
        assert migrated.stderr_line.endswith(f" to revision {head_revision()}")
        status = await commands.run("status", "--json", **variables)
        assert status.code == 0, status.transcript
