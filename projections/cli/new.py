"""``projections new``: makes a package with a read model of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypedDict

import typer

from eventstore.errors import UsageError
from projections.cli.shared.common_options import JsonOption
from projections.cli.shared.error_handling import handles_errors
from projections.cli.shared.json_documents import writes_json
from projections.cli.shared.output import print_data, print_json, print_message
from projections.cli.shared.typer_app import new_app
from projections.scaffolding.new_package import NewPackage, PackageKind, make_package

app = new_app()


class MadePackage(TypedDict):
    """The package that was made.

    Attributes:
        name: the read model.
        kind: how it is written.
        folder: the package's folder.
        files: the paths of the files in it.
        edit: the file that declares the read model.

    """

    name: str
    kind: Literal["blocks", "sql", "python"]
    folder: str
    files: list[str]
    edit: str


@app.command()
@handles_errors
@writes_json(MadePackage)
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The read model's name, such as daily_costs.")],
    *,
    blocks: Annotated[
        bool, typer.Option("--blocks", help="Write it with building blocks. This is the default.")
    ] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Write it in SQL.")] = False,
    python: Annotated[bool, typer.Option("--python", help="Write it as a Python function of one event.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a package with a read model of your own, and a test that passes.

    The package is a new folder NAME here. It declares a table, and how it is folded; change it into what you need. The
    table has the read model's name.

    Exit code 2 when the folder exists, or when something installed has the name.
    """
    chosen = [kind for kind, given in zip(PackageKind, (blocks, sql, python), strict=True) if given]
    if len(chosen) > 1:
        raise UsageError("give one of --blocks, --sql and --python")
    made = make_package(name, chosen[0] if chosen else PackageKind.BLOCKS, Path())
    if as_json:
        print_json(_describe(made))
    else:
        for path in made.files:
            print_data(f"{made.folder / path}")
    print_message(f"to test it: cd {made.folder} && python -m pip install -e '.[test]' && pytest")
    print_message(f"to make it your own, edit {made.folder / made.edit}; README.md says how to run it")


def _describe(made: NewPackage) -> MadePackage:
    return {
        "name": made.name,
        "kind": made.kind.value,
        "folder": str(made.folder),
        "files": [*made.files],
        "edit": made.edit,
    }
