"""From the path a person gives to the scans below it, each with a name for its output folder."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.imaging.dicom import read_series
from pipeline.imaging.dicom_headers import image_series, is_dicom
from pipeline.imaging.nifti import is_nifti_name, read_nifti
from pipeline.imaging.pseudonyms import pseudonym
from pipeline.imaging.scans import Scan
from pipeline.records.errors import InputError

# Written beside the output folders, so no scan may take its name.
RESERVED_NAMES = ("summary.json",)


@dataclass(frozen=True)
class ScanLocation:
    """One scan that was found and not yet read.

    Attributes:
        name: of its output folder, unique among the scans found together.
        path: a NIfTI file, or the folder of a DICOM series.
        relative: POSIX path from the given folder, or the given path's own last part.
    """

    name: str
    path: Path
    relative: str


def read_scan(path: Path) -> Scan:
    """Reads a NIfTI file or the DICOM series in a folder; raises `InputError` as their readers do."""
    return read_series(path) if path.is_dir() else read_nifti(path)


def find_scans(path: Path, *, leave_out: Path | None = None) -> list[ScanLocation]:
    """Returns the scan at `path`, or all below it, sorted by path.

    Names are the NIfTI's stem, or for DICOM a keyed hash of the series UID; equal names get ``-2``, ``-3``. Hidden
    files and folders, macOS's ``._`` files among them, are passed over.

    Args:
        path: a NIfTI file, a DICOM series folder, or a folder of such, at any depth.
        leave_out: a folder to pass over, for instance where earlier results lie.

    Raises:
        InputError: ``missing-file``, ``not-an-image``, ``no-images``, ``unreadable-folder``, ``undecodable``.
    """
    if not path.exists():
        raise InputError(path, found="no such file or folder", wanted="a NIfTI file, a DICOM series folder or a folder "
                         "of such", remedy="check the path", reason="missing-file")
    if path.is_file():
        _refuse_single_slice(path)
        return _named([(path, _stem(path))], root=path.parent)
    left_out = leave_out.resolve() if leave_out is not None else None
    try:
        found = sorted(_below(path, left_out, frozenset()))
    except PermissionError as error:
        raise InputError(error.filename, found="a folder or file that may not be read", wanted="read permission",
                         remedy="change its permissions or leave it out", reason="unreadable-folder") from error
    if not found:
        raise InputError(path, found="no scan", wanted="NIfTI files (.nii, .nii.gz) or DICOM images",
                         remedy="check that this is the folder with the images", reason="no-images")
    return _named(found, root=path)


def _refuse_single_slice(path: Path) -> None:
    try:
        is_slice = is_dicom(path)
    except OSError:
        return  # the NIfTI reader says what is wrong with it
    if is_slice:
        raise InputError(path, found="a single DICOM file", wanted="the folder of its series",
                         remedy=f"give {path.parent}", reason="not-an-image")


def _below(folder: Path, left_out: Path | None, above: frozenset[Path]) -> Iterator[tuple[Path, str]]:
    """Yields path and preferred name of each scan in `folder` and below; follows links, but in no circle."""
    real = folder.resolve()
    if real in above or real == left_out:
        return
    has_dicom = False
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _below(entry, left_out, above | {real})
        elif is_nifti_name(entry):
            yield entry, _stem(entry)
        elif entry.is_file():
            has_dicom = has_dicom or is_dicom(entry)
    if has_dicom:
        yield from _series_folder(folder)


def _series_folder(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yields the folder once if it holds images; which series, if several, is for the reader to refuse."""
    try:
        series = image_series(folder)
    except InputError:
        # A damaged file is this scan's failure and must not stop the others; the reader names it.
        yield folder, pseudonym(folder.name)
        return
    if series:
        yield folder, pseudonym("\n".join(one.uid for one in series))


def _stem(path: Path) -> str:
    for suffix in (".nii.gz", ".nii"):
        if path.name.lower().endswith(suffix) and len(path.name) > len(suffix):
            return path.name[: -len(suffix)]
    return path.name


def _named(found: list[tuple[Path, str]], *, root: Path) -> list[ScanLocation]:
    """Gives each path a name of its own, also where the file system takes capitals for small letters."""
    taken = {name.casefold() for name in RESERVED_NAMES}
    locations = []
    for path, preferred in found:
        wanted = _text(preferred)
        name, count = wanted, 1
        while name.casefold() in taken:
            count += 1
            name = f"{wanted}-{count}"
        taken.add(name.casefold())
        relative = path.relative_to(root).as_posix() if path != root else path.resolve().name
        locations.append(ScanLocation(name, path, _text(relative)))
    return locations


def _text(name: str) -> str:
    """Returns the name as UTF-8 can hold it: file systems take bytes that are no text."""
    return os.fsencode(name).decode("utf-8", "replace")
