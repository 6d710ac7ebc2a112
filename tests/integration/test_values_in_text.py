"""Statements of replays have values in their texts, but nothing personal: servers log the texts of those that fail."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import pytest

from eventstore.contracts import Event
from projections.errors import CannotFold
from projections.folding.python_projection import Row, Tombstone
from projections.migrating.metadata import READ_MODELS
from projections.projection import Projection
from projections.read_models.consent_registry import ConsentRegistry
from projections.read_models.request_status import RequestStatus
from projections.rebuilding import table_ranges
from projections.rebuilding.as_of import build_as_of
from tests import folding, store
from tests.erasing import KEY, erase
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
VALUES = b"Bd"
"""Those that have values: of a statement's parameters, or of COPY."""
RANGED = {RequestStatus, ConsentRegistry}
SENDS_NUMBERS = {*RANGED, OptOuts}
"""Whose replays send phone numbers: as bounds of ranges of keys, or in rows of a fold in Python."""


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


def assert_in_no_text(proxy: ListeningProxy, personal: bytes) -> None:
    """Assert that something personal was never in a statement's text."""
    assert [text for text in proxy.messages_with(TEXTS) if personal in text] == []


def assert_sent(proxy: ListeningProxy, personal: bytes) -> None:
    """Assert that it was sent at all, as a value."""
    assert any(personal in message for message in proxy.messages_with(VALUES))


@pytest.mark.folded
@pytest.mark.newest
@pytest.mark.parametrize("projection", [*READ_MODELS, OptOuts])
async def test_no_statement_of_a_replay_has_a_phone_number_in_its_text(
    database_url: str, projection: type[Projection], monkeypatch: pytest.MonkeyPatch
) -> None:
    if projection in RANGED:
        monkeypatch.setattr(table_ranges, "RANGE_BYTES", 2048)  # the bounds of ranges are keys
    async with store.connection(database_url, "reading") as conn, ListeningProxy(database_url) as proxy:
        if projection is OptOuts:
            await folding.create_tables_of(conn, projection)
            await folding.fold_all(database_url, [projection])
        url = through(database_url, proxy.port)
        await damage_all(conn, projection, 0.5)
        assert total_differences(await verify(url, projection())) > 0
        assert total_differences(await rebuild(url, projection(), limits=ANY_REMOVAL)) > 0
        last = await store.value(conn, "SELECT event_id FROM eventstore.head")
        await build_as_of(replay_context(url), [projection()], str(last), "back_then", force=False)
        if projection in SENDS_NUMBERS:
            assert_sent(proxy, PPNUM)
        assert_in_no_text(proxy, PPNUM)
        name = b"'" + projection.name.encode() + b"'"
        assert sum(name in text for text in proxy.messages_with(TEXTS)) > 10, "values are not in the texts"


@pytest.mark.folded
@pytest.mark.newest
async def test_no_statement_of_an_erase_has_a_phone_number_in_its_text(database_url: str) -> None:
    async with ListeningProxy(database_url) as proxy:
        done = await erase(through(database_url, proxy.port), f"{PPNUM.decode()}0101", key=KEY)
        assert len(done.persons) == 1
        assert_sent(proxy, PPNUM)
        assert_in_no_text(proxy, PPNUM)


class Refuses(OptOuts):
    """Its fold raises what only the event knows."""

    def handle(self, event: Event) -> Iterable[Row | Tombstone]:
        raise ValueError(f"the secret of {event.send_request_id}")


@pytest.mark.newest
async def test_the_text_of_a_folds_exception_is_in_no_statements_text(database_url: str) -> None:
    async with store.connection(database_url, "reading") as conn, ListeningProxy(database_url) as proxy:
        await folding.create_tables_of(conn, OptOuts)
        await append_and_fold(database_url, conn, OptOuts)
        with pytest.raises(CannotFold, match="the secret"):
            await rebuild(through(database_url, proxy.port), Refuses())
        assert_sent(proxy, b"the secret")
        assert_in_no_text(proxy, b"the secret")
