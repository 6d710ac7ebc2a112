"""Compiles SQLAlchemy's statements into SQL text that psycopg runs, optionally under other schemas."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, LiteralString, NamedTuple, TypeAlias, cast

from psycopg import sql
from sqlalchemy import BindParameter, Executable, UpdateBase
from sqlalchemy.dialects.postgresql.psycopg import PGCompiler_psycopg, PGDialect_psycopg
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from projections.folding.statement_text import StatementText

DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]
_RAW_DIALECT = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
_FOLD_DIALECT = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
_STEP_DIALECT = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
_SORTED_DIALECT = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]

VARIABLES: Mapping[str, LiteralString] = {
    "lo": "projections_lo",
    "hi": "projections_hi",
    "skipped": "projections_skipped",
}
"""The parameters of a window, and the PL/pgSQL variables that hold them; no column has such a name."""

Schemas: TypeAlias = Mapping[str, str]
"""Which schema replaces which: a shadow and a test's tables are the same tables in another schema."""


def compile_statement(statement: Executable, schemas: Schemas | None = None) -> tuple[LiteralString, dict[str, Any]]:
    """Return a statement's text, with psycopg's placeholders, and the values of its constants."""
    result, constants = _compile(statement, schemas, DIALECT)
    return cast("LiteralString", result.string), constants


def compile_fold_statement(
    statement: Executable, schemas: Schemas | None = None
) -> tuple[LiteralString, tuple[str, ...]]:
    """Return the text of a fold's statement, with ``$n``, and the names of these parameters in order.

    Constants are literals in the text, so that the planner knows them even in a plan for any window.
    """
    result, _ = _compile(statement, schemas, _FOLD_DIALECT)
    return cast("LiteralString", result.string), tuple(result.positiontup)


def compile_reproducible(statement: Executable) -> tuple[LiteralString, tuple[str, ...]]:
    """Return what :func:`compile_fold_statement` does, as a text that every process writes alike.

    The values of an ``IN`` may come from a set, whose order differs between processes; here they are sorted.
    """
    result, _ = _compile(statement, None, _SORTED_DIALECT)
    return cast("LiteralString", result.string), tuple(result.positiontup)


def compile_plpgsql_query(statement: Executable) -> sql.SQL:
    """Return a query over the window's events as part of a PL/pgSQL statement."""
    result, _ = _compile(statement, None, _STEP_DIALECT)
    return sql.SQL(cast("LiteralString", result.string))


def compile_plpgsql_step(statement: Executable) -> sql.Composed:
    """Return a fold's statement as a PL/pgSQL statement that ignores the rows which it returns."""
    result, _ = _compile(statement, None, _STEP_DIALECT)
    returns_rows = not isinstance(statement, UpdateBase) or result.effective_returning
    if isinstance(statement, StatementText) or not returns_rows:
        return sql.SQL("{};").format(sql.SQL(cast("LiteralString", result.string)))
    # PL/pgSQL runs any statement, with any result, only through EXECUTE.
    text, names = compile_fold_statement(statement)
    using = (
        sql.SQL(" USING ") + sql.SQL(", ").join(sql.SQL(VARIABLES[name]) for name in names) if names else sql.SQL("")
    )
    return sql.SQL("EXECUTE {}{};").format(sql.Literal(text), using)


def compile_ddl(statement: ExecutableDDLElement) -> LiteralString:
    """Return the text of a statement that creates or changes a table; it has no parameters."""
    return statement.compile(dialect=_RAW_DIALECT).string


class NumberedText(NamedTuple):
    """A compiled statement, which may run often.

    Attributes:
        text: the text, with ``$n``.
        names: the names of these parameters in order.
        constants: the values that parameters have in the statement.

    """

    text: LiteralString
    names: tuple[str, ...]
    constants: Mapping[str, Any]


def compile_numbered(statement: Executable) -> NumberedText:
    """Compile a statement that runs more than once."""
    result, constants = _compile(statement, None, _RAW_DIALECT)
    return NumberedText(cast("LiteralString", result.string), tuple(result.positiontup), constants)


def compile_with_numbered_parameters(
    statement: Executable | NumberedText, values: Mapping[str, Any]
) -> tuple[LiteralString, list[Any]]:
    """Return a statement's text, with ``$n``, and the values of all parameters in order.

    Args:
        statement: the statement.
        values: the parameters that have no value in the statement.

    """
    text, names, constants = statement if isinstance(statement, NumberedText) else compile_numbered(statement)
    given = {**constants, **values}
    return text, [given[name] for name in names]


# As a literal, a float would be numeric, and a whole Decimal an integer.
_CASTS: Mapping[type, str] = {float: "::float8", Decimal: "::numeric"}


class _FoldCompiler(PGCompiler_psycopg):
    """Renders every parameter except the window's as a literal, with the value and type that psycopg would send."""

    def visit_bindparam(self, bindparam: BindParameter[Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401 - SQLAlchemy's
        if bindparam.key not in VARIABLES and not bindparam.required:
            options["literal_binds"] = True
        return super().visit_bindparam(bindparam, *args, **options)  # type: ignore[no-untyped-call]

    def render_literal_bindparam(self, bindparam: BindParameter[Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401 - SQLAlchemy's
        if bindparam.expanding:
            return super().render_literal_bindparam(bindparam, *args, **options)  # type: ignore[no-untyped-call]
        return self.render_literal_value(bindparam.effective_value, bindparam.type)

    def render_literal_value(self, value: Any, type_: TypeEngine[Any]) -> str:  # noqa: ANN401 - SQLAlchemy's
        impl = type_.dialect_impl(self.dialect)
        # The value that SQLAlchemy passes to the driver: the name of an Enum member, a JSON value as JSON.
        if processor := impl.bind_processor(self.dialect):
            value = processor(value)
        if isinstance(value, Enum):
            value = value.value
        while isinstance(impl, TypeDecorator):
            impl = impl.impl_instance.dialect_impl(self.dialect)
        text = sql.Literal(value).as_string().strip()
        if isinstance(value, str) and "%(" in text:
            # SQLAlchemy searches the whole text for parameter names.
            text = f"E{text.removeprefix('E')}".replace("%(", r"\x25(")
        # -1::smallint means -(1::smallint), and --1 is a comment.
        text = f"({text})" if text.startswith("-") else text
        if impl.render_bind_cast:
            return cast("str", self.render_bind_cast(type_, impl, text))  # type: ignore[no-untyped-call]
        return text + _CASTS.get(type(value), "")


_FOLD_DIALECT.statement_compiler = _FoldCompiler


class _SortedCompiler(_FoldCompiler):
    """The same, with the values of each ``IN`` sorted."""

    def render_literal_bindparam(self, bindparam: BindParameter[Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401 - SQLAlchemy's
        if bindparam.expanding:
            options["render_literal_value"] = sorted(bindparam.effective_value or (), key=repr)
        return super().render_literal_bindparam(bindparam, *args, **options)


_SORTED_DIALECT.statement_compiler = _SortedCompiler


class _StepCompiler(_FoldCompiler):
    """The same, with the window's parameters as PL/pgSQL variables."""

    def visit_bindparam(self, bindparam: BindParameter[Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401 - SQLAlchemy's
        return VARIABLES.get(bindparam.key) or super().visit_bindparam(bindparam, *args, **options)


_STEP_DIALECT.statement_compiler = _StepCompiler


def _compile(statement: Executable, schemas: Schemas | None, dialect: Any) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401 - SQLAlchemy's
    # Executable has no compile() in its type, but every statement has it. SQLAlchemy writes the text, so it is safe.
    result = statement.compile(  # type: ignore[attr-defined]
        dialect=dialect,
        schema_translate_map=dict(schemas) if schemas else None,
        render_schema_translate=bool(schemas),
        compile_kwargs={"render_postcompile": True},
    )
    constants = {
        name: value.value if isinstance(value, Enum) else value for name, value in result.construct_params().items()
    }
    return result, constants
