"""For any events, and persons erased at any moment: counts stay, and live, rebuilt and verified rows are equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from tests import folding, oracle, rebuilding, store, stories
from tests.databases import Server
from tests.erasing import BUILT_IN, erase
from tests.oracle import Row
from tests.stories import Story


def renamed(rows: Mapping[str, Sequence[Row]], tokens: Mapping[str, str]) -> dict[str, list[Row]]:
    """Rows with tokens in place of numbers, and without the message_ids of erased persons."""
    found = {}
    for name, columns in oracle.COLUMNS.items():
        found[name] = oracle.sorted_rows(name, [_renamed(row, columns, tokens) for row in rows[name]])
    return found


def _renamed(row: Row, columns: Sequence[str], tokens: Mapping[str, str]) -> Row:
    values: dict[str, object] = dict(zip(columns, row, strict=True))
    number = values.get("ppnum")
    if isinstance(number, str) and number in tokens:
        values["ppnum"] = tokens[number]
        if "message_id" in values:
            values["message_id"] = None
    return tuple(values.values())


@dataclass(frozen=True)
class Moment:
    """After which batch of a delivery persons are erased, and who."""

    batch: int
    numbers: tuple[str, ...]
    app: str | None


moments = st.lists(
    st.builds(
        Moment,
        batch=st.integers(0, 20),
        numbers=st.lists(st.sampled_from(stories.PEOPLE), min_size=1, max_size=3, unique=True).map(tuple),
        app=st.sampled_from((None, None, stories.APPS[0])),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(story=stories.stories(max_size=12), erasures=moments, folded=st.sampled_from((1, 2, 100)))
async def test_counts_stay_and_live_rebuilt_and_verified_rows_are_equal(
    postgres: Server, story: Story, erasures: list[Moment], folded: int
) -> None:
    with postgres.database() as url:
        async with store.connection(url) as conn, folding.open_workers(url, batch_size=folded) as fold:
            for number, batch in enumerate(story.delivery):
                for moment in [one for one in erasures if one.batch == number]:
                    await assert_erased(conn, url, moment)
                await folding.append(conn, *batch)
                if number % folded == 0:
                    await fold()
            await fold()
            for moment in [one for one in erasures if one.batch >= len(story.delivery)]:
                await assert_erased(conn, url, moment)
            await folding.assert_rows_match_oracle(conn)
            assert await store.value(conn, "SELECT count(*) FROM eventstore.quarantine") == 0
            assert list((await store.positions(conn)).values()) == list(range(1, len(story.events) + 1))
            for projection in BUILT_IN.values():
                assert (await rebuilding.verify(url, projection)).equal
                again = await rebuilding.rebuild(url, projection)
                assert rebuilding.total_differences(again) == 0


async def assert_erased(conn: AsyncConnection, url: str, moment: Moment) -> None:
    """Erase persons, and assert that nothing changed but their numbers and message_ids."""
    rows, records = await folding.read_model_rows(conn), await folding.stored_records(conn)
    done = await erase(url, *moment.numbers, app=moment.app)
    tokens = {person.ppnum: person.token for person in done.persons}
    expected = [
        replace(one, ppnum=tokens[one.ppnum], message_id=None)
        if one.ppnum in tokens and moment.app in (None, one.app)
        else one
        for one in records
    ]
    assert await folding.stored_records(conn) == expected
    if moment.app is None:
        assert await folding.read_model_rows(conn) == renamed(rows, tokens)
    counts = {number: sum(one.ppnum == token for one in expected) for number, token in tokens.items()}
    found = {done.persons[index].ppnum: dict(rows)["eventstore.events"] for index, rows in done.rows.items()}
    assert found == {number: count for number, count in counts.items() if count}
    assert done.need_rebuild == set()
