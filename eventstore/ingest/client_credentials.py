"""The tokens of an OAuth2 client, fetched from an issuer with the client's credentials.

The token endpoint is read from the issuer's discovery document (RFC 8414); the form contains RFC 8707's ``resource``,
the API's address exactly as configured. Whatever an issuer sends, the result is a token, a refusal or a retry:
:class:`ClientCredentials` raises only :class:`CredentialsError`. The rules for credentials are in
``credential_rules.py``.

This module loads the HTTP and OAuth2 libraries. So it is imported only when an app's configuration needs it.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

import httpx2
from authlib.integrations.httpx_client import AsyncOAuth2Client

from eventstore.errors import CredentialsError, CredentialsRefused, IssuerUnavailable, UsageError
from eventstore.ingest.credential_rules import check_url, is_loopback, is_token
from eventstore.ingest.issuer_response import (
    REQUEST_HEADERS,
    InvalidResponse,
    IssuerResponse,
    read_response,
    token_lifetime,
)
from eventstore.redaction.redact import quoted, register_secret
from eventstore.waits import Waits

DISCOVERY = "/.well-known/openid-configuration"
DEFAULT_LIFETIME = 3600.0
"""A token's lifetime in seconds if the issuer does not state it: the lifetime of the platform's tokens."""

# Errors that an issuer would return again; any other error is retried.
_REFUSALS = {"invalid_client", "unauthorized_client", "invalid_request", "invalid_scope", "invalid_target"}
_REFUSALS |= {"unsupported_grant_type", "access_denied", "invalid_grant"}
_RETRIED_STATUSES = {408, 425, 429}  # the 4xx statuses that mean "later"
AUTH_METHODS = ("client_secret_basic", "client_secret_post")
"""How a client may send its secret, the preferred method first."""


class ClientCredentials:
    """The tokens of an OAuth2 client, fetched when needed and shortly before they expire.

    Args:
        issuer: the issuer's URL.
        client_id: the client.
        client_secret: its secret.
        resource: the API's address, sent exactly as configured.
        waits: ``issuer`` and ``token_margin`` count.
        tls: for a custom CA or a client certificate; None for the system's CAs.

    """

    def __init__(
        self,
        issuer: str,
        client_id: str,
        client_secret: str,
        resource: str,
        *,
        waits: Waits,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        register_secret(client_secret)
        check_url(issuer, "the issuer")
        self._issuer = issuer.rstrip("/")
        self._client_id = client_id
        self._client_secret = client_secret
        self._resource = resource
        self._waits = waits
        self._tls = tls
        self._token: str | None = None
        self._good_until = 0.0

    async def token(self) -> str:
        """Return the current token, or fetch one if there is none or it expires soon."""
        if self._token is None or time.monotonic() >= self._good_until:
            self._token = await self._fetch()
        return self._token

    async def renew(self) -> bool:
        """Return True: the next call fetches a new token."""
        self._token = None
        return True

    async def _fetch(self) -> str:
        try:
            async with asyncio.timeout(self._waits.issuer):
                answer = await self._ask()
            lifetime = token_lifetime(answer, DEFAULT_LIFETIME)
        except CredentialsError:
            raise
        except InvalidResponse as error:
            raise IssuerUnavailable(f"the issuer {self._issuer} {error}") from None
        except (TimeoutError, httpx2.TimeoutException):
            raise IssuerUnavailable(
                f"the issuer {self._issuer} does not answer within {self._waits.issuer:g} s"
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            reason = quoted(str(error)) or type(error).__name__
            raise IssuerUnavailable(f"the issuer {self._issuer} does not answer: {reason}") from None
        except Exception as error:  # noqa: BLE001 - an issuer may send anything, and any library may fail on it
            kind = type(error).__name__
            raise IssuerUnavailable(f"the issuer {self._issuer} sent an unreadable response: {kind}") from None
        token = answer.get("access_token")
        if not isinstance(token, str) or not is_token(token):
            raise IssuerUnavailable(f"the issuer {self._issuer} answered without an access_token")
        register_secret(token, expires=True)
        self._good_until = time.monotonic() + lifetime - self._waits.token_margin
        return token

    async def _ask(self) -> dict[str, Any]:
        async with AsyncOAuth2Client(
            self._client_id,
            self._client_secret,
            timeout=self._waits.issuer,
            headers=REQUEST_HEADERS,
            verify=self._tls if self._tls is not None else True,
            trust_env=not is_loopback(urlsplit(self._issuer).hostname or ""),  # no proxy to this machine
        ) as client:
            endpoint, method = await self._discover(client)
            form = {"grant_type": "client_credentials", "resource": self._resource}
            async with client.stream("POST", endpoint, data=form, auth=client.client_auth(method)) as response:
                answer = await read_response(response)
        return self._granted(answer)

    async def _discover(self, client: AsyncOAuth2Client) -> tuple[str, str]:
        async with client.stream("GET", self._issuer + DISCOVERY, withhold_token=True) as response:
            answer = await read_response(response)
        if not answer.is_success:
            raise self._by_status(answer.status)
        document = answer.document()
        self._check_issuer(document)
        endpoint = document.get("token_endpoint")
        if not isinstance(endpoint, str):
            raise InvalidResponse("sent a discovery document without a token_endpoint")
        methods = document.get("token_endpoint_auth_methods_supported") or [AUTH_METHODS[0]]
        if not isinstance(methods, list):
            raise InvalidResponse("sent an unreadable discovery document: its methods are not a list")
        method = next((method for method in AUTH_METHODS if method in methods), None)
        if method is None:
            raise CredentialsRefused(f"the issuer {self._issuer} accepts neither {' nor '.join(AUTH_METHODS)}")
        try:
            check_url(endpoint, "the token endpoint")
        except UsageError as error:
            raise CredentialsRefused(str(error)) from None
        return endpoint, method

    def _check_issuer(self, document: dict[str, Any]) -> None:
        """Compare the document's issuer with the configured one (RFC 8414, section 3.3), but for a trailing slash."""
        stated = document.get("issuer")
        if not isinstance(stated, str):
            raise InvalidResponse("sent a discovery document without an issuer")
        if stated.removesuffix("/") != self._issuer:
            raise CredentialsRefused(
                f"the discovery document of {self._issuer} belongs to another issuer, {quoted(stated)!r}: set"
                f" PAS_ISSUER (or issuer in projections.toml) to the issuer's own URL, or ask its operator"
            )

    def _granted(self, answer: IssuerResponse) -> dict[str, Any]:
        """Return the token endpoint's document; raise an error if it contains no token."""
        if answer.status >= 500:
            raise self._by_status(answer.status)
        try:
            document = answer.document()
        except InvalidResponse:
            if answer.is_success:
                raise
            raise self._by_status(answer.status) from None
        if "error" in document:
            error, description = document["error"], document.get("error_description")
            words = ": ".join(quoted(text) for text in (error, description) if isinstance(text, str))
            if isinstance(error, str) and error in _REFUSALS:
                raise CredentialsRefused(f"the issuer {self._issuer} refuses the client: {words}")
            raise IssuerUnavailable(f"the issuer {self._issuer} can't give a token now{words and f': {words}'}")
        if not answer.is_success:
            raise self._by_status(answer.status)
        return document

    def _by_status(self, status: int) -> CredentialsRefused | IssuerUnavailable:
        if status >= 500 or status in _RETRIED_STATUSES:
            return IssuerUnavailable(f"the issuer {self._issuer} can't answer now: HTTP {status}")
        sentence = f"the issuer {self._issuer} refused the request: HTTP {status}; check its address (PAS_ISSUER)"
        return CredentialsRefused(sentence, by_issuer=False)
