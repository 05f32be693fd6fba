"""From the path a person gives to the scans below it, each with a name for its output folder; and their reading."""

from dataclasses import replace
from pathlib import Path

from pipeline.imaging.dicom import Irregular, read_series
from pipeline.imaging.file_kinds import ACCEPTED, Kind, kind_by_name, kind_of, stem_of
from pipeline.imaging.file_listing import list_files
from pipeline.imaging.locations import Found, Refused, ScanLocation, named, printable
from pipeline.imaging.nifti import read_nifti
from pipeline.imaging.pictures import read_picture
from pipeline.imaging.pseudonyms import pseudonym
from pipeline.imaging.scans import Scan
from pipeline.imaging.series_choice import SeriesRule
from pipeline.imaging.series_discovery import find_series
from pipeline.imaging.volumes import read_volume
from pipeline.records.errors import InputError

__all__ = ["Found", "Irregular", "Refused", "ScanLocation", "SeriesRule", "find_scans", "read_scan"]

PICTURE = "picture"


def read_scan(source: Path | ScanLocation, *, irregular: Irregular = "refuse") -> Scan:
    """Returns the scan at a path that holds one, or at a place that `find_scans` found.

    Raises:
        InputError: as the readers of the formats; for a path also as `find_scans`, and ``several-scans``.
    """
    location = source if isinstance(source, ScanLocation) else _only_scan(source)
    if location.series is not None:
        scan = read_series(location.series, where=location.path, irregular=irregular)
    else:
        scan = _read_file(location.path)
    return replace(scan, warnings=(*scan.warnings, *location.warnings)) if location.warnings else scan


def find_scans(path: Path, *, leave_out: Path | None = None, series: str | None = None, rule: SeriesRule | None = None,
               strict: bool = False, may_be_none: bool = False) -> Found:
    """Returns the scans at `path`, or all below it, and what there is besides.

    DICOM series are found by their headers over all files, so one may lie in several folders, and a copy of an image
    counts once. Names are the file's stem, or for DICOM a keyed hash of the series UID; equal names get ``-2``, ``-3``.
    Hidden files and folders, macOS's ``._`` files among them, are passed over.

    Args:
        path: a NIfTI, NRRD, MetaImage, PNG or TIFF file, a DICOM file of several frames, a DICOMDIR, a zip archive of
            such files, or a folder of all these, at any depth.
        leave_out: a folder to pass over, for instance where earlier results lie.
        series: which DICOM series: `all`, or a UID, else a number, else a part of the description.
        rule: chooses among several DICOM series of a study, as `choose_series` says.
        strict: the rule also refuses the only series of a study.
        may_be_none: where there are refusals and nothing else, they are returned instead of raised.

    Raises:
        InputError: ``missing-file``, ``no-images``, ``no-such-series``, the reason of the first refusal where there is
            nothing else, or as `list_files`.
    """
    found = _find(path, leave_out=leave_out, series=series, rule=rule, strict=strict)
    if found.refused and not found.scans and not may_be_none:
        raise found.refused[0].error
    wished = (replace(scan, name=pseudonym(scan.name or scan.relative) if scan.series else scan.name)
              for scan in found.scans)
    return replace(found, scans=named(wished))


def _find(path: Path, *, leave_out: Path | None = None, series: str | None = None, rule: SeriesRule | None = None,
          strict: bool = False) -> Found:
    """Does the work of `find_scans`, but for names, which may be equal and are UIDs of DICOM series."""
    listing = list_files(path, leave_out=leave_out)
    root = path.name or path.resolve().name or "scans"
    dicom = find_series(path, listing, root=root, series=series, rule=rule, strict=strict)
    files = [ScanLocation(stem_of(file.path.name), file.path, file.relative) for file in listing.scans
             if rule is None or rule.pictures or file.path == path or kind_by_name(file.path.name) != PICTURE]
    pictures = len(listing.scans) - len(files)
    set_aside = dicom.set_aside | ({PICTURE: pictures} if pictures else {})
    scans = [replace(scan, relative=printable(scan.relative or root)) for scan in (*files, *dicom.scans)]
    refused = [replace(one, relative=printable(one.relative or root)) for one in (*listing.refused, *dicom.refused)]
    scans.sort(key=lambda scan: scan.relative.split("/"))
    refused.sort(key=lambda one: one.relative.split("/"))
    if scans or refused:
        return Found(tuple(scans), set_aside, tuple(refused))
    kinds = ", ".join(f"{count} {kind}" for kind, count in set_aside.items())
    raise InputError(path, found=f"no scan ({kinds})" if kinds else "no scan", wanted=ACCEPTED, reason="no-images",
                     remedy="check that this is the folder with the images")


def _only_scan(path: Path) -> ScanLocation:
    if _kind(path) in ("nifti", "nrrd", "meta", "picture"):
        return ScanLocation("", path, path.name)
    found = _find(path)
    if found.refused:
        raise found.refused[0].error
    if len(found.scans) > 1:
        raise InputError(path, found=f"{len(found.scans)} scans", wanted="one scan", remedy="give the path of one",
                         reason="several-scans")
    return found.scans[0]


def _read_file(path: Path) -> Scan:
    kind = _kind(path)
    if kind == "nrrd" or kind == "meta":
        return read_volume(path, kind)
    return read_picture(path) if kind == PICTURE else read_nifti(path)


def _kind(path: Path) -> Kind | None:
    """Returns what kind of image the file is, None also where it cannot be read: the readers say why."""
    try:
        return kind_of(path)
    except OSError:
        return None
