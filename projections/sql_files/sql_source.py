"""The text of a ``.sql`` file, and its statements as Postgres's own parser reads them.

Invariants. Offsets count bytes, as the parser's do. ``window`` is a keyword in SQL and so can't be the name of a table;
the parser reads another name of the same length in its place, so offsets and lines are those of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn

from projections.errors import InvalidProjection
from projections.sql_files.postgres_parser import TOO_DEEP, Node, ParserError, error_position, parse, pg, scan, unwrap
from projections.terminal_text import visible

WINDOW = "window"
STAND_IN = "_wndw_"
"""What the parser reads for the table ``window``; it is as long."""

_BEFORE_A_TABLE = (pg.FROM, pg.JOIN, pg.USING, pg.ONLY, pg.TABLE, pg.ASCII_40, pg.ASCII_44)
_BEGINNINGS = ("CREATE", "COMMENT", "INSERT", "UPDATE", "DELETE", "WITH")
_CONTINUED = (";", "(", "AS", "DO", "FOR", "ON")
"""After these, such a word begins no statement, or one that nothing is missing before."""
_COMMENTS = (pg.SQL_COMMENT, pg.C_COMMENT)


class SqlToken(NamedTuple):
    """A token: its kind as the parser numbers it, and where it is; ``text`` is as in the file."""

    kind: int
    start: int
    end: int
    text: str


class SqlStatement(NamedTuple):
    """A statement: its parse tree, and where its first token begins and its last one ends."""

    tree: Node
    start: int
    end: int


class SqlSource:
    """A ``.sql`` file.

    Args:
        path: the file.

    Raises:
        InvalidProjection: there is no such file, it isn't UTF-8, or Postgres can't parse it.

    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            self.text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError as error:
            raise InvalidProjection(
                f"{self.name}: there is no such file in the folder of {path.parent.name}; install it with the package,"
                " as package data"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidProjection(f"{self.name} can't be read: {error}") from error
        self._bytes = self.text.encode()
        if b"\0" in self._bytes:  # where the parser would stop reading
            self.refuse(self._bytes.index(b"\0"), "a NUL character can't be in SQL; remove it")

    def refuse(self, offset: int, why: str) -> NoReturn:
        """Raise the error that something at an offset is wrong.

        Raises:
            InvalidProjection: always; the message has the file and the line.

        """
        raise InvalidProjection(f"{self.name}:{self.line(offset)}: {why}")

    def line(self, offset: int) -> int:
        """Return the number of the line at an offset."""
        return self._bytes.count(b"\n", 0, offset) + 1

    def slice(self, start: int, end: int) -> str:
        """Return the text between two offsets."""
        return self._bytes[start:end].decode()

    @cached_property
    def tokens(self) -> list[SqlToken]:
        """All tokens, comments included."""
        try:
            found = list(scan(self.text))
        except ParserError as error:
            self._refuse_syntax(error)
        return [SqlToken(one.token, one.start, one.end, self.slice(one.start, one.end)) for one in found]

    @cached_property
    def code(self) -> list[SqlToken]:
        """All tokens except comments."""
        return [token for token in self.tokens if token.kind not in _COMMENTS]

    @cached_property
    def statements(self) -> list[SqlStatement]:
        """The statements, in order."""
        readable = bytearray(self._bytes)
        for token in self._table_windows():
            readable[token.start : token.end] = STAND_IN.encode()
        try:
            found = list(parse(readable.decode()))
        except ParserError as error:
            self._refuse_syntax(error, self._hint(error_position(error) - 1))
        except TOO_DEEP as error:
            raise InvalidProjection(
                f"{self.name}: an expression is nested too deeply, such as a chain of more than forty operators; divide"
                " it, for example by WITH, or by concat(…) instead of ||"
            ) from error
        statements = []
        for raw in found:
            limit = raw.stmt_location + raw.stmt_len if raw.stmt_len else len(self._bytes)
            inside = [one for one in self.code if raw.stmt_location <= one.start < limit]
            inside = inside[:-1] if inside[-1].text == ";" else inside
            statements.append(SqlStatement(unwrap(raw.stmt), inside[0].start, inside[-1].end))
        return statements

    def _table_windows(self) -> Iterator[SqlToken]:
        """Yield each ``window`` that stands for the table, not for the clause WINDOW."""
        for number, token in enumerate(self.code):
            if token.kind != pg.WINDOW:
                continue
            before = self.code[number - 1].kind if number else None
            after = self.code[number + 1].text if number + 1 < len(self.code) else ""
            if before in _BEFORE_A_TABLE or after == ".":
                yield token

    def _hint(self, offset: int) -> str:
        """Return what may be missing before a place that can't be parsed, if a statement seems to begin there."""
        at = next((number for number, token in enumerate(self.code) if token.end > offset), len(self.code) - 1)
        # Where it could be the name of a table, the parser goes on to the next word.
        for number in (at, at - 1):
            if number > 0 and self.code[number].text.upper() in _BEGINNINGS and self._begins_line(number):
                return f"; is a ; missing before {self.code[number].text}?"
        return ""

    def _begins_line(self, number: int) -> bool:
        before, token = self.code[number - 1], self.code[number]
        return before.text.upper() not in _CONTINUED and b"\n" in self._bytes[before.end : token.start]

    def _refuse_syntax(self, error: Exception, hint: str = "") -> NoReturn:
        message = visible(str(error).replace(STAND_IN, WINDOW))
        self.refuse(max(error_position(error) - 1, 0), f"Postgres can't parse this: {message}{hint}")
