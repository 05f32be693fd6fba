"""Files and folders that only their owner can read, and that survive a power cut once they are reported written."""

import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.records.errors import InputError


def make_private_folder(path: Path) -> None:
    """Makes the folder, and those above it that are missing, with mode 0700.

    Raises:
        InputError: ``not-private`` where something stands there that another user could exchange or read.
    """
    if not path.parent.is_dir():
        make_private_folder(path.parent)
    try:
        path.mkdir(mode=0o700)
        sync_folder(path.parent)
    except FileExistsError:
        _refuse_foreign(path)


def write_private(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Writes a file with mode 0600 and forces it to disk; nothing may stand at `path`, and nothing stays on failure."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            for piece in pieces:
                stream.write(piece)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_private_json(path: Path, content: Any) -> None:
    """Writes JSON beside `path`, then renames it to `path`, whether or not something stood there."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    write_private(aside, [json.dumps(content, indent=2, allow_nan=False).encode() + b"\n"])
    move(aside, path)


def move(source: Path, target: Path) -> None:
    """Renames and forces both folders' entries to disk."""
    source.replace(target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def sync_folder(path: Path) -> None:
    """Forces a folder's entries to disk: a rename alone may be forgotten at a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_foreign(path: Path) -> None:
    status = path.lstat()
    if not path.is_dir() or path.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise InputError(path, found="a link, a file, or a folder that others own or may enter", reason="not-private",
                         wanted="a folder with mode 0700 of the user who runs this",
                         remedy="choose a new folder, or `chmod 700` this one")
