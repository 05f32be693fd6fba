"""What kind of image a file is, by its first bytes, and by its name where those do not tell."""

import os
import re
from pathlib import Path
from typing import Literal

from pipeline.imaging.dicom_directory import is_directory
from pipeline.imaging.dicom_elements import starts_as_dicom
from pipeline.imaging.pictures import PICTURE_SUFFIXES, starts_as_picture
from pipeline.imaging.voxels import GZIP_MAGIC

Kind = Literal["nifti", "nrrd", "meta", "dicom", "dicomdir", "zip", "picture"]

ACCEPTED = ("NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr), MetaImage (.mha, .mhd), PNG, TIFF, DICOM, a DICOMDIR or a "
            "zip of these")
SUFFIXES: dict[str, Kind] = {".nii": "nifti", ".nii.gz": "nifti", ".nrrd": "nrrd", ".nhdr": "nrrd", ".mha": "meta",
                             ".mhd": "meta", ".zip": "zip", **dict.fromkeys(PICTURE_SUFFIXES, "picture")}
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
START_BYTES = 512
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_NIFTI = ((348).to_bytes(4, "little"), (348).to_bytes(4, "big"), (540).to_bytes(4, "little"), (540).to_bytes(4, "big"))
_META = re.compile(rb"\s*(ObjectType|NDims|Comment)\s*=")


def kind_by_name(name: str) -> Kind | None:
    """Returns what the name says; DICOM files have none that does."""
    lower = name.lower()
    return next((kind for suffix, kind in SUFFIXES.items() if lower.endswith(suffix)), None)


def kind_of(path: Path) -> Kind | None:
    """Returns what the first bytes say, else the name, None where neither tells.

    Raises:
        OSError: the file cannot be read.
    """
    start = first_bytes(path)
    if starts_as_dicom(start):
        return "dicomdir" if is_directory(start) else "dicom"
    if start.startswith(b"NRRD000"):
        return "nrrd"
    if start.startswith(_ZIP):
        return "zip"
    if starts_as_picture(start):
        return "picture"
    if start.startswith(GZIP_MAGIC) or start[:4] in _NIFTI:
        return "nifti"
    return "meta" if _META.match(start) else kind_by_name(path.name)


def stem_of(name: str) -> str:
    """Returns the name without the suffix of an image, or as it is."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def first_bytes(path: Path) -> bytes:
    """Returns the first bytes of a file, without waiting for someone to write into a pipe."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        return os.read(descriptor, START_BYTES)
    finally:
        os.close(descriptor)
