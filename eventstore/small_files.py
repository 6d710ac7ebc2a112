"""Reads small local files with a size limit, so that a wrong path can't fill the memory."""

from __future__ import annotations

import errno
from pathlib import Path

MAX_FILE_BYTES = 2**20
"""Size limit of a configuration, token, secret or certificate file."""


def read_small_file(path: Path) -> bytes:
    """Return the contents of a file.

    Raises:
        OSError: it can't be read, or is larger than :data:`MAX_FILE_BYTES`.

    """
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, f"it is larger than {MAX_FILE_BYTES // 2**20} MiB", str(path))
    return data
