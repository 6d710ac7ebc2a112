"""How a follower reacts to each gRPC status, the message, and how long the upstream asks it to wait."""

from __future__ import annotations

import grpc
import pytest

from eventstore.contracts import Contract
from eventstore.errors import NoSuchService, TokenRefused, UpstreamError, UpstreamRefused, UpstreamUnavailable
from eventstore.ingest.address import Address
from eventstore.ingest.grpc_errors import ERROR_BY_STATUS, retry_after, upstream_error

Status = grpc.StatusCode
ADDRESS = Address.parse("https://api.example/ext")
NOT_TRANSIENT = {
    Status.UNAUTHENTICATED: TokenRefused,
    Status.PERMISSION_DENIED: UpstreamRefused,
    Status.NOT_FOUND: UpstreamRefused,
    Status.INVALID_ARGUMENT: UpstreamRefused,
    Status.UNIMPLEMENTED: NoSuchService,
}


def error_of(status: Status, details: str | None = "no", *trailing: tuple[str, str | bytes]) -> UpstreamError:
    return upstream_error(status, details, trailing, address=ADDRESS, contract=Contract.PCS_EXTERNAL_V1)


def test_every_status_has_an_error() -> None:
    assert set(ERROR_BY_STATUS) == set(Status)


@pytest.mark.parametrize("status", Status, ids=lambda status: status.name)
def test_only_five_statuses_are_not_transient(status: Status) -> None:
    error = error_of(status)
    assert type(error) is NOT_TRANSIENT.get(status, UpstreamUnavailable)
    assert error.status == status.name
    assert error.retry_after is None
    assert ADDRESS.url in str(error)
    assert status.name in str(error)


@pytest.mark.parametrize("status", Status, ids=lambda status: status.name)
def test_a_status_made_up_by_the_client_is_distinguished_from_the_platform_s(status: Status) -> None:
    assert error_of(status).by_platform
    http = error_of(status, "Received http2 header with status: 403")
    assert type(http) is NOT_TRANSIENT.get(status, UpstreamUnavailable)
    assert not http.by_platform
    assert "answered HTTP 403 without a gRPC status" in str(http)
    cut = error_of(status, "Stream removed (RST_STREAM (Received RST_STREAM with error code 12))")
    assert type(cut) is UpstreamUnavailable


def test_text_around_the_client_s_wording_means_that_the_platform_sent_it() -> None:
    assert error_of(Status.PERMISSION_DENIED, "no: Received http2 header with status: 403").by_platform


def test_a_missing_service_says_what_to_check() -> None:
    assert str(error_of(Status.UNIMPLEMENTED)).startswith(
        "no such service under https://api.example/ext, check the path"
    )


@pytest.mark.parametrize("details", [None, "", " \n "])
def test_a_status_without_details_has_a_message_too(details: str | None) -> None:
    assert str(error_of(Status.PERMISSION_DENIED, details)).endswith(": PERMISSION_DENIED")


def test_the_server_s_details_are_one_redacted_line_of_limited_length() -> None:
    text = str(error_of(Status.PERMISSION_DENIED, "for\n 12300000001\twith Bearer abc.def " + "x" * 10_000))
    assert "\n" not in text
    assert "12300000001" not in text
    assert "abc.def" not in text
    assert len(text) < 500


@pytest.mark.parametrize(
    ("trailing", "seconds"),
    [
        ([("retry-after", "7")], 7.0),
        ([("retry-after", b"7")], 7.0),
        ([("retry-after", " 7 ")], 7.0),
        ([("Retry-After", "0.5")], 0.5),
        ([("retry-after", "0")], 0.0),
        ([("retry-after-ms", "250")], 0.25),
        ([("retry-after-ms", "1500"), ("retry-after", "2")], 1.5),
        ([("retry-after", "2"), ("retry-after-ms", "1500")], 1.5),
        ([("retry-after-ms", "soon"), ("retry-after", "2")], 2.0),
        ([("other", "1"), ("retry-after", "3")], 3.0),
    ],
)
def test_the_seconds_that_the_upstream_asks_to_wait(trailing: list[tuple[str, str | bytes]], seconds: float) -> None:
    assert retry_after(trailing) == seconds
    assert error_of(Status.RESOURCE_EXHAUSTED, "no", *trailing).retry_after == seconds


@pytest.mark.parametrize(
    "value", ["", "soon", "-1", "nan", "inf", "-inf", "1e400", "Wed, 21 Oct 2026 07:28:00 GMT", b"\xff\xfe", "1\x002"]
)
@pytest.mark.parametrize("key", ["retry-after", "retry-after-ms"])
def test_invalid_values_ask_for_no_wait(key: str, value: str | bytes) -> None:
    assert retry_after([(key, value)]) is None
