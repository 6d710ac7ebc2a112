"""Which credentials an app may have: the only place for these rules, and for their sentences.

1. An app has an address and one kind of credentials: an OAuth2 client (issuer, client id and client secret), a token,
   or a token file. The client's secret is a setting or a file, not both.
2. A TLS certificate and its key are given together.
3. A URL that gets a secret is https, or http on loopback, and contains no user name or password.
4. A token is 1 to 16,384 printable ASCII characters without white space: no header can carry anything else.

A setting that is empty counts as not given.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence
from urllib.parse import SplitResult, urlsplit

from eventstore.errors import UsageError

MAX_TOKEN = 16 * 2**10
"""Size limit of an access token: a server takes no more in a header."""

CLIENT_SETTINGS = ("issuer", "client_id", "client_secret", "client_secret_file")
TOKEN_SETTINGS = ("token", "token_file")


def check_settings(given: Collection[str], names: Mapping[str, str]) -> None:
    """Check rules 1 and 2 on an app's settings.

    Args:
        given: the settings that are given, by the names of the configuration file's keys.
        names: what the user calls each setting; one that has no name here can't be given.

    Raises:
        UsageError: settings are missing, or too many are given.

    """
    client = [names[name] for name in CLIENT_SETTINGS if name in given]
    tokens = [names[name] for name in TOKEN_SETTINGS if name in given]
    if bool(client) + len(tokens) > 1:
        raise UsageError(f"{_join([*client, *tokens])} are set: keep one kind of credentials")
    if {"client_secret", "client_secret_file"} <= {*given}:
        raise UsageError(f"{names['client_secret']} and {names['client_secret_file']} are set: keep one of them")
    missing = [names[name] for name in ("address", "issuer", "client_id") if name not in given]
    if not {"client_secret", "client_secret_file"} & {*given}:
        file = names.get("client_secret_file")
        missing.append(names["client_secret"] + (f" (or {file})" if file else ""))
    if tokens:
        missing = [] if "address" in given else [names["address"]]
    if missing:
        token_names = " or ".join(names[name] for name in TOKEN_SETTINGS)
        instead = "" if client or tokens else f", or set {token_names} to use a token instead of an OAuth2 client"
        raise UsageError(f"settings are missing: set {_join(missing)}{instead}")
    check_certificate_and_key(
        "client_certificate_file" in given,
        "client_key_file" in given,
        names=(names["client_certificate_file"], names["client_key_file"]),
    )


def check_certificate_and_key(certificate: object, key: object, *, names: tuple[str, str]) -> None:
    """Check that a TLS certificate and its key are given together.

    Raises:
        UsageError: one of them is missing.

    """
    if bool(certificate) != bool(key):
        missing, other = reversed(names) if certificate else names
        raise UsageError(f"{names[0]} and {names[1]} go together: set {missing}, or remove {other}")


def check_url(url: str, what: str) -> SplitResult:
    """Return the parts of a URL to which a secret may be sent.

    Args:
        url: the URL.
        what: what it is, for messages.

    Raises:
        UsageError: it is not a URL, contains credentials, or would send a secret unencrypted over a network.

    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise not_a_url(what) from None
    if not host or parts.scheme not in {"http", "https"}:
        raise not_a_url(what)
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"{what} contains a user name or password: give credentials in their own settings")
    if parts.scheme == "http" and not is_loopback(host):
        raise UsageError(
            f"{what} http://{host} would send secrets in the clear: use https:// (http:// is for loopback only)"
        )
    return parts


def not_a_url(what: str) -> UsageError:
    """Return the error for a text that is not a URL."""
    return UsageError(f"{what} is not a URL: write it as https://HOST[:PORT][/PATH]")


def is_loopback(host: str) -> bool:
    """Return whether a host name means this machine, without asking a name server."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_token(text: str) -> bool:
    """Return whether a text can be sent as a bearer token."""
    return 0 < len(text) <= MAX_TOKEN and text.isascii() and text.isprintable() and " " not in text


def _join(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
