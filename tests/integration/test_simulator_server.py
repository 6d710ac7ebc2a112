"""The simulator as a client sees it: replay, cursor, filter, token, keep-alives, refusals, request status."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TypeAlias

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from eventstore import ulid
from eventstore.contracts import Contract, FrameKind, encode_request, read_frame
from eventstore.contracts._generated.pcs.external.v1 import message_service_pb2 as pcs
from eventstore.errors import UsageError
from projections.sandbox.simulator import ALL_CONTRACTS, ServerTls, SimulatedEvent, Simulator, SimulatorSettings
from tests.fix_simulator import (
    BEGINNING,
    LOG,
    TOKEN,
    SimulatorFactory,
    entries_of,
    final_status,
    open_stream,
    payloads,
    read_events,
    read_message,
)

CHAT, PCS = Contract.CHAT_EXTERNAL, Contract.PCS_EXTERNAL_V1
STATUS_METHOD = "/pcs.external.v1.MessageService/GetSendRequestStatus"
QUICK = SimulatorSettings(keep_alive=0.02)
Method: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"

# Replay, tail, cursor, filter


async def test_chat_external_replays_everything_without_a_cursor_byte_for_byte(
    simulator_factory: SimulatorFactory,
) -> None:
    simulator = await simulator_factory(LOG)
    async with open_stream(simulator, CHAT) as call:
        expected = payloads(entries_of(CHAT), CHAT)
        assert await read_events(call, CHAT, len(expected)) == expected


async def test_without_a_cursor_pcs_sends_later_events_only(simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory(LOG, QUICK)
    async with open_stream(simulator, PCS) as call:
        assert read_frame(PCS, await read_message(call)).kind is FrameKind.KEEP_ALIVE
        await simulator.append(SimulatedEvent(LOG[0].event_id, "", {PCS: b"later"}))
        assert await read_events(call, PCS, 1) == [b"later"]


async def test_pcs_replays_from_a_made_up_cursor_byte_for_byte(simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory(LOG)
    async with open_stream(simulator, PCS, BEGINNING) as call:
        expected = payloads(entries_of(PCS), PCS)
        assert await read_events(call, PCS, len(expected)) == expected


@pytest.mark.parametrize("contract", Contract)
async def test_a_cursor_in_the_log_resumes_after_its_event(
    simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    simulator = await simulator_factory(LOG)
    log = entries_of(contract)
    async with open_stream(simulator, contract, log[99].event_id) as call:
        assert await read_events(call, contract, len(log) - 100) == payloads(log[100:], contract)


async def test_a_cursor_in_the_log_resumes_by_log_order_and_another_one_by_ulid(
    simulator_factory: SimulatorFactory,
) -> None:
    ids = [ulid.first_ulid_at(datetime(2026, 1, day, tzinfo=UTC)) for day in (10, 30, 12, 20)]
    log = [SimulatedEvent(event_id, "", {CHAT: event_id.encode()}) for event_id in ids]
    simulator = await simulator_factory(log)
    async with open_stream(simulator, CHAT, ids[1]) as call:
        assert await read_events(call, CHAT, 2) == [ids[2].encode(), ids[3].encode()]
    async with open_stream(simulator, CHAT, ulid.first_ulid_at(datetime(2026, 1, 15, tzinfo=UTC))) as call:
        assert await read_events(call, CHAT, 2) == [ids[1].encode(), ids[3].encode()]
        await simulator.append(SimulatedEvent(ids[0], "", {CHAT: b"old, but new here"}))
        assert await read_events(call, CHAT, 1) == [b"old, but new here"]


@pytest.mark.parametrize("contract", Contract)
async def test_the_filter_returns_the_events_of_one_request(
    simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    simulator = await simulator_factory(LOG)
    request = LOG[0].send_request_id
    expected = payloads([entry for entry in entries_of(contract) if entry.send_request_id == request], contract)
    async with open_stream(simulator, contract, BEGINNING, request) as call:
        assert await read_events(call, contract, len(expected)) == expected
        await simulator.append(
            SimulatedEvent(LOG[0].event_id, LOG[-1].send_request_id, {contract: b"other"}),
            SimulatedEvent(LOG[0].event_id, request, {contract: b"this"}),
        )
        assert await read_events(call, contract, 1) == [b"this"]


async def test_an_event_of_one_contract_is_not_in_the_other_s_log(simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory()
    async with open_stream(simulator, CHAT) as chat, open_stream(simulator, PCS, BEGINNING) as framed:
        await simulator.wait_for_calls(2)
        await simulator.append(
            SimulatedEvent(LOG[0].event_id, "", {PCS: b"1"}), SimulatedEvent(LOG[1].event_id, "", {CHAT: b"2"})
        )
        assert await read_events(chat, CHAT, 1) == [b"2"]
        assert await read_events(framed, PCS, 1) == [b"1"]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 3_000_000])
async def test_frames_carry_payloads_of_any_size(simulator_factory: SimulatorFactory, size: int) -> None:
    simulator = await simulator_factory([SimulatedEvent(LOG[0].event_id, "", {PCS: b"x" * size})])
    async with open_stream(simulator, PCS, BEGINNING) as call:
        frame = pcs.SendRequestEventFrame
        message = await read_message(call)
        assert message.endswith(b"x" * size)
        assert frame(event=pcs.SendRequestEvent()).SerializeToString() == b"\x0a\x00"
        assert read_frame(PCS, message).data == b"x" * size


async def test_at_a_rate_the_log_grows_and_then_ends(simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory(LOG, SimulatorSettings(rate=2_000, end_at_log_end=True))
    assert len(simulator.entries(CHAT)) < len(LOG)
    async with open_stream(simulator, CHAT) as call:
        expected = payloads(entries_of(CHAT), CHAT)
        assert await read_events(call, CHAT, len(expected)) == expected
        assert await final_status(call) is grpc.StatusCode.OK


# Expired cursors, keep-alives


async def test_pcs_reports_once_that_a_cursor_expired_and_continues_with_later_events(
    simulator_factory: SimulatorFactory,
) -> None:
    simulator = await simulator_factory(LOG, QUICK)
    async with open_stream(
        simulator, PCS, ulid.first_ulid_at(datetime.now(UTC) - timedelta(days=7, minutes=1))
    ) as call:
        frame = read_frame(PCS, await read_message(call))
        assert frame.kind is FrameKind.CURSOR_EXPIRED
        assert "replay window" in frame.detail
        assert read_frame(PCS, await read_message(call)).kind is FrameKind.KEEP_ALIVE
        await simulator.append(LOG[0])
        assert await read_events(call, PCS, 1) == payloads(LOG[:1], PCS)


async def test_chat_external_replays_from_a_cursor_of_any_age(simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory(LOG)
    async with open_stream(simulator, CHAT, "0" * 26) as call:
        assert await read_events(call, CHAT, 1) == payloads(LOG[:1], CHAT)


async def test_pcs_keeps_the_stream_alive_and_chat_external_does_not(simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory((), QUICK)
    async with open_stream(simulator, PCS) as framed, open_stream(simulator, CHAT) as bare:
        assert [await read_message(framed) for _ in range(3)] == [b"\x12\x00"] * 3
        await simulator.append(SimulatedEvent(LOG[0].event_id, "", {CHAT: b"first"}))
        assert await read_message(bare) == b"first"


def test_the_default_times_are_the_vendor_s() -> None:
    settings = SimulatorSettings()
    assert (settings.keep_alive, settings.replay_window) == (20, 7 * 24 * 3600)


# Refusals


@pytest.mark.parametrize("contract", Contract)
@pytest.mark.parametrize("token", [None, "wrong"])
async def test_a_call_without_the_token_is_unauthenticated(
    simulator_factory: SimulatorFactory, contract: Contract, token: str | None
) -> None:
    simulator = await simulator_factory(LOG)
    async with open_stream(simulator, contract, token=token) as call:
        assert await final_status(call) is grpc.StatusCode.UNAUTHENTICATED
    assert simulator.calls[0].ended is grpc.StatusCode.UNAUTHENTICATED


async def test_after_a_change_of_the_token_the_old_one_is_refused(simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory(LOG, SimulatorSettings(end_at_log_end=True))
    simulator.token = "newer"
    async with open_stream(simulator, CHAT) as call:
        assert await final_status(call) is grpc.StatusCode.UNAUTHENTICATED
    async with open_stream(simulator, CHAT, token="newer") as call:
        assert await final_status(call) is grpc.StatusCode.OK


@pytest.mark.parametrize("contract", Contract)
@pytest.mark.parametrize("raw", [encode_request("nonsense"), encode_request(None, "x"), encode_request(""), b"\xff"])
async def test_a_text_that_is_not_a_ulid_is_an_invalid_argument(
    simulator_factory: SimulatorFactory, contract: Contract, raw: bytes
) -> None:
    simulator = await simulator_factory(LOG)
    async with open_stream(simulator, contract, raw=raw) as call:
        assert await final_status(call) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("contract", Contract)
async def test_a_contract_that_is_not_served_is_unimplemented(
    simulator_factory: SimulatorFactory, contract: Contract
) -> None:
    simulator = await simulator_factory(LOG, SimulatorSettings(contracts=ALL_CONTRACTS - {contract}))
    async with open_stream(simulator, contract) as call:
        assert await final_status(call) is grpc.StatusCode.UNIMPLEMENTED


async def test_behind_a_prefix_only_the_prefixed_path_is_served(simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory(LOG, SimulatorSettings(prefix="/ext"))
    assert simulator.address == f"http://127.0.0.1:{simulator.port}/ext"
    async with open_stream(simulator, CHAT) as call:
        assert await read_events(call, CHAT, 1) == payloads(LOG[:1], CHAT)
    simulator.settings = replace(simulator.settings, prefix="")
    async with open_stream(simulator, CHAT) as call:
        assert await final_status(call) is grpc.StatusCode.UNIMPLEMENTED


async def test_a_port_in_use_is_reported_in_one_sentence(simulator_factory: SimulatorFactory) -> None:
    simulator = await simulator_factory()
    with pytest.raises(UsageError, match=f"port {simulator.port}: Address already in use"):
        await Simulator((), SimulatorSettings(port=simulator.port)).start()


# TLS


def self_signed() -> tuple[bytes, bytes]:
    """Return a certificate for 127.0.0.1 and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "simulator")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    address = x509.IPAddress(ip_address("127.0.0.1"))
    builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return builder.sign(key, hashes.SHA256()).public_bytes(pem), private


async def test_tls_works_with_and_without_a_required_client_certificate(simulator_factory: SimulatorFactory) -> None:
    certificate, key = self_signed()
    simulator = await simulator_factory(LOG, SimulatorSettings(tls=ServerTls(certificate, key, client_ca=certificate)))
    assert simulator.address == f"https://127.0.0.1:{simulator.port}"
    shown = grpc.ssl_channel_credentials(certificate, key, certificate)
    async with open_stream(simulator, CHAT, credentials=shown) as call:
        assert await read_events(call, CHAT, 1) == payloads(LOG[:1], CHAT)
    async with open_stream(simulator, CHAT, credentials=grpc.ssl_channel_credentials(certificate)) as call:
        assert await final_status(call) is grpc.StatusCode.UNAVAILABLE


# GetSendRequestStatus


async def get_status(simulator: Simulator, send_request_id: str, token: str = TOKEN) -> bytes:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{simulator.port}") as channel:
        method: Method = channel.unary_unary(STATUS_METHOD)
        request = pcs.GetSendRequestStatusRequest(id=send_request_id).SerializeToString()
        return await method(request, metadata=(("authorization", f"Bearer {token}"),))


async def test_the_status_of_a_request_has_the_current_states_of_its_recipients(
    simulator_factory: SimulatorFactory,
) -> None:
    simulator = await simulator_factory(LOG)
    answer = pcs.GetSendRequestStatusResponse.FromString(await get_status(simulator, LOG[0].send_request_id))
    states = {recipient.ppnum: recipient.status for recipient in answer.recipients}
    assert answer.request.id == LOG[0].send_request_id
    assert answer.request.status == pcs.SendRequestSummary.COMPLETED
    assert answer.request.total_recipients == len(states) == 50
    assert (answer.request.delivered + answer.request.failed, answer.request.pending_consent) == (50, 0)
    assert [states[f"1230000000{number}"] for number in (1, 2, 3, 4)] == [2, 2, 4, 4]


@pytest.mark.parametrize(
    ("send_request_id", "token", "code"),
    [
        (BEGINNING, "simulator", grpc.StatusCode.NOT_FOUND),
        ("nonsense", "simulator", grpc.StatusCode.INVALID_ARGUMENT),
        (BEGINNING, "wrong", grpc.StatusCode.UNAUTHENTICATED),
    ],
    ids=["unknown", "nonsense", "without the token"],
)
async def test_the_status_of_an_unknown_request_is_refused(
    simulator_factory: SimulatorFactory, send_request_id: str, token: str, code: grpc.StatusCode
) -> None:
    simulator = await simulator_factory(LOG)
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await get_status(simulator, send_request_id, token)
    assert refusal.value.code() is code
