"""A file that appears only when it is complete, and that only its owner can read."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from eventstore.errors import ArchiveError


def check_output_path(path: Path) -> Path:
    """Return the file that a path names, after its symbolic links.

    Raises:
        ArchiveError: it exists and is not a regular file, so it would be lost; the message says what to do.

    """
    if str(path) == "-":
        raise ArchiveError("- is not a file; the events can't be written to stdout, so give a file name")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except OSError as error:
        raise ArchiveError(f"{path} can't be written: {error.strerror}") from error
    if stat.S_ISDIR(mode):
        raise ArchiveError(f"{path} is a folder; give a file name")
    if not stat.S_ISREG(mode):
        raise ArchiveError(f"{path} is a pipe or a device, not a regular file; give another file name")
    return path.resolve()


class NewFile:
    """Writes a temporary file that only its owner can read, and renames it once it is complete.

    A context manager; after an error no file is left. If the name is a symbolic link, the file that it leads to is
    written.

    Args:
        path: the file's name.
        replace: whether an existing file is replaced, also one that was created while this one was written.

    """

    def __init__(self, path: Path, *, replace: bool = True) -> None:
        self._path = path
        self._replace = replace
        self._target: Path
        self._part: Path
        self._file: BinaryIO

    def __enter__(self) -> Self:
        self._target = check_output_path(self._path)
        # A random name, so that two exports to the same file don't write into each other's temporary file.
        self._part = self._target.with_name(f"{self._target.name}.{secrets.token_hex(6)}.part")
        try:
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as error:
            raise ArchiveError(f"{self._path} can't be written: {error.strerror}") from error
        self._file = os.fdopen(descriptor, "wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._file:
                if error is None:
                    self._file.flush()
                    os.fsync(self._file.fileno())
                    self._rename()
        except FileExistsError as taken:
            raise ArchiveError(f"{self._path} already exists; choose another name or use --force") from taken
        except OSError as failed:
            if error is None:
                raise ArchiveError(f"{self._path} can't be written: {failed.strerror}") from failed
        finally:
            self._part.unlink(missing_ok=True)

    def _rename(self) -> None:
        if self._replace:
            self._part.replace(self._target)
            return
        try:
            self._target.hardlink_to(self._part)  # which fails if the file exists
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: check, then rename
            if self._target.exists():
                raise FileExistsError from None
            self._part.replace(self._target)

    def write(self, data: bytes) -> None:
        """Write some bytes.

        Raises:
            ArchiveError: they can't be written, for example because the disk is full.

        """
        try:
            self._file.write(data)
        except OSError as error:
            raise ArchiveError(f"{self._path} can't be written: {error.strerror}") from error
