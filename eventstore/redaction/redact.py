"""Hides tokens, secrets and phone numbers in logs, messages and errors.

Two strengths, by where a text comes from:

- :func:`redact` is for text from outside: gRPC details, an issuer's answers, Postgres's messages, texts of exceptions
  that are not ours. It hides secrets and everything that may be a phone number. Call it where the text enters.
- :func:`hide_secrets` is for our own sentences, in which the parts from outside are redacted already. Positions and
  counts in them are never phone numbers, however many digits they have.

:mod:`projections.logs` passes every log line through one of them: lines of libraries and tracebacks through
:func:`redact`, our own lines through :func:`hide_secrets`.

A registered secret is found in any encoding in which it may be repeated: unchanged, percent-encoded (any number of
times), HTML-escaped, JSON-escaped, as a Python or protobuf literal, in hexadecimal, and inside base64 at any alignment.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import quote_plus

from eventstore.redaction.escapes import TextView, views, without_blanks
from eventstore.redaction.phone_numbers import phone_numbers

MASK = "[hidden]"
MAX_LENGTH = 50_000
"""How many characters are redacted; the rest of a text is left out, because nobody reads it."""
MAX_QUOTED = 10_000
"""How many characters of a text :func:`quoted` reads."""
MAX_TOKENS = 256
"""How many issued tokens are remembered; older ones have expired."""

_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+(?!token\b)[A-Za-z0-9._~+/=-]+")
_URL_PASSWORD = re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+@")
_CONNINFO_PASSWORD = re.compile(r"(?i)\b(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)")
_FORM_SECRET = re.compile(
    r"(?i)\b((?:client_secret|client_assertion|access_token|refresh_token|id_token)[\"']?\s{0,4}[:=]\s{0,4}[\"']?)"
    r"([^\s\"'&,;}]+)"
)
_END_OF_CUT = re.compile(r"[0-9 ()+./-]+$")
_MIN_NEEDLE = 6
"""A shorter piece of base64 or hexadecimal may be part of any word."""
_BASE64_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=")

_secrets: dict[str, None] = {}
_tokens: dict[str, None] = {}


def register_secret(value: str, *, expires: bool = False) -> None:
    """Hide this text from now on. One or two characters are not a secret.

    Args:
        value: the secret.
        expires: whether it is an issued token; of these only the newest are remembered.

    """
    if len(value) <= 2:
        return
    if not expires:
        _secrets[value] = None
        return
    _tokens.pop(value, None)
    _tokens[value] = None
    while len(_tokens) > MAX_TOKENS:
        del _tokens[next(iter(_tokens))]


def redact(text: str) -> str:
    """Return a text from outside with secrets, credentials and phone numbers hidden."""
    text = hide_secrets(text)
    return _masked(text, (view.original(*span) for view in views(text) for span in phone_numbers(view.text)))


def quoted(text: str, at_most: int = 300) -> str:
    """Return text from others as one line: redacted, and of bounded length however long the text is."""
    # Cut twice: first so that a long text costs little, and, when nothing secret is left, to the final length.
    return " ".join(redact(_bounded(text, MAX_QUOTED)).split())[:at_most]


def hide_secrets(text: str) -> str:
    """Return one of our own sentences with secrets and credentials hidden; its numbers stay."""
    text = _bounded(text)
    if _secrets or _tokens:
        text = _masked(text, _secret_spans(text))
    text = _BEARER.sub(lambda match: f"{match[1]} {MASK}", text)
    text = _URL_PASSWORD.sub(lambda match: f"{match[1]}:{MASK}@", text)
    text = _CONNINFO_PASSWORD.sub(lambda match: f"{match[1]}{MASK}", text)
    return _FORM_SECRET.sub(lambda match: f"{match[1]}{MASK}", text)


def redact_value(value: Any, clean: Callable[[str], str] = redact) -> Any:  # noqa: ANN401 - log fields are of any type
    """Return a log field's value with all texts in it redacted; numbers are counts, positions or times, and stay."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, dict):
        return {redact_value(key, clean): redact_value(item, clean) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact_value(item, clean) for item in value]
    return clean(str(value))


def _bounded(text: str, length: int = MAX_LENGTH) -> str:
    if len(text) <= length:
        return text
    # Not in the middle of a word or a number: the rest of a secret would not be recognised.
    head = text[:length].rsplit(maxsplit=1)
    return _END_OF_CUT.sub("", head[0] if len(head) == 2 else "") + "…"


def _masked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and begin < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    for begin, end in reversed(merged):
        text = f"{text[:begin]}{MASK}{text[end:]}"
    return text


def _secret_spans(text: str) -> Iterable[tuple[int, int]]:
    needles = [_needles(secret) for secret in (*_secrets, *_tokens)]
    for view in views(text):
        squeezed = without_blanks(view)
        for plain, coded in needles:
            yield from _found(view, plain, coded)
            if squeezed is not None:
                yield from _found(squeezed, [*(one for one in plain if len(one) >= _MIN_NEEDLE), *coded])


def _found(view: TextView, plain: Iterable[str], coded: Iterable[str] = ()) -> Iterable[tuple[int, int]]:
    for needle in plain:
        begin = view.text.find(needle)
        while begin >= 0:
            yield view.original(begin, begin + len(needle))
            begin = view.text.find(needle, begin + 1)
    for needle in coded:
        begin = view.text.find(needle)
        while begin >= 0:
            end = begin + len(needle)
            # The surrounding characters are of the same word: a client's id before, padding after, bits of the secret
            # in both.
            while begin and view.text[begin - 1] in _BASE64_CHARS and view.text[begin - 1] != "=":
                begin -= 1
            while end < len(view.text) and view.text[end] in _BASE64_CHARS:
                end += 1
            yield view.original(begin, end)
            begin = view.text.find(needle, end)


@lru_cache(maxsize=2 * MAX_TOKENS)
def _needles(secret: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the forms of a secret: as text, and encoded, where the whole word around it has to be hidden."""
    data = secret.encode(errors="surrogatepass")
    plain = {secret, secret.replace(" ", "+")}
    coded = {data.hex(), data.hex().upper()}
    # Basic authentication encodes a client and its secret before it joins them (RFC 6749, 2.3.1).
    for written in {data, quote_plus(data).encode()}:
        for before in range(3):
            # Only the characters that don't depend on what comes before or after.
            whole = base64.b64encode(bytes(before) + written).decode()
            inner = whole[(0, 2, 3)[before] : (before + len(written)) * 8 // 6]
            coded |= {inner, inner.replace("+", "-").replace("/", "_")}
    return tuple(plain), tuple(one for one in coded if len(one) >= _MIN_NEEDLE)
