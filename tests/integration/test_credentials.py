"""Tokens of a real issuer: the requests, how long a token is used, and refusals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from eventstore.errors import CredentialsError, CredentialsRefused, IssuerUnavailable, UsageError
from eventstore.ingest.app_config import AppConfig
from eventstore.ingest.client_credentials import ClientCredentials
from eventstore.redaction import redact as redaction
from eventstore.waits import Waits
from tests.certificates import NO_AUTHORITIES
from tests.fix_issuer import (
    CLIENT_ID,
    CLIENT_SECRET,
    DISCOVERY,
    HANGS,
    TOKEN_PATH,
    Answer,
    CertificateFiles,
    Issuer,
)

IssuerFactory = Callable[..., Awaitable[Issuer]]
API = "https://api.example.com"
ODD_ADDRESSES = (
    API,
    f"{API}/",
    "https://API.Example.com:443/ext/",
    "https://api.example.com/ext//%7Eodd/a%2fb+c/",
    "https://api.example.com/ü/&resource=x/",
    "http://localhost:3203/ext/",
)


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_secrets", {})


def client_of(issuer: Issuer, *, resource: str = API, waits: Waits | None = None) -> ClientCredentials:
    tls = None if issuer.tls else NO_AUTHORITIES
    return ClientCredentials(issuer.url, CLIENT_ID, CLIENT_SECRET, resource, waits=waits or Waits(), tls=tls)


async def refusal_message(client: ClientCredentials, kind: type[CredentialsError]) -> str:
    """Return the message when the client gets no token; assert that it contains no secret."""
    with pytest.raises(CredentialsError) as caught:
        await client.token()
    assert type(caught.value) is kind
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert CLIENT_SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The request


@pytest.mark.parametrize("resource", ODD_ADDRESSES)
async def test_the_form_contains_the_address_byte_for_byte(issuer: Issuer, resource: str) -> None:
    assert await client_of(issuer, resource=resource).token() == issuer.tokens[0]
    (request,) = issuer.token_requests
    assert request.pairs == {"grant_type": "client_credentials", "resource": resource}
    assert request.headers["content-type"].startswith("application/x-www-form-urlencoded")


@pytest.mark.parametrize("resource", ODD_ADDRESSES)
async def test_the_form_of_a_configured_app_contains_the_address_too(issuer: Issuer, resource: str) -> None:
    config = AppConfig.model_validate(
        {"address": resource, "issuer": issuer.url, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    )
    await config.upstream("shop", waits=Waits()).tokens.token()
    assert issuer.token_requests[0].pairs["resource"] == resource


@pytest.mark.parametrize("path", ["", "/realms/business"])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_token_endpoint_is_read_from_the_discovery_document(
    issuer_factory: IssuerFactory, path: str, slash: str
) -> None:
    issuer = await issuer_factory(path=path)
    client = ClientCredentials(issuer.url + slash, CLIENT_ID, CLIENT_SECRET, API, waits=Waits())
    assert await client.token() == issuer.tokens[0]
    assert [(request.method, request.path) for request in issuer.requests] == [
        ("GET", path + DISCOVERY),
        ("POST", path + TOKEN_PATH),
    ]


@pytest.mark.parametrize(
    ("methods", "is_basic"),
    [
        (["client_secret_basic"], True),
        (["client_secret_post"], False),
        (["client_secret_post", "client_secret_basic"], True),
        (["private_key_jwt", "client_secret_post"], False),
        ([], True),
        (None, True),
    ],
)
async def test_the_secret_is_sent_by_a_method_that_the_issuer_supports(
    issuer_factory: IssuerFactory, methods: list[str] | None, is_basic: bool
) -> None:
    issuer = await issuer_factory(methods=methods)
    await client_of(issuer).token()
    (request,) = issuer.token_requests
    if is_basic:
        assert request.basic == f"{CLIENT_ID}:{CLIENT_SECRET}"
        assert request.pairs.keys() == {"grant_type", "resource"}
    else:
        assert request.basic is None
        assert request.pairs["client_secret"] == CLIENT_SECRET


async def test_an_issuer_without_a_supported_method_is_a_refusal(issuer_factory: IssuerFactory) -> None:
    issuer = await issuer_factory(methods=["private_key_jwt"])
    message = await refusal_message(client_of(issuer), CredentialsRefused)
    assert "accepts neither client_secret_basic nor client_secret_post" in message
    assert issuer.token_requests == []


# The lifetime of a token


@pytest.mark.parametrize(
    ("lifetime", "good_for"), [(3600, 3540), ("600", 540), (None, 3540), (0, 3540), (60, 0), (5, 0), (10**30, 86340)]
)
async def test_a_token_is_used_until_the_margin_before_its_expiry(
    issuer_factory: IssuerFactory, monkeypatch: pytest.MonkeyPatch, lifetime: object, good_for: float
) -> None:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("eventstore.ingest.client_credentials.time", SimpleNamespace(monotonic=lambda: clock.now))
    issuer = await issuer_factory(lifetime=lifetime)
    client = client_of(issuer)
    assert await client.token() == issuer.tokens[0]
    clock.now += good_for - 0.01
    if good_for:
        assert await client.token() == issuer.tokens[0]
        assert len(issuer.token_requests) == 1
    clock.now += 0.02
    assert await client.token() == issuer.tokens[1]


async def test_after_renew_a_new_token_is_fetched(issuer: Issuer) -> None:
    client = client_of(issuer)
    await client.token()
    assert await client.renew() is True
    assert await client.token() == issuer.tokens[1]


# Refusals and transient errors


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (Answer(401, {"error": "invalid_client"}), CredentialsRefused, "refuses the client: invalid_client"),
        (Answer(400, {"error": "invalid_target"}), CredentialsRefused, "refuses the client: invalid_target"),
        (Answer(200, {"error": "access_denied"}), CredentialsRefused, "refuses the client: access_denied"),
        (Answer(400, {"error": "temporarily_unavailable"}), IssuerUnavailable, "can't give a token now: temporarily"),
        (Answer(400, {"error": {"code": 7}}), IssuerUnavailable, "can't give a token now"),
        (Answer(400, {"error": None}), IssuerUnavailable, "can't give a token now"),
        (Answer(401, b"<html>"), CredentialsRefused, "HTTP 401; check its address"),
        (Answer(404, b"<html>"), CredentialsRefused, "HTTP 404; check its address"),
        (Answer(302, b"", (("Location", "https://other"),)), CredentialsRefused, "HTTP 302"),
        (Answer(429, b"slower"), IssuerUnavailable, "HTTP 429"),
        (Answer(500, {"error": "invalid_client"}), IssuerUnavailable, "HTTP 500"),
        (Answer(503, b""), IssuerUnavailable, "HTTP 503"),
        (Answer(200, b"\xff\x00garbage"), IssuerUnavailable, "sent an unreadable response"),
        (Answer(200, []), IssuerUnavailable, "sent an unreadable response"),
        (Answer(200, 7), IssuerUnavailable, "sent an unreadable response"),
        (Answer(200, {"access_token": "a", "expires_in": "soon"}), IssuerUnavailable, "sent an unreadable response"),
        (Answer(200, b'{"access_token": "a", "expires_in": 1e999}'), IssuerUnavailable, "sent an unreadable response"),
        (Answer(200, {"access_token": "a", "expires_in": [1]}), IssuerUnavailable, "sent an unreadable response"),
        (Answer(200, {}), IssuerUnavailable, "without an access_token"),
        (Answer(200, {"access_token": 7}), IssuerUnavailable, "without an access_token"),
        (Answer(200, {"access_token": "a\nb"}), IssuerUnavailable, "without an access_token"),
        (HANGS, IssuerUnavailable, "does not answer within 2 s"),
    ],
)
async def test_responses_of_the_token_endpoint_are_refusals_or_retried(
    issuer: Issuer, answer: Answer, kind: type[CredentialsError], words: str
) -> None:
    issuer.answers.append(answer)
    client = client_of(issuer, waits=Waits(issuer=2 if answer.hang else 60))
    assert words in await refusal_message(client, kind)
    assert await client.token() == issuer.tokens[0]  # and no token is kept


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (Answer(404, b""), CredentialsRefused, "HTTP 404; check its address (PAS_ISSUER)"),
        (Answer(301, b"", (("Location", "https://other"),)), CredentialsRefused, "HTTP 301"),
        (Answer(502, b""), IssuerUnavailable, "HTTP 502"),
        (Answer(200, b"<html>"), IssuerUnavailable, "sent an unreadable response"),
        (Answer(200, []), IssuerUnavailable, "it is not a JSON object"),
        (Answer(200, {"token_endpoint": 7}), IssuerUnavailable, "without a token_endpoint"),
        (Answer(200, {"token_endpoint": "http://id.example.com/"}), CredentialsRefused, "secrets in the clear"),
        (
            Answer(200, {"token_endpoint": "https://me:word@id.example.com/"}),
            CredentialsRefused,
            "user name or password",
        ),
        (Answer(200, {"token_endpoint": "https://xn--\u00ad.example/"}), IssuerUnavailable, "does not answer"),
        (HANGS, IssuerUnavailable, "does not answer within 2 s"),
    ],
)
async def test_responses_with_the_discovery_document_are_refusals_or_retried(
    issuer: Issuer, answer: Answer, kind: type[CredentialsError], words: str
) -> None:
    if isinstance(answer.body, dict):
        answer = replace(answer, body={"issuer": issuer.url} | answer.body)
    issuer.discovery = answer
    assert words in await refusal_message(client_of(issuer, waits=Waits(issuer=2 if answer.hang else 60)), kind)
    assert issuer.token_requests == []


@pytest.mark.parametrize(
    ("stated", "kind"),
    [
        ("https://other.example", CredentialsRefused),
        ("", CredentialsRefused),
        (None, IssuerUnavailable),
        (["https://other.example"], IssuerUnavailable),
        ("\ud800", CredentialsRefused),
    ],
)
async def test_a_discovery_document_of_another_issuer_is_refused(
    issuer: Issuer, stated: object, kind: type[CredentialsError]
) -> None:
    issuer.discovery = Answer(body={"issuer": stated, "token_endpoint": issuer.url + TOKEN_PATH})
    message = await refusal_message(client_of(issuer), kind)
    assert issuer.url in message
    if stated == "https://other.example":
        assert "belongs to another issuer, 'https://other.example'" in message
        assert "set PAS_ISSUER (or issuer in projections.toml)" in message
    assert issuer.token_requests == []


@pytest.mark.parametrize(("configured", "stated"), [("", "/"), ("/", ""), ("/", "/")])
async def test_a_slash_at_the_end_of_an_issuer_does_not_count(issuer: Issuer, configured: str, stated: str) -> None:
    issuer.discovery = Answer(body={"issuer": issuer.url + stated, "token_endpoint": issuer.url + TOKEN_PATH})
    client = ClientCredentials(
        issuer.url + configured, CLIENT_ID, CLIENT_SECRET, API, waits=Waits(), tls=NO_AUTHORITIES
    )
    assert await client.token() == issuer.tokens[0]


async def test_an_issuer_that_does_not_listen_is_retried(issuer_factory: IssuerFactory) -> None:
    issuer = await issuer_factory()
    issuer.port = 1
    assert "does not answer: All connection attempts failed" in await refusal_message(
        client_of(issuer), IssuerUnavailable
    )


async def test_secrets_that_an_issuer_repeats_are_not_in_the_message(issuer: Issuer) -> None:
    client = client_of(issuer)
    token = await client.token()
    await client.renew()
    echo = f"{CLIENT_SECRET} and {token}\nof 12300000001"
    issuer.answers.append(Answer(400, {"error": "invalid_client", "error_description": echo}))
    message = await refusal_message(client, CredentialsRefused)
    assert message.endswith("invalid_client: [hidden] and [hidden] of [hidden]")


# TLS


async def test_an_issuer_behind_a_custom_ca(issuer_factory: IssuerFactory, certificate_files: CertificateFiles) -> None:
    issuer = await issuer_factory(tls=certificate_files.server())
    settings = {"address": API, "issuer": issuer.url, "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}
    trusting = AppConfig.model_validate(settings | {"ca_file": certificate_files.certificate})
    assert await trusting.upstream("shop", waits=Waits()).tokens.token() == issuer.tokens[0]
    message = await refusal_message(client_of(issuer), IssuerUnavailable)
    assert "certificate verify failed" in message.lower()


@pytest.mark.parametrize("issuer_url", ["http://id.example.com", "http://10.0.0.1:8080", "id.example.com", "ftp://id"])
def test_a_secret_is_sent_unencrypted_to_this_machine_only(issuer_url: str) -> None:
    with pytest.raises(UsageError, match="the issuer"):
        ClientCredentials(issuer_url, CLIENT_ID, CLIENT_SECRET, API, waits=Waits())
