"""Where bearer tokens come from: a fixed one, a file, or OAuth2 client credentials.

The token endpoint is read from the issuer's discovery document (RFC 8414); the form carries RFC 8707's ``resource``,
the address of the API byte for byte.
"""

from __future__ import annotations

import asyncio
import math
import ssl
import time
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.httpx_client import AsyncOAuth2Client

from eventstore.errors import ConfigurationError, CredentialsRefused, IssuerUnavailable
from eventstore.ingest.address import is_loopback
from eventstore.redact import redact, register_secret
from eventstore.waits import Waits

DISCOVERY = "/.well-known/openid-configuration"
DEFAULT_LIFETIME = 3600.0
"""Seconds a token is taken to live when the issuer doesn't say: what the platform's live."""

# What an issuer says when it will say the same again; anything else may pass.
_REFUSALS = {"invalid_client", "unauthorized_client", "invalid_request", "invalid_scope", "invalid_target"}
_REFUSALS |= {"unsupported_grant_type", "access_denied", "invalid_grant"}
_PASSING = {408, 425, 429}  # of the 4xx, those that mean: later
AUTH_METHODS = ("client_secret_basic", "client_secret_post")
"""How a client may show its secret, the one we would rather use first."""


class TokenSource(Protocol):
    """Gives bearer tokens."""

    async def token(self) -> str:
        """Return a token that is good now, as far as this side can know.

        Raises:
            CredentialsError: none can be had.

        """
        ...

    async def renew(self) -> bool:
        """Forget a token that was refused; returns False when there is no other to be had."""
        ...


class FixedToken:
    """One token, for as long as it is taken; white space around it doesn't count.

    Raises:
        ConfigurationError: it can't be a token.

    """

    def __init__(self, token: str) -> None:
        register_secret(token)
        if not is_token(token.strip()):
            raise ConfigurationError("the token can't be one: it is empty, or holds white space or other than ASCII")
        self._token = token.strip()
        register_secret(self._token)

    async def token(self) -> str:
        """Return the token."""
        return self._token

    async def renew(self) -> bool:
        """Return False: there is no other."""
        return False


class FileToken:
    """A token that something else keeps fresh in a file, which is read on every dial."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        """Return what the file holds, without white space around it.

        Raises:
            CredentialsRefused: the file can't be read, or is empty.

        """
        try:
            token = self._path.read_text().strip()  # a few bytes of a local file
        except (OSError, UnicodeDecodeError):
            raise CredentialsRefused(f"the token file {self._path} can't be read") from None
        if not is_token(token):
            raise CredentialsRefused(f"the token file {self._path} holds no token")
        register_secret(token)
        return token

    async def renew(self) -> bool:
        """Return True: the file may hold another by now."""
        return True


class ClientCredentials:
    """Tokens of an OAuth2 client, fetched when needed and shortly before they expire.

    Args:
        issuer: the issuer's URL.
        client_id: the client.
        client_secret: its secret.
        resource: the address of the API, sent as it was given.
        waits: ``issuer`` and ``token_margin`` count.
        tls: for a custom CA or a client certificate; None for the system's trust.

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
        self._issuer = require_safe(issuer, "the issuer").rstrip("/")
        self._client_id = client_id
        self._client_secret = client_secret
        self._resource = resource
        self._waits = waits
        self._tls = tls
        self._token: str | None = None
        self._good_until = 0.0

    async def token(self) -> str:
        """Return the token at hand, or fetch one when there is none or it expires soon."""
        if self._token is None or time.monotonic() >= self._good_until:
            self._token = await self._fetch()
        return self._token

    async def renew(self) -> bool:
        """Return True: the next token is fetched anew."""
        self._token = None
        return True

    async def _fetch(self) -> str:
        try:
            async with asyncio.timeout(self._waits.issuer):
                answer = await self._ask()
        except OAuthError as error:
            said = redact(" ".join(f"{error.error}: {error.description or ''}".split()))[:300].rstrip(": ")
            if str(error.error) in _REFUSALS:
                raise CredentialsRefused(f"the issuer {self._issuer} refuses the client: {said}") from None
            raise IssuerUnavailable(f"the issuer {self._issuer} gives no token now: {said}") from None
        except httpx2.HTTPStatusError as error:
            raise self._by_status(error.response.status_code) from None
        except (TimeoutError, httpx2.TimeoutException):
            raise IssuerUnavailable(
                f"the issuer {self._issuer} does not answer within {self._waits.issuer:g} s"
            ) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            reason = redact(" ".join(str(error).split()))[:300] or type(error).__name__
            raise IssuerUnavailable(f"the issuer {self._issuer} does not answer: {reason}") from None
        except (ValueError, TypeError, OverflowError):  # no JSON, or what Authlib makes of it
            raise IssuerUnavailable(f"the issuer {self._issuer} sends an answer that can't be read") from None
        token = answer.get("access_token")
        if not isinstance(token, str) or not is_token(token):
            raise IssuerUnavailable(f"the issuer {self._issuer} answered without an access_token")
        register_secret(token)
        self._good_until = time.monotonic() + _lifetime(answer) - self._waits.token_margin
        return token

    async def _ask(self) -> dict[str, Any]:
        async with AsyncOAuth2Client(
            self._client_id,
            self._client_secret,
            timeout=self._waits.issuer,
            verify=self._tls if self._tls is not None else True,
            trust_env=not is_loopback(urlsplit(self._issuer).hostname or ""),  # no proxy to this machine
        ) as client:
            endpoint, client.token_endpoint_auth_method = await self._discover(client)
            answer: dict[str, Any] = await client.fetch_token(
                endpoint, grant_type="client_credentials", resource=self._resource
            )
        return answer

    async def _discover(self, client: AsyncOAuth2Client) -> tuple[str, str]:
        answer = await client.request("GET", self._issuer + DISCOVERY, withhold_token=True)
        answer.raise_for_status()
        document = answer.json()
        endpoint = document.get("token_endpoint") if isinstance(document, dict) else None
        if not isinstance(endpoint, str):
            raise IssuerUnavailable(f"the discovery document of {self._issuer} names no token_endpoint")
        methods = document.get("token_endpoint_auth_methods_supported") or [AUTH_METHODS[0]]
        method = next((method for method in AUTH_METHODS if method in methods), None)
        if method is None:
            raise CredentialsRefused(f"the issuer {self._issuer} takes none of {', '.join(AUTH_METHODS)}")
        try:
            return require_safe(endpoint, "the token endpoint"), method
        except ConfigurationError as error:
            raise CredentialsRefused(str(error)) from None

    def _by_status(self, status: int) -> CredentialsRefused | IssuerUnavailable:
        if status >= 500 or status in _PASSING:
            return IssuerUnavailable(f"the issuer {self._issuer} can't answer now: HTTP {status}")
        return CredentialsRefused(f"the issuer {self._issuer} refuses: HTTP {status}; check its address (PAS_ISSUER)")


def is_token(text: str) -> bool:
    """Tell whether a text can be sent as a bearer token."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def _lifetime(answer: dict[str, Any]) -> float:
    try:
        lifetime = float(answer.get("expires_in") or DEFAULT_LIFETIME)
    except (TypeError, ValueError):
        return DEFAULT_LIFETIME
    return lifetime if math.isfinite(lifetime) else DEFAULT_LIFETIME


def require_safe(url: str, what: str) -> str:
    """Return the URL, when a secret may be sent there: https, or http on loopback.

    Raises:
        ConfigurationError: it would go in the clear, or the URL isn't one.

    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in {"http", "https"}:
        raise ConfigurationError(f"{what} is not a URL: write it as https://HOST[:PORT][/PATH]")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(f"{what} carries a user or password: leave them out")
    if parts.scheme == "http" and not is_loopback(host):
        raise ConfigurationError(f"{what} http://{host} would get secrets in the clear: use https://")
    return url
