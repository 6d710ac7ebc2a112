"""Generates the protobuf stubs from proto/, or checks that the committed ones match proto/.

The stubs are in ``eventstore.contracts._generated`` and use their own descriptor pool, because a process may also have
loaded the vendor's SDK, whose messages have the same names, into protobuf's default pool.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
TARGET = ROOT / "eventstore" / "contracts" / "_generated"
PACKAGE = "eventstore.contracts._generated"
DEFAULT_POOL = "_descriptor_pool.Default()"
PRIVATE_POOL = "POOL"
POOL_IMPORT = "from google.protobuf import descriptor_pool as _descriptor_pool\n"


def generate(into: Path) -> dict[str, str]:
    """Return the generated files, by path relative to the stub folder."""
    sources = sorted(PROTO.rglob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"-I{PROTO}",
            f"-I{well_known}",
            f"--python_out={into}",
            f"--pyi_out={into}",
            *map(str, sources),
        ]
    )
    if status:
        raise SystemExit(status)
    files: dict[str, str] = {}
    for path in sorted(into.rglob("*_pb2.py*")):
        text = path.read_text()
        if path.suffix == ".py":
            if DEFAULT_POOL not in text or POOL_IMPORT not in text:
                raise SystemExit(f"{path.name}: the generator's output changed; the pool can't be replaced")
            text = text.replace(POOL_IMPORT, f"from {PACKAGE}.pool import {PRIVATE_POOL}\n")
            text = text.replace(DEFAULT_POOL, PRIVATE_POOL)
        files[path.relative_to(into).as_posix()] = text
    return files


def main() -> int:
    """Write the stubs, or with ``--check`` compare them; return 1 if they differ."""
    check = sys.argv[1:] == ["--check"]
    with tempfile.TemporaryDirectory() as folder:
        files = generate(Path(folder))
    packages = {p.as_posix() for name in files for p in Path(name).parents if p != Path()}
    files |= {f"{p}/__init__.py": "" for p in packages}
    present = {p.relative_to(TARGET).as_posix() for p in TARGET.rglob("*_pb2.py*")}
    stale = sorted(present - set(files))
    differing = [
        name for name, text in files.items() if not (TARGET / name).exists() or (TARGET / name).read_text() != text
    ]
    if check:
        for name in sorted({*stale, *differing}):
            print(f"{name} doesn't match proto/; run make stubs", file=sys.stderr)
        return 1 if stale or differing else 0
    for name in stale:
        (TARGET / name).unlink()
    for name in differing:
        (TARGET / name).parent.mkdir(parents=True, exist_ok=True)
        (TARGET / name).write_text(files[name])
    print(f"{len(differing)} written, {len(stale)} removed, {len(files)} in all")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
