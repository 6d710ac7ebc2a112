"""Builds the wheel, checks its files, installs it in an empty virtualenv elsewhere, and uses it there.

Its dependencies are the locked ones: those that the wheel declares, and theirs in turn, are copied from the current
environment, which was built from the lock. So a dependency that the wheel doesn't declare is missing, and the check
fails.
"""

from __future__ import annotations

import email
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
NAME = "projections-engine"
FORBIDDEN = {"proto", "migrations", "tests", "tools", "benchmarks", "docs"}
REQUIRED = (
    "projections/_migrations/env.py",
    "projections/py.typed",
    "projections/_docs/README.md",
    "projections/_docs/CHANGELOG.md",
    "eventstore/_proto/chat/external/message_service.proto",
    "eventstore/_proto/pcs/external/v1/message_service.proto",
    "eventstore/py.typed",
)
PACKAGES = ("eventstore", "projections")
EXTRA = "embedded"
DESTROY = (
    "import sys, pathlib, projections.sandbox.embedded as e; e.EmbeddedPostgres(pathlib.Path(sys.argv[1])).destroy()"
)


def main() -> int:
    """Run the check; a failure ends it with the reason."""
    with tempfile.TemporaryDirectory(prefix="wheel-check-") as name:
        folder = Path(name)
        wheel = build(folder)
        look_inside(wheel)
        python = install(wheel, folder)
        use(python, folder)
    print(f"{wheel.name}: installed alone, it shows its documentation and migrates an empty database")
    return 0


def build(folder: Path) -> Path:
    """Build the wheel and return its path."""
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")], ROOT)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def look_inside(wheel: Path) -> None:
    """Fail if the wheel has top-level packages that aren't ours, or lacks one of our data files."""
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    if stray := {name for name in top if name in FORBIDDEN} | {
        name for name in top if name not in PACKAGES and not name.endswith(".dist-info")
    }:
        raise SystemExit(f"the wheel has {', '.join(sorted(stray))} at its top level")
    if missing := [name for name in REQUIRED if name not in names]:
        raise SystemExit(f"the wheel has no {', '.join(missing)}")
    packages = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if "__pycache__" not in path.parts]
    paths = {path.relative_to(ROOT).as_posix() for path in packages if path.is_file()}
    if missing := sorted(paths - {*names}):
        raise SystemExit(f"the wheel lacks {', '.join(missing)}")
    for source, packed in (("migrations/versions", "_migrations/versions"), ("docs", "_docs"), ("deploy", "_deploy")):
        files = {path.name for path in (ROOT / source).iterdir() if path.is_file()}
        if missing_files := [name for name in sorted(files) if f"projections/{packed}/{name}" not in names]:
            raise SystemExit(f"the wheel lacks {', '.join(missing_files)} of {source}")
    check_metadata(wheel)


def check_metadata(wheel: Path) -> None:
    """Fail unless the wheel has the name, the licence with its text, the authors and the README."""
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
        licence = archive.read(f"{folder}/licenses/LICENSE")
    expected = {
        "Name": NAME,
        "License-Expression": "Apache-2.0",
        "License-File": "LICENSE",
        "Author": "the projections maintainers",
        "Description-Content-Type": "text/markdown",
        "Project-URL": None,
    }
    if wrong := {key: metadata[key] for key, value in expected.items() if metadata[key] != value}:
        raise SystemExit(f"the wheel's metadata has {wrong}")
    if licence != (ROOT / "LICENSE").read_bytes():
        raise SystemExit("the wheel has another LICENSE")
    description = metadata.get_payload(decode=True)
    if not isinstance(description, bytes) or description.strip() != (ROOT / "README.md").read_bytes().strip():
        raise SystemExit("the wheel's description is not the README")


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel and its dependencies in a new virtualenv, and return the virtualenv's Python."""
    environment = folder / "environment"
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)], folder)
    python = environment / "bin" / "python"
    purelib = Path(
        run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).stdout.strip()
    )
    for name in closure(wheel):
        copy_distribution(name, purelib)
    uv = [str(Path(sysconfig.get_path("scripts")) / "uv"), "--no-config", "--offline", "pip"]
    run([*uv, "install", "--no-cache", "--no-deps", "--no-index", "--python", str(python), str(wheel)], folder)
    run([*uv, "check", "--no-cache", "--python", str(python)], folder)
    return python


def closure(wheel: Path) -> set[str]:
    """Return the names of the wheel's dependencies on this machine, and of their dependencies."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    todo = [
        (requirement, EXTRA)
        for line in lines
        if line.startswith("Requires-Dist: ")
        for requirement in [Requirement(line.removeprefix("Requires-Dist: "))]
    ]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            if (requirement.name, wanted) not in seen:
                seen.add((requirement.name, wanted))
                needed = importlib.metadata.requires(requirement.name) or []
                todo += [(Requirement(line), wanted) for line in needed]
    return {name for name, _ in seen}


def copy_distribution(name: str, target: Path) -> None:
    """Copy a distribution's importable files; its commands aren't needed."""
    distribution = importlib.metadata.distribution(name)
    for file in distribution.files or []:
        if ".." in file.parts:
            continue
        to = target.joinpath(*file.parts)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(str(distribution.locate_file(file)), to)


def use(python: Path, folder: Path) -> None:
    """Migrate an empty embedded database with the installed command, from a folder outside the checkout."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    home = folder / "home"
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PROJECTIONS_HOME": str(home)}
    command = str(python.with_name("projections"))
    try:
        for arguments in (["--help"], ["docs"], ["migrate"], ["migrate"], ["db", "url"]):
            run([command, *arguments], elsewhere, environment)
        version = run([command, "--version"], elsewhere, environment).stdout
        if version.strip() != f"projections {importlib.metadata.version(NAME)}":
            raise SystemExit(f"the installed command has version {version!r}")
        for page, source in {"configuration": "docs/configuration.md", "readme": "README.md"}.items():
            if run([command, "docs", page], elsewhere, environment).stdout != (ROOT / source).read_text():
                raise SystemExit(f"projections docs {page} doesn't print {source}")
        counted = "select count(*) from eventstore.events"
        answer = run([command, "db", "psql", "--", "-Atc", counted], elsewhere, environment).stdout
        if answer.strip() != "0":
            raise SystemExit(f"the migrated database has {answer!r} events, not 0")
    finally:
        run([str(python), "-c", DESTROY, str(home)], elsewhere, environment)


def run(
    command: list[str], folder: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command; a failure ends the check and prints its output."""
    done = subprocess.run(  # noqa: S603 - commands of ours
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} exited {done.returncode}:\n{done.stdout}{done.stderr}")
    return done


if __name__ == "__main__":
    raise SystemExit(main())
