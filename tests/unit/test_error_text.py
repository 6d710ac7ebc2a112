"""The description of an error contains no row values: no DETAIL or CONTEXT of Postgres, no statement parameters."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors
from sqlalchemy.exc import DBAPIError, IntegrityError

from eventstore.errors import EventsArchived, ForeignEventId, LeadershipLost, Undecodable, describe, is_connection_lost

PHONE = "12300000001"


class Diagnosis:
    """The diagnostics that psycopg reads from a server's error."""

    def __init__(self, primary: str | None, sqlstate: str) -> None:
        self.message_primary = primary
        self.message_detail = f"Key (ppnum)=({PHONE}) already exists."
        self.context = f"COPY events, line 1, column ppnum: {PHONE}"
        self.sqlstate = sqlstate


class FromServer(errors.UniqueViolation):
    """An error with a DETAIL and a CONTEXT, as the server sends it."""

    def __init__(self, primary: str | None) -> None:
        super().__init__(f"{primary}\nDETAIL:  Key (ppnum)=({PHONE}) already exists.\nCONTEXT:  {PHONE}")
        self._primary = primary

    @property
    def diag(self) -> Diagnosis:  # type: ignore[override]
        return Diagnosis(self._primary, "23505")


def test_a_postgres_error_shows_only_primary_message_and_sqlstate() -> None:
    assert describe(FromServer("duplicate key value")) == "duplicate key value (SQLSTATE 23505)"
    assert describe(FromServer(None)) == "FromServer (SQLSTATE 23505)"


@pytest.mark.parametrize(
    "message",
    [
        'invalid input syntax for type integer: "{}"',
        "ungültige Eingabesyntax für Typ integer: »{}«",
        "syntaxe en entrée invalide pour le type integer : « {} »",
        "неверный синтаксис для типа integer: «{}»",
        "无效的类型 integer 输入语法: “{}”",
        "型integerの入力構文が不正です: 「{}」",
        "\u2018{}\u2019 ist keine \u201e{}\u201c",
    ],
)
def test_a_value_in_a_message_is_removed_in_any_language(message: str) -> None:
    class Invalid(FromServer):
        sqlstate = "22P02"

    text = describe(Invalid(message.replace("{}", "недоступен")))
    assert "недоступен" not in text
    assert text.endswith('"…" (SQLSTATE 22P02)')


def test_a_sqlalchemy_error_shows_neither_statement_nor_parameters() -> None:
    error = IntegrityError(f"INSERT {PHONE}", {"ppnum": PHONE}, FromServer("duplicate key value"))
    assert PHONE in str(error)
    assert describe(error) == "duplicate key value (SQLSTATE 23505)"


def test_a_sqlalchemy_error_that_wraps_another_one_shows_no_parameters_either() -> None:
    assert describe(DBAPIError(f"INSERT {PHONE}", {"ppnum": PHONE}, OSError("away"))) == "OSError: away"


def test_an_error_without_sqlstate_is_described_in_one_line() -> None:
    assert describe(psycopg.OperationalError("connection failed:\n\tno route")) == "connection failed: no route"
    assert describe(psycopg.OperationalError()) == "OperationalError"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (LeadershipLost("a"), "app 'a': another process follows it now; this one stands by"),
        (Undecodable("why", "id"), "why"),
        (ConnectionResetError("gone\nfor good"), "ConnectionResetError: gone for good"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_every_other_error_is_described_in_one_line(error: BaseException, text: str) -> None:
    assert describe(error) == text


def test_a_foreign_event_id_names_both_apps_and_what_to_do() -> None:
    error = ForeignEventId("mine", "theirs", "01KDYN1V80ABCDEFGHJKMNPQRS")
    assert (error.app, error.other, error.event_id) == ("mine", "theirs", "01KDYN1V80ABCDEFGHJKMNPQRS")
    assert "'mine'" in str(error)
    assert "'theirs'" in str(error)


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (psycopg.OperationalError("connection refused"), True),
        (errors.ConnectionFailure(), True),
        (errors.AdminShutdown(), True),
        (errors.CannotConnectNow(), True),
        (errors.DatabaseDropped(), True),
        (errors.IdleSessionTimeout(), True),
        (errors.QueryCanceled(), False),
        (errors.DiskFull(), False),
        (errors.UndefinedColumn(), False),
        (psycopg.ProgrammingError("the query has 2 placeholders"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_whether_the_connection_is_lost(error: psycopg.Error, gone: bool) -> None:
    assert is_connection_lost(error) is gone


def test_archived_positions_are_named_range_by_range() -> None:
    ranges = [(1, 1_000), (2_001, 3_000), (4_001, 5_000), (6_001, 7_000), (8_001, 9_000)]
    tail = "are archived, no longer in the log: look"
    named = {count: str(EventsArchived(1, 9_000, "look", ranges=ranges[:count])) for count in (1, 2, 3, 4, 5)}
    assert named == {
        1: f"positions 1 to 1,000 {tail}",
        2: f"positions 1 to 1,000 and 2,001 to 3,000 {tail}",
        3: f"positions 1 to 1,000, 2,001 to 3,000 and 4,001 to 5,000 {tail}",
        4: f"positions 1 to 1,000, 2,001 to 3,000, 4,001 to 5,000 and 1 more range {tail}",
        5: f"positions 1 to 1,000, 2,001 to 3,000, 4,001 to 5,000 and 2 more ranges {tail}",
    }
    assert str(EventsArchived(1, 9_000, "look")) == f"positions 1 to 9,000 {tail}"
