"""Any bytes are refused with a reason, or decoded to values that Postgres stores and returns unchanged."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import AsyncConnection

from eventstore import ulid
from eventstore.appending.append import Appender
from eventstore.contracts import Contract, Event, FrameKind, decode, read_frame
from eventstore.contracts.times import EARLIEST, LATEST
from eventstore.errors import Undecodable
from eventstore.event_reader import read
from tests import store, wire

contracts = st.sampled_from(list(Contract))
ids = st.builds(wire.ulid_of, st.integers(0, 2**48 - 1), st.integers(0, 2**80 - 1))
numbers = st.one_of(
    st.sampled_from([0, 1, -1, 2**31 - 1, 2**31, 2**32 + 5, 2**63 - 1, -(2**63)]), st.integers(-(2**63), 2**63 - 1)
)
texts = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=20),
    st.integers(250, 260).map(lambda length: "x" * length),
    st.sampled_from(["", "\0", "é" * 128, "é" * 129, b"\xed\xa0\x80", "\ud7ff", "\U0010ffff", '{"}', "\\N", "NULL"]),
)
maybe_texts = st.none() | texts
times = st.one_of(
    st.none(),
    st.binary(max_size=30),
    st.builds(wire.timestamp, numbers, numbers),
    st.builds(wire.timestamp, st.integers(-62_135_596_900, 253_402_301_000), st.integers(-1, 10**9)),
    st.datetimes().map(lambda moment: f"{moment.isoformat()}Z"),
    st.from_regex(
        rb"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:00)"
    ),
)
recipients = st.builds(
    wire.recipient,
    maybe_texts,
    message_id=maybe_texts,
    error_code=maybe_texts,
    recipient_id=maybe_texts,
    created_at=times,
)
summaries = st.builds(wire.summary, numbers, numbers, numbers, numbers, status=numbers, created_at=times)
good_counts = st.integers(0, 2**31 - 1)
good_summaries = st.builds(
    wire.summary, good_counts, good_counts, good_counts, good_counts, created_at=times, completed_at=times
)
polls = st.builds(lambda poll_id, options: wire.poll(poll_id, *options), maybe_texts, st.lists(texts, max_size=4))
good_texts = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=64)
good_recipients = st.builds(wire.recipient, good_texts, message_id=good_texts, error_code=good_texts)


def events_with(recipient: st.SearchStrategy[bytes | None]) -> st.SearchStrategy[bytes]:
    """Return a strategy for events, most of which can't be decoded."""
    return st.builds(
        wire.event,
        st.one_of(ids, ids, texts),
        st.one_of(st.none(), st.integers(-1, 10), numbers),
        send_request_id=maybe_texts,
        recipient=recipient,
        summary=st.none() | summaries | good_summaries,
        occurred_at=times,
        poll_response=st.none() | polls | st.binary(max_size=20),
        more=st.binary(max_size=3),
    )


def good_events_with(recipient: st.SearchStrategy[bytes | None]) -> st.SearchStrategy[bytes]:
    """Return a strategy for events that can be decoded, if their recipient can be."""
    return st.builds(
        wire.event,
        ids,
        st.integers(-(2**31), 2**31 - 1),
        send_request_id=good_texts,
        recipient=recipient,
        summary=st.none() | good_summaries,
        occurred_at=st.datetimes(EARLIEST.replace(tzinfo=None), LATEST.replace(tzinfo=None) - timedelta(seconds=1)).map(
            lambda moment: f"{moment.isoformat()}Z"
        ),
        poll_response=st.none() | polls,
    )


events = events_with(st.none() | recipients)
good_events = good_events_with(st.none() | good_recipients)


@st.composite
def mutated(draw: st.DrawFn, good: st.SearchStrategy[bytes] = good_events) -> bytes:
    """A good event with a few bytes changed, removed, inserted or repeated."""
    data = bytearray(draw(good))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(start + 8, len(data))))
        match draw(st.sampled_from(["change", "drop", "insert", "repeat", "cut"])):
            case "change":
                data[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
            case "drop":
                del data[start:end]
            case "insert":
                data[start:start] = draw(st.binary(max_size=8))
            case "repeat":
                data[start:start] = data[start:end]
            case _:
                del data[start:]
    return bytes(data)


anything = st.one_of(st.binary(max_size=200), events, mutated(), good_events)
slow_start = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


def decoded(payload: bytes, contract: Contract) -> Event | None:
    try:
        return decode(payload, "app", contract)
    except Undecodable as caught:
        error = caught
    assert error.reason
    assert error.event_id is None or ulid.is_ulid(error.event_id)
    return None


@settings(slow_start, max_examples=1500)
@given(anything, contracts)
@example(b"", Contract.CHAT_EXTERNAL)
@example(wire.tag(4, wire.GROUP) * 200, Contract.PCS_EXTERNAL_V1)
def test_any_bytes_are_refused_with_a_reason_or_decoded_within_the_limits(payload: bytes, contract: Contract) -> None:
    event = decoded(payload, contract)
    if event is None:
        return
    assert event.payload == payload
    assert ulid.is_ulid(event.event_id)
    assert EARLIEST <= event.occurred_at < LATEST
    assert event.occurred_at.utcoffset() == timedelta(0)
    assert -(2**31) <= event.event_type < 2**31
    for text in (event.send_request_id, event.ppnum, event.message_id, event.poll_id):
        assert text is None or (len(text.encode()) <= 256 and "\0" not in text)
    assert len((event.error_code or "").encode()) <= 4096
    assert len(event.poll_options or []) <= 1000
    for option in event.poll_options or []:
        assert len(option.encode()) <= 2000
        assert "\0" not in option
    assert (event.poll_options is None) == (event.poll_id is None)
    for count in (event.total_recipients, event.delivered, event.failed, event.pending_consent):
        assert count is None or 0 <= count < 2**31


@settings(slow_start, max_examples=300)
@given(good_events, contracts)
def test_a_valid_event_is_never_refused(payload: bytes, contract: Contract) -> None:
    assert decoded(payload, contract) is not None


@settings(slow_start, max_examples=500)
@given(
    st.one_of(st.binary(max_size=100), st.builds(wire.frame, events), st.builds(wire.cursor_expired, texts)), contracts
)
def test_any_message_is_read_as_a_frame(message: bytes, contract: Contract) -> None:
    frame = read_frame(contract, message)
    assert frame.kind in FrameKind
    if contract is Contract.CHAT_EXTERNAL:
        assert frame.data == message
    frame.detail.encode()
    assert "\0" not in frame.detail


@settings(slow_start, max_examples=120)
@given(batches=st.lists(st.tuples(anything | good_events, contracts), min_size=1, max_size=12))
async def test_a_decoded_event_can_be_stored_and_is_read_back_equal(
    conn: AsyncConnection, batches: list[tuple[bytes, Contract]]
) -> None:
    found = [event for payload, contract in batches if (event := decoded(payload, contract)) is not None]
    first = list({event.event_id: event for event in reversed(found)}.values())
    async with conn.transaction(force_rollback=True):
        appender = Appender(conn, store.QUICK)
        if first:
            assert (await appender.append(first)).stored == len(first)
        assert [item.event async for item in read(conn)] == first
