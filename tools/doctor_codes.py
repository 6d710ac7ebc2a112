"""Generates the table of codes in docs/doctor.md from the code: none is missing.

The table is between ``<!-- doctor codes -->`` and ``<!-- end -->``. Everything else on the page is written by hand.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from projections.inspecting.finding_codes import CODES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "doctor.md"
_TABLE = re.compile(r"(<!-- doctor codes -->\n).*?(<!-- end -->)", re.DOTALL)


def with_codes(page: str) -> str:
    """Return the page with its table brought up to date."""
    rows = ["| code | severity | what it means | what mends it |", "|---|---|---|---|"]
    rows += [f"| `{name}` | {code.severity} | {code.meaning} | {code.mend} |" for name, code in CODES.items()]
    table = "\n".join(rows)
    return _TABLE.sub(lambda found: f"{found[1]}{table}\n{found[2]}", page)


def main() -> int:
    """Write the table, or with ``--check`` compare it; 1 when it differs."""
    text = PAGE.read_text()
    wanted = with_codes(text)
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(wanted)
    elif text != wanted:
        print(f"{PAGE.relative_to(ROOT)} differs from the codes: run make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
