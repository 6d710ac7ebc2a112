"""The file of exported events: a damaged one is refused, only its owner may read it, and it appears when complete."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore.contracts._generated.eventstore import archive_pb2 as archive
from eventstore.errors import ArchiveError
from eventstore.transfer.archive import (
    VERSION,
    ArchiveWriter,
    Contents,
    Record,
    check_archive,
    microseconds,
    moment,
    read_archive,
)


def header(version: int = 1) -> archive.Record:
    cursor = archive.Cursor(app="shop", contract="chat.external", last_event_id="x", last_received_at=-1, holes="[]")
    return Record(header=archive.Header(version=version, cursors=[cursor], head=9))


def event(position: int, payload: bytes = b"payload", app: str = "app") -> archive.Record:
    return Record(event=archive.StoredEvent(position=position, app=app, contract="chat.external", payload=payload))


def quarantined() -> archive.Record:
    return Record(quarantined=archive.Quarantined(app="clinic", contract="chat.external", payload=b"\xff", count=2))


def write_archive(path: Path, *records: archive.Record) -> bytes:
    with ArchiveWriter(path) as file:
        for record in records:
            file.write(record)
    return path.read_bytes()


def check(path: Path) -> Contents:
    return asyncio.run(check_archive(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events"


def test_records_are_read_as_they_were_written(path: Path) -> None:
    records = [header(), event(1), event(3, b"x" * 300), event(4, b""), quarantined()]
    write_archive(path, *records)
    *read, end = read_archive(path)
    assert read == records
    assert end.end.events == 3
    contents = check(path)
    assert (contents.header, contents.events) == (records[0].header, 3)
    assert contents.apps == {"app", "clinic", "shop"}


def test_a_log_without_events(path: Path) -> None:
    write_archive(path, header())
    assert check(path).events == 0
    assert check(path).apps == {"shop"}


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)))  # noqa: DTZ001 - made aware
def test_times_are_read_as_they_were_written(time: datetime) -> None:
    assert moment(microseconds(time)) == time


def test_a_file_truncated_at_any_byte_is_refused(path: Path) -> None:
    whole = write_archive(path, header(), event(1), event(2), quarantined())
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ArchiveError, match=r"incomplete|not a file written by projections export"):
            check(path)


@pytest.mark.parametrize("records", [[header(), event(1), event(2), quarantined()], [header()]])
def test_a_file_with_any_byte_changed_is_refused(path: Path, records: list[archive.Record]) -> None:
    whole = write_archive(path, *records)
    for place in range(len(whole)):
        for change in (0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF):
            changed = bytearray(whole)
            changed[place] ^= change
            path.write_bytes(changed)
            with pytest.raises(ArchiveError):
                check(path)


@pytest.mark.parametrize("more", [b"\0", b"x", b"\x80"])
def test_bytes_after_the_end_are_refused(path: Path, more: bytes) -> None:
    path.write_bytes(write_archive(path, header(), event(1)) + more)
    with pytest.raises(ArchiveError):
        check(path)


async def test_other_tasks_run_while_a_file_is_checked(path: Path) -> None:
    write_archive(path, header(), *(event(number) for number in range(1, 1_000)))
    checking = asyncio.create_task(check_archive(path))
    turns = 0
    while not checking.done():
        await asyncio.sleep(0)
        turns += 1
    assert (checking.result().events, turns >= 10) == (999, True)


def test_two_concatenated_files_are_refused(path: Path) -> None:
    path.write_bytes(write_archive(path, header(), event(1)) * 2)
    with pytest.raises(ArchiveError, match="not a file written by projections export"):
        check(path)


def test_swapped_or_omitted_records_are_refused(path: Path) -> None:
    one, two = event(1), event(2)
    whole = write_archive(path, header(), one, two)
    size = len(one.SerializeToString()) + 1
    start = whole.index(one.SerializeToString()) - 1
    first, second = whole[start : start + size], whole[start + size : start + 2 * size]
    for middle in (second + first, first, first + first + second, b""):
        path.write_bytes(whole[:start] + middle + whole[start + 2 * size :])
        with pytest.raises(ArchiveError, match="changed after it was written"):
            check(path)


NO_FILES_OF_OURS = [b"", b"\0", b"{}", b"\xff" * 99, b"\xff\xff\xff\xff\x7f", b"PK\x03\x04", b"\n" * 9]


@pytest.mark.parametrize("content", NO_FILES_OF_OURS)
def test_a_file_of_another_format_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=f"{path} is (incomplete|not a file written by)"):
        check(path)


def test_a_file_of_a_newer_version_is_refused(path: Path) -> None:
    write_archive(path, header(version=VERSION + 1))
    with pytest.raises(ArchiveError, match=rf"written by a newer version \(format {VERSION + 1}\); upgrade this one"):
        check(path)


def test_a_missing_file_and_a_folder_are_refused(path: Path) -> None:
    with pytest.raises(ArchiveError, match="can't be read: No such file or directory"):
        check(path)
    path.mkdir()
    with pytest.raises(ArchiveError, match="is not a regular file; an import reads it more than once"):
        check(path)
    with pytest.raises(ArchiveError, match="is a folder; give a file name"), ArchiveWriter(path):
        pass
    with pytest.raises(ArchiveError, match="is a folder; give a file name"), ArchiveWriter(Path()):
        pass
    with pytest.raises(ArchiveError, match="can't be written: No such file"), ArchiveWriter(path / "no" / "events"):
        pass


def test_a_pipe_is_refused_because_it_cannot_be_read_twice(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(ArchiveError, match="is not a regular file; an import reads it more than once"):
        check(path)


def test_a_pipe_a_device_or_a_folder_is_never_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(path)
    (link := path.with_name("link")).symlink_to(path)
    (circle := path.with_name("circle")).symlink_to(circle)
    monkeypatch.chdir(path.parent)
    for place, why in (
        (path, "is a pipe or a device, not a regular file; give another file name"),
        (link, "is a pipe or a device, not a regular file; give another file name"),
        (circle, "can't be written: Too many levels of symbolic links"),
        (circle / "events", "can't be written: Too many levels of symbolic links"),
        (Path("-"), "is not a file; the events can't be written to stdout, so give a file name"),
    ):
        with pytest.raises(ArchiveError, match=f"{place} {why}"), ArchiveWriter(place):
            pass
    assert (path.is_fifo(), link.readlink(), circle.readlink()) == (True, path, circle)
    assert len(list(path.parent.iterdir())) == 3


@pytest.mark.parametrize("content", [b"of before", None])
def test_the_target_of_a_symbolic_link_is_written(path: Path, content: bytes | None) -> None:
    folder = path.with_name("there")
    folder.mkdir()
    target = folder / "file"
    if content is not None:
        target.write_bytes(content)
    path.symlink_to("there/file")
    with ArchiveWriter(path) as file:
        file.write(header())
        assert [one for one in folder.iterdir() if one.suffix == ".part"], "next to the file, on the same disk"
    assert path.is_symlink()
    assert list(folder.iterdir()) == [target]
    assert check(target).events == 0


def test_only_the_owner_may_read_the_file(path: Path) -> None:
    before = os.umask(0)
    try:
        with ArchiveWriter(path) as file:
            file.write(header())
            (part,) = path.parent.iterdir()
            assert stat.S_IMODE(part.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_file_gets_its_name_only_when_it_is_complete(path: Path) -> None:
    path.write_bytes(b"of before")
    with ArchiveWriter(path) as file:
        file.write(header())
        assert path.read_bytes() == b"of before"
    assert check(path).events == 0
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_created_meanwhile_is_replaced_only_with_force(
    path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    with ArchiveWriter(path, replace=False) as file:
        file.write(header())
    assert check(path).events == 0
    path.unlink()
    file = ArchiveWriter(path, replace=False)
    with pytest.raises(ArchiveError, match="already exists; choose another name or use --force"), file:
        path.write_bytes(b"precious")
    assert path.read_bytes() == b"precious"
    assert list(path.parent.iterdir()) == [path]


def test_two_exports_to_one_file_do_not_write_into_each_other(path: Path) -> None:
    with ArchiveWriter(path) as first, ArchiveWriter(path) as second:
        for file in (first, second):
            file.write(header())
        assert len(list(path.parent.iterdir())) == 2
    assert check(path).events == 0
    assert list(path.parent.iterdir()) == [path]


def half_written(path: Path) -> None:
    with ArchiveWriter(path) as file:
        file.write(header())
        raise ZeroDivisionError


def test_an_error_leaves_no_new_file_and_keeps_the_old_one(path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        half_written(path)
    assert list(path.parent.iterdir()) == []
    path.write_bytes(b"of before")
    with pytest.raises(ZeroDivisionError):
        half_written(path)
    assert list(path.parent.iterdir()) == [path]
    assert path.read_bytes() == b"of before"


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Limit the size of files that this process writes, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_full_disk_is_reported_and_leaves_no_file(path: Path, size: int) -> None:
    records = [header(), *(event(number, b"x" * 5_000) for number in range(2 * size // 5_000))]
    with files_no_larger_than(size), pytest.raises(ArchiveError, match=f"{path} can't be written: File too large"):
        write_archive(path, *records)
    assert list(path.parent.iterdir()) == []
