"""Writes files atomically and readable by their owner only, and locks a file between processes."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eventstore.errors import EmbeddedError

PRIVATE = 0o600


def write_whole(path: Path, text: str, *, mode: int = PRIVATE, group: int | None = None) -> None:
    """Write a file so that readers see the old text or the new text, also after a power failure.

    The new file is created beside the old one under a random name, never through a symbolic link.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if group is not None:
                os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, *, wait: float, poll: float) -> Iterator[int]:
    """Hold a file lock, which the kernel releases when its holder dies; yields the locked descriptor.

    A child that inherits the descriptor holds the lock too, until it ends.

    Args:
        path: the lock file; it is never removed.
        wait: seconds to wait for the current holder.
        poll: seconds between attempts.

    Raises:
        EmbeddedError: another process held the lock for all that time; the message names it.

    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE)
    try:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
                    raise EmbeddedError(
                        f"process {holder} has held {path} for over {wait:g} s; if it is frozen, kill it and try again"
                    ) from None
                time.sleep(poll)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        try:
            yield descriptor
        finally:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
