"""Statements of a replay have values in their texts, but no phone numbers: servers log the texts of those that fail."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pytest

from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection
from projections.rebuilding import table_ranges
from projections.rebuilding.as_of import build_as_of
from tests import folding, store
from tests.fault.proxy import PostgresProxy, target_of, through
from tests.fault.proxy_link import Link, Side
from tests.rebuilding import (
    ANY_REMOVAL,
    OptOuts,
    append_and_fold,
    damage_all,
    rebuild,
    replay_context,
    total_differences,
    verify,
)

PPNUM = b"1230000"
TEXTS = b"QP"
"""The messages that have the text of a statement."""


class ListeningProxy(PostgresProxy):
    """A proxy that keeps what clients send."""

    def __init__(self, url: str) -> None:
        super().__init__(*target_of(url))
        self.sent: defaultdict[Link, bytes] = defaultdict(bytes)

    def received(self, link: Link, side: Side, data: bytes) -> None:
        if side is not link.server:
            self.sent[link] += data
        super().received(link, side, data)

    def messages_with(self, kinds: bytes) -> Iterator[bytes]:
        """Yield the messages of some types, of all connections."""
        for sent in self.sent.values():
            at = int.from_bytes(sent[:4], "big")  # the first message of a connection has no type
            while at < len(sent):
                end = at + 1 + int.from_bytes(sent[at + 1 : at + 5], "big")
                if sent[at] in kinds:
                    yield sent[at:end]
                at = end


@pytest.mark.newest
@pytest.mark.parametrize("projection", [*READ_MODELS, OptOuts])
async def test_no_statement_of_a_replay_has_a_phone_number_in_its_text(
    database_url: str, projection: type[Projection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_ranges, "RANGE_BYTES", 2048)  # the bounds of ranges are keys
    async with store.connection(database_url, "reading") as conn, ListeningProxy(database_url) as proxy:
        if projection is OptOuts:
            await folding.create_tables_of(conn, projection)
        await append_and_fold(database_url, conn, projection)
        url = through(database_url, proxy.port)
        await damage_all(conn, projection, 0.5)
        assert total_differences(await verify(url, projection())) > 0
        assert total_differences(await rebuild(url, projection(), limits=ANY_REMOVAL)) > 0
        last = await store.value(conn, "SELECT event_id FROM eventstore.head")
        await build_as_of(replay_context(url), [projection()], str(last), "back_then", force=False)
        texts = list(proxy.messages_with(TEXTS))
        assert any(PPNUM in message for message in proxy.messages_with(b"B")), "no statement was about a person"
    assert sum(b"'" + projection.name.encode() + b"'" in text for text in texts) > 10
    assert [text for text in texts if PPNUM in text] == []
