r"""Finds phone numbers in text from others: 8 to 15 digits, as in E.164, with separators in any place.

Other things with as many digits are not hidden: ULIDs, UUIDs, times, dates, IP addresses, and numbers with a unit of
size or time. Digits may be of any script, and a separator may be an invisible character. A longer run of digits is
treated as a phone number too, because it may be two of them.

:mod:`eventstore.redaction.redact` hides what this finds: in text from outside, where it enters, and in log lines, where
:mod:`projections.logs` applies it to those of other libraries and to tracebacks.

The pattern has no nested repetition that could match a text in two ways, so its cost grows only with the text's length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# \d has the decimal digits of every script; the other characters that stand for a digit are not among them.
_DIGIT = (
    r"[\d\u00b2\u00b3\u00b9\u2070\u2074-\u2079\u2080-\u2089\u2460-\u2468\u2474-\u247c\u2488-\u2490\u24ea\u24f5-\u24fd"
    r"\u24ff\u2776-\u277e\u2780-\u2788\u278a-\u2792\u1369-\u1371\U0001f100-\U0001f10a]"
)
_SPACE = r"\s\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\u2800\u3164\u115f\u1160\uffa0"
_INVISIBLE = (
    r"\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufe00-\ufe0f\u20e3"
    r"\U000e0001\U000e0020-\U000e007f"
)
_DASH = r"\-\u058a\u05be\u2010-\u2015\u2043\u2212\u2e3a\u2e3b\u301c\u30fc\ufe58\ufe63\uff0d\uff70~\u223c\uff5e"
_DOT = r".\u00b7\u2022\u2024\u2027\u2219\u22c5\u3002\u30fb\ufe52\uff0e\uff61\uff65"
_SLASH = r"/\\|\u2044\u2215\u29f8\uff0f\uff3c\uff5c"
_BRACKET = r"()\[\]{}\uff08\uff09\uff3b\uff3d"
_OTHER = r"_+\uff0b*"
_SEPARATOR = rf"[{_SPACE}{_INVISIBLE}{_DASH}{_DOT}{_SLASH}{_BRACKET}{_OTHER}]"
_NUMBER = re.compile(rf"[+\uff0b]?{_DIGIT}(?:{_SEPARATOR}{{0,6}}{_DIGIT}){{7,}}")

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"(?<![0-9.+]){_OCTET}(?:\.{_OCTET}){{3}}(?![0-9]|\.[0-9])"
# As many digits as a phone number in pairs has: an address only where something says so, or where it is of a network
# that no phone number begins like.
_ADDRESS = (
    r"(?:(?<=ipv4:)|(?<=://)|(?<=@)|(?<=\(')|(?<=\bhost )|(?<=host \")|(?<=server at \")|(?<=address )"
    r"|(?<=address \"))"
    rf"{_IPV4}"
    rf"|(?=10\.|127\.|0\.0\.0\.0|169\.254\.|192\.168\.|172\.(?:1[6-9]|2[0-9]|3[01])\.){_IPV4}"
    rf"|{_IPV4}(?=:[0-9]{{2,5}}(?![0-9]))"
)
_ALONE = r"(?<![0-9+])(?<![0-9][ \-./])"
_NO_NUMBER = re.compile(
    r"(?<![0-9A-Za-z])(?=[0-9]*[A-Z])[0-7][0-9A-HJKMNP-TV-Z]{25}(?![0-9A-Za-z])"  # ULID
    r"|(?<![0-9A-Za-z-])[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![0-9A-Za-z-])"  # UUID
    r"|(?<![0-9])[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-5][0-9]"  # time with its date
    r"(?::[0-6][0-9](?:[.,][0-9]{1,9})?)?(?:[Zz]|[+-][0-2][0-9](?::?[0-5][0-9])?)?(?![0-9])"
    r"|(?<![0-9:.])[0-2]?[0-9]:[0-5][0-9]:[0-6][0-9](?:[.,][0-9]{1,9})?(?![0-9])"  # time of day
    rf"|{_ALONE}(?:19|20)[0-9]{{2}}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])(?![0-9]|[ \-./(]{{1,3}}[0-9])"  # date
    rf"|{_ALONE}[0-9]{{1,15}}(?:\.[0-9]{{1,9}})? ?(?:bytes?|octets?|[kKMGT]i?B|[mµun]?s|seconds?)\b"
    r"|\([0-9]{1,15} vs\.? [0-9]{1,15}\)"  # gRPC's words for a message that is too large
    r"|\b(?:version |v)[0-9]{1,4}(?:\.[0-9]{1,8}){1,3}(?![0-9]|[.\-/ ][0-9])"
    rf"|{_ADDRESS}"
)


def phone_numbers(text: str) -> Iterator[tuple[int, int]]:
    """Yield the spans that may be phone numbers."""
    if not _NUMBER.search(text):
        return
    begin = 0
    for other in _NO_NUMBER.finditer(text):
        yield from (match.span() for match in _NUMBER.finditer(text, begin, other.start()))
        begin = other.end()
    yield from (match.span() for match in _NUMBER.finditer(text, begin))
