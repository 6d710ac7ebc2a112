"""Addresses: host, port and path for gRPC, and no token is sent unencrypted over a network."""

from __future__ import annotations

import pytest

from eventstore.contracts import Contract
from eventstore.errors import UsageError
from eventstore.ingest.address import Address
from eventstore.ingest.credential_rules import is_loopback

METHOD = "/pcs.external.v1.MessageService/StreamSendRequestEvents"


@pytest.mark.parametrize(
    ("url", "target", "prefix", "secure"),
    [
        ("https://api.example", "api.example:443", "", True),
        ("https://api.example/", "api.example:443", "", True),
        ("https://api.example/ext", "api.example:443", "/ext", True),
        ("https://api.example/ext/", "api.example:443", "/ext", True),
        ("https://api.example/a/b", "api.example:443", "/a/b", True),
        ("https://api.example:8443/ext", "api.example:8443", "/ext", True),
        ("HTTPS://api.example", "api.example:443", "", True),
        ("https://10.0.0.1:9", "10.0.0.1:9", "", True),
        ("https://[2001:db8::1]:9/ext", "[2001:db8::1]:9", "/ext", True),
        ("http://localhost:3203", "localhost:3203", "", False),
        ("http://localhost", "localhost:80", "", False),
        ("http://127.0.0.1:3203/ext", "127.0.0.1:3203", "/ext", False),
        ("http://127.9.8.7:1", "127.9.8.7:1", "", False),
        ("http://[::1]:3203", "[::1]:3203", "", False),
    ],
)
def test_an_address_has_a_target_a_prefix_and_says_whether_to_use_tls(
    url: str, target: str, prefix: str, secure: bool
) -> None:
    address = Address.parse(url)
    assert (address.target, address.prefix, address.secure) == (target, prefix, secure)
    assert address.method(Contract.PCS_EXTERNAL_V1) == prefix + METHOD
    assert address.url == url, "OAuth's resource is the address byte for byte"


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example",
        "http://10.0.0.1:3203",
        "http://0.0.0.0:3203",
        "http://localhost.example:3203",
        "http://127.0.0.1.example",
        "http://[::2]:1",
        "http://2130706433",
    ],
)
def test_plaintext_is_for_loopback_only(url: str) -> None:
    with pytest.raises(UsageError, match="in the clear"):
        Address.parse(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example",
        "api.example:443",
        "grpc://api.example",
        "https://",
        "https:///ext",
        "https://api.example:port",
        "https://api.example:99999",
        "https://api.example:0",
        "https://[::1",
        "https://api.example/e xt",
        "https://api.example /ext",
        "https://api.example/\next",
        " https://api.example",
        "https://api.example?x=1",
        "https://api.example#x",
        "https://user@api.example",
        "https://user:hunter2@api.example",
    ],
)
def test_an_invalid_address_is_refused_in_one_sentence_without_secrets(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        Address.parse(url)
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("db.localhost", True),
        ("127.0.0.1", True),
        ("::1", True),
        ("notlocalhost", False),
        ("localhost.example", False),
        ("0.0.0.0", False),  # noqa: S104 - nothing is bound
        ("", False),
    ],
)
def test_loopback_is_recognised_by_the_name_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
