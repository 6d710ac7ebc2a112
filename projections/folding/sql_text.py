"""Compiles SQLAlchemy's statements into SQL text that psycopg runs, under the schemas that are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, LiteralString, TypeAlias, cast

from psycopg import sql
from sqlalchemy import BindParameter, Executable, UpdateBase
from sqlalchemy.dialects.postgresql.psycopg import PGCompiler_psycopg, PGDialect_psycopg
from sqlalchemy.schema import ExecutableDDLElement
from sqlalchemy.types import TypeDecorator, TypeEngine

DIALECT = PGDialect_psycopg()  # type: ignore[no-untyped-call]
_RAW_DIALECT = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
_FOLD_DIALECT = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
_STEP_DIALECT = PGDialect_psycopg(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]

VARIABLES: Mapping[str, LiteralString] = {
    "lo": "projections_lo",
    "hi": "projections_hi",
    "skipped": "projections_skipped",
}
"""What changes from window to window, and the variable of a function that has it; no column is called so."""

Schemas: TypeAlias = Mapping[str, str]
"""Which schema stands for which: a shadow, or a test's tables, are the same tables under another schema."""


def compile_statement(statement: Executable, schemas: Schemas | None = None) -> tuple[LiteralString, dict[str, Any]]:
    """Return a statement's text, as psycopg takes it, and the constants in it."""
    result, constants = _compile(statement, schemas, DIALECT)
    return cast("LiteralString", result.string), constants


def compile_fold_statement(
    statement: Executable, schemas: Schemas | None = None
) -> tuple[LiteralString, tuple[str, ...]]:
    """Return the text of a fold's statement as ``PREPARE`` takes it, and which parameters its ``$n`` are, in order.

    Its constants are written out, so that a plan for any window still knows them.
    """
    result, _ = _compile(statement, schemas, _FOLD_DIALECT)
    return cast("LiteralString", result.string), tuple(result.positiontup)


def compile_plpgsql_query(statement: Executable) -> sql.SQL:
    """Return a query over the window's events as part of a PL/pgSQL statement."""
    result, _ = _compile(statement, None, _STEP_DIALECT)
    return sql.SQL(cast("LiteralString", result.string))


def compile_plpgsql_step(statement: Executable) -> sql.Composed:
    """Return a fold's statement as a PL/pgSQL statement that ignores the rows which it returns."""
    result, _ = _compile(statement, None, _STEP_DIALECT)
    if isinstance(statement, UpdateBase) and not result.effective_returning:
        return sql.SQL("{};").format(sql.SQL(cast("LiteralString", result.string)))
    # PL/pgSQL runs any statement, with any result, only through EXECUTE.
    text, names = compile_fold_statement(statement)
    using = (
        sql.SQL(" USING ") + sql.SQL(", ").join(sql.SQL(VARIABLES[name]) for name in names) if names else sql.SQL("")
    )
    return sql.SQL("EXECUTE {}{};").format(sql.Literal(text), using)


def compile_ddl(statement: ExecutableDDLElement) -> LiteralString:
    """Return the text of a statement that makes or changes a table, for psycopg to run without parameters."""
    return statement.compile(dialect=_RAW_DIALECT).string


def compile_with_numbered_parameters(
    statement: Executable, values: Mapping[str, Any]
) -> tuple[LiteralString, list[Any]]:
    """Return a statement's text with Postgres's own ``$n``, and its parameters in order.

    Args:
        statement: the statement.
        values: the parameters that have no value in it.

    """
    result, constants = _compile(statement, None, _RAW_DIALECT)
    given = {**constants, **values}
    return cast("LiteralString", result.string), [given[name] for name in result.positiontup]


# Written out, a number with a point would be numeric, and a whole Decimal an integer.
_CASTS: Mapping[type, str] = {float: "::float8", Decimal: "::numeric"}


class _FoldCompiler(PGCompiler_psycopg):
    """Writes out every parameter but those of the window, as psycopg would send it and with the type it would have."""

    def visit_bindparam(self, bindparam: BindParameter[Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401
        if bindparam.key not in VARIABLES and not bindparam.required:
            options["literal_binds"] = True
        return super().visit_bindparam(bindparam, *args, **options)  # type: ignore[no-untyped-call]

    def render_literal_bindparam(self, bindparam: BindParameter[Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401
        if bindparam.expanding:
            return super().render_literal_bindparam(bindparam, *args, **options)  # type: ignore[no-untyped-call]
        return self.render_literal_value(bindparam.effective_value, bindparam.type)

    def render_literal_value(self, value: Any, type_: TypeEngine[Any]) -> str:  # noqa: ANN401
        impl = type_.dialect_impl(self.dialect)
        # As SQLAlchemy would hand it over: a member of an Enum by its name, JSON as JSON.
        if processor := impl.bind_processor(self.dialect):
            value = processor(value)
        if isinstance(value, Enum):
            value = value.value
        while isinstance(impl, TypeDecorator):
            impl = impl.impl_instance.dialect_impl(self.dialect)
        text = sql.Literal(value).as_string().strip()
        if isinstance(value, str) and "%(" in text:
            # SQLAlchemy looks for names of parameters in the whole text.
            text = f"E{text.removeprefix('E')}".replace("%(", r"\x25(")
        # -1::smallint would be -(1::smallint), and --1 no number at all.
        text = f"({text})" if text.startswith("-") else text
        if impl.render_bind_cast:
            return cast("str", self.render_bind_cast(type_, impl, text))  # type: ignore[no-untyped-call]
        return text + _CASTS.get(type(value), "")


_FOLD_DIALECT.statement_compiler = _FoldCompiler


class _StepCompiler(_FoldCompiler):
    """The same, with the window's parameters as variables."""

    def visit_bindparam(self, bindparam: BindParameter[Any], *args: Any, **options: Any) -> Any:  # noqa: ANN401
        return VARIABLES.get(bindparam.key) or super().visit_bindparam(bindparam, *args, **options)


_STEP_DIALECT.statement_compiler = _StepCompiler


def _compile(statement: Executable, schemas: Schemas | None, dialect: Any) -> tuple[Any, dict[str, Any]]:  # noqa: ANN401
    # Typed without compile(), which every statement has. SQLAlchemy writes the text; nothing of a user is in it.
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
