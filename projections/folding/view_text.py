"""The query of a view as text."""

from __future__ import annotations

from typing import LiteralString

from projections.errors import InvalidProjection
from projections.folding.sql_text import compile_reproducible
from projections.views import View


def compose_view_query(view: View) -> LiteralString:
    """Return the query of a view as SQL text, with its constants as literals.

    Raises:
        InvalidProjection: it has parameters without values, which a view can't have.

    """
    if isinstance(view.query, str):
        # The author of a projection writes it, as the fold.
        return view.query.strip().removesuffix(";")
    text, parameters = compile_reproducible(view.query)
    if parameters:
        raise InvalidProjection(f"view {view.name}: its query has parameters ({', '.join(parameters)}); write values")
    return text
