"""The files that datasets are made of: NIfTI, PNG and TIFF, told apart by their content."""

from pathlib import Path

from pipeline.imaging.nifti import read_nifti
from pipeline.imaging.pictures import PICTURE_SUFFIXES, is_picture, read_picture
from pipeline.imaging.scans import Scan


def read_image(path: Path) -> Scan:
    """Returns the image; raises `InputError` as `read_nifti` and `read_picture` do."""
    return read_picture(path) if _is_picture(path) else read_nifti(path)


def read_label_map(path: Path) -> Scan:
    """Returns the label map, ``(x, y, z)`` as stored; raises `InputError` as `read_nifti` and `read_picture` do."""
    return read_picture(path, as_labels=True) if _is_picture(path) else read_nifti(path)


def _is_picture(path: Path) -> bool:
    """Returns whether it is a picture by its content, or is called one and has to be told what it is."""
    return path.suffix.lower() in PICTURE_SUFFIXES or is_picture(path)
