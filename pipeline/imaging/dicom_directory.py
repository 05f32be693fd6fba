"""A DICOMDIR: the files that it lists, as far as they are there."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.config import disable_value_validation

from pipeline.records.errors import InputError

NAME = "dicomdir"
DIRECTORY_CLASS = b"1.2.840.10008.1.3.10"
# A record takes a few hundred bytes; this is a directory of a million images.
MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class ListedFiles:
    """Files that are there, in the directory's order, and how many are not, with the name of the first of those."""

    files: tuple[Path, ...]
    missing: int
    first_missing: str


def is_directory(start: bytes) -> bool:
    """Returns whether a file with these first bytes is a DICOMDIR: its class stands in the file meta information."""
    return start[128:132] == b"DICM" and DIRECTORY_CLASS in start


def files_listed(path: Path) -> ListedFiles:
    """Returns what the directory lists; names that would leave its folder count as missing.

    Copies from a disc often have small letters where the disc has capitals: those are found too.

    Raises:
        InputError: ``damaged-header``.

    Source: DICOM PS3.3, annex F; PS3.10, 8 file IDs.
    """
    found: list[Path] = []
    missing: list[str] = []
    for parts in _file_ids(path):
        file = _below(path.parent, parts)
        if file is None:
            missing.append("/".join(parts))
        else:
            found.append(file)
    return ListedFiles(tuple(found), len(missing), missing[0] if missing else "")


def _file_ids(path: Path) -> Iterator[tuple[str, ...]]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("it is too large")
        with disable_value_validation():
            content: Any = pydicom.dcmread(path, specific_tags=["DirectoryRecordSequence"])
            ids = [record.get("ReferencedFileID") for record in content.DirectoryRecordSequence]
    except Exception as error:  # pydicom raises many kinds for damaged files
        raise InputError(path, found=f"a DICOMDIR that cannot be read ({type(error).__name__})", wanted="a whole one",
                         remedy="give the folder it lies in", reason="damaged-header") from error
    for value in ids:
        if value:
            yield (value,) if isinstance(value, str) else tuple(str(part) for part in value)


def _below(folder: Path, parts: tuple[str, ...]) -> Path | None:
    if any(part in ("", ".", "..") or "/" in part or "\\" in part or "\0" in part for part in parts):
        return None
    for names in (parts, tuple(part.lower() for part in parts)):
        file = folder.joinpath(*names)
        if file.is_file():
            return file
    return None
