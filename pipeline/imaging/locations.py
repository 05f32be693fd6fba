"""Where scans were found, and by which names their results and their messages call them."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.imaging.dicom_headers import Series
from pipeline.records.errors import InputError

# Written beside the output folders, so no scan may take its name.
RESERVED_NAMES = ("summary.json", "summary.csv")
# Of UTF-8: file systems take 255, and a suffix may follow.
LONGEST_NAME_BYTES = 200
# Would break lines or steer a terminal.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class Refused:
    """A file or study that gives no scan, while others go on; `relative` as in `ScanLocation`."""

    relative: str
    error: InputError


@dataclass(frozen=True)
class ScanLocation:
    """One scan that was found and not yet read.

    Attributes:
        name: of its output folder, unique among the scans found together.
        path: a file, or the folder that holds the files of a DICOM series.
        relative: POSIX path from the given folder or through the given archive, or the given path's own last part; for
            DICOM the series' folder, with ``#`` and the series' number where the folder holds several.
        series: what to read, of a DICOM series.
        warnings: what is doubtful about where it was found.
    """

    name: str
    path: Path
    relative: str
    series: Series | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What lies at or below a path.

    Attributes:
        scans: in order of `relative`.
        set_aside: how many objects and series of each kind are no scan or were not chosen.
        refused: files and studies that give no scan although they should, in order of `relative`.
    """

    scans: tuple[ScanLocation, ...]
    set_aside: dict[str, int] = field(default_factory=dict)
    refused: tuple[Refused, ...] = ()


def named(scans: Iterable[ScanLocation]) -> tuple[ScanLocation, ...]:
    """Returns the scans with names of their own, also where the file system takes capitals for small letters."""
    taken = {name.casefold() for name in RESERVED_NAMES}
    result = []
    for scan in scans:
        wanted = _folder_name(scan.name)
        name, count = wanted, 1
        while name.casefold() in taken:
            count += 1
            name = f"{wanted}-{count}"
        taken.add(name.casefold())
        result.append(replace(scan, name=name))
    return tuple(result)


def printable(name: str) -> str:
    """Returns the name as UTF-8 can hold it and a terminal can show it: file systems take bytes that are no text."""
    return _CONTROL.sub("\ufffd", os.fsencode(name).decode("utf-8", "replace"))


def _folder_name(wanted: str) -> str:
    """Returns a name that makes one folder, and neither this one nor the one above."""
    name = printable(wanted).encode()[:LONGEST_NAME_BYTES].decode("utf-8", "ignore").replace("/", "_")
    return "scan" if not name.strip(". ") else name
