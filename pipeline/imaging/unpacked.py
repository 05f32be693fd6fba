"""Zip archives of scans, unpacked for as long as the process lives."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from pipeline.records.archives import Limits, unpack
from pipeline.records.errors import InputError

# Studies of several thousand slices fit; what is larger is better unpacked once than at each run.
MOST_FILES = 65_000
# CT and MR become three to five times as large, label maps a hundred times.
MOST_INFLATION = 200
# Of the temporary folder's free space, this share stays.
KEPT_SHARE = 0.1

_folders: list[Path] = []


def unpacked(archive: Path) -> Path:
    """Returns a private folder with the archive's files, none hidden; it is removed at exit or by `remove_unpacked`.

    Raises:
        InputError: as `unpack`, and ``unreadable-file``.
    """
    folder = Path(tempfile.mkdtemp(prefix="segline-"))
    if not _folders:
        # A forked child that ends must not take the folders from its parent.
        atexit.register(_remove_if_owner, os.getpid())
    _folders.append(folder)
    free = int(shutil.disk_usage(folder).free * (1 - KEPT_SHARE))
    try:
        unpack(archive, folder, keep_top=True, limits=Limits(MOST_FILES, free, MOST_INFLATION))
    except OSError as error:
        # Names too long, a member that is both file and folder, a full disk.
        raise InputError(archive, found=f"an archive that cannot be unpacked ({error.strerror})",
                         wanted="a readable archive and space for its files",
                         remedy="unpack it yourself and give the folder", reason="unreadable-file") from error
    return folder


def remove_unpacked() -> None:
    """Removes what this process has unpacked; for programs that end without Python's exit handlers."""
    while _folders:
        shutil.rmtree(_folders.pop(), ignore_errors=True)


def _remove_if_owner(owner: int) -> None:
    if os.getpid() == owner:
        remove_unpacked()
