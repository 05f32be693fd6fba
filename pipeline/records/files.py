"""Whole files or none: write aside, then rename; and digests of what was written."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ASIDE = ".aside-"


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """Yields a path beside `target` with the same suffixes; renames it to `target` when the block ends well.

    If the block raises, `target` stays as it was and the temporary file is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=ASIDE, dir=target.parent))
    try:
        aside = folder / target.name
        yield aside
        aside.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def folder_written_aside(target: Path) -> Iterator[Path]:
    """Yields an empty folder beside `target`; it takes the place of `target` when the block ends well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=ASIDE, dir=target.parent))
    try:
        aside = holder / target.name
        aside.mkdir()
        yield aside
        _exchange(aside, target, holder / "replaced")
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed process left aside in `folder`; only where no other process writes there."""
    for left in folder.glob(f"{ASIDE}*"):
        shutil.rmtree(left, ignore_errors=True)


def _exchange(new: Path, target: Path, replaced: Path) -> None:
    """Puts `new` in the place of `target`, which goes to `replaced`, or back if that fails half-way."""
    if target.exists():
        target.replace(replaced)
    try:
        new.replace(target)
    except BaseException:
        if replaced.exists() and not target.exists():
            replaced.replace(target)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON that is the same bytes for the same content: two spaces, keys in given order, newline at the end."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_of_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_text(text: str) -> str:
    """Returns the SHA-256 of UTF-8 text as 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()
