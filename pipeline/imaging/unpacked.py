"""Zip archives of scans, unpacked for as long as the process lives."""

import atexit
import os
import shutil
import tarfile
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from pipeline.records.archives import Limits, unpack
from pipeline.records.errors import InputError

# Studies of several thousand slices fit; what is larger is better unpacked once than at each run.
MOST_FILES = 65_000
# CT and MR become three to five times as large, label maps a hundred times.
MOST_INFLATION = 200
# Of the temporary folder's free space, this share stays.
KEPT_SHARE = 0.1

# The earliest that a zip can state, for members that state none.
NO_DATE = (1980, 1, 1, 0, 0, 0)

# Each folder with the archive that lies unpacked in it.
_folders: dict[Path, Path] = {}


def unpacked(archive: Path) -> Path:
    """Returns a private folder with the archive's files, none hidden; it is removed at exit or by `remove_unpacked`.

    Files have the times that the archive states, so that the same archive gives the same files each time. Of an archive
    that is refused nothing stays.

    Raises:
        InputError: as `unpack`, and ``unreadable-file``.
    """
    folder = None
    try:
        folder = _new_folder(archive)
        free = int(shutil.disk_usage(folder).free * (1 - KEPT_SHARE))
        unpack(archive, folder, keep_top=True, limits=Limits(MOST_FILES, free, MOST_INFLATION))
        _set_times(archive, folder)
    except BaseException as error:
        if folder is not None:
            _remove(folder)
        if not isinstance(error, OSError):
            raise
        # Names too long, a member that is both file and folder, a full disk.
        raise InputError(archive, found=f"an archive that cannot be unpacked ({error.strerror})",
                         wanted="a readable archive and space for its files",
                         remedy="unpack it yourself and give the folder", reason="unreadable-file") from error
    return folder


def archive_of(path: Path) -> tuple[Path, str] | None:
    """Returns of a path below an unpacked folder the archive's absolute path and the POSIX path in it; else None."""
    for folder, archive in _folders.items():
        if path.is_relative_to(folder):
            return archive, path.relative_to(folder).as_posix()
    return None


def remove_unpacked() -> None:
    """Removes what this process has unpacked; for programs that end without Python's exit handlers."""
    while _folders:
        _remove(next(iter(_folders)))


def _new_folder(archive: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="segline-"))
    if not _folders:
        # A forked child that ends must not take the folders from its parent.
        atexit.register(_remove_if_owner, os.getpid())
    _folders[folder] = archive.absolute()
    return folder


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _folders.pop(folder, None)


def _set_times(archive: Path, folder: Path) -> None:
    """Gives the unpacked files the archive's times, which name no zone and are taken as UTC."""
    dates: dict[PurePosixPath, tuple[int, ...]] = {}
    # The archive may also be a tar under the name of a zip, whose end is not to be looked at as one.
    if not tarfile.is_tarfile(archive):
        with zipfile.ZipFile(archive) as opened:
            dates = {PurePosixPath(info.filename): info.date_time for info in opened.infolist()}
    for path in folder.rglob("*"):
        if path.is_file():
            seconds = _seconds(dates.get(PurePosixPath(path.relative_to(folder)), NO_DATE))
            os.utime(path, (seconds, seconds))


def _seconds(date: tuple[int, ...]) -> float:
    year, month, day, hour, minute, second = date
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()
    except ValueError:
        return _seconds(NO_DATE)  # nobody checks what a zip states: month 0, hour 31


def _remove_if_owner(owner: int) -> None:
    if os.getpid() == owner:
        remove_unpacked()
