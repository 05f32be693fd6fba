"""A DICOM series of single-frame files, read as one scan; what is not one regular volume is refused by name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from pipeline.imaging.dicom_geometry import stack_slices
from pipeline.imaging.dicom_headers import Series, image_series
from pipeline.imaging.scans import Scan
from pipeline.records.errors import InputError


def read_series(folder: Path, *, series_uid: str | None = None) -> Scan:
    """Returns the series in `folder` with each slice's slope and intercept applied.

    Args:
        folder: holds the files, under any names; segmentations, structure sets, reports and localizers are set aside.
        series_uid: which series, where the folder holds several.

    Raises:
        InputError: ``no-images``, ``several-series``, ``colour``, ``multiframe``, ``inverted``, ``lookup-table``,
            ``undecodable``, ``truncated-file``, or one of `stack_slices`.
    """
    series = _chosen(folder, image_series(folder), series_uid)
    _check_kind(folder, series)
    stack = stack_slices(folder, series.slices)
    array = _pixels(folder, stack.paths)
    return Scan(array, stack.affine, folder, series.modality or None, array.shape, warnings=_warnings(series))


def _chosen(folder: Path, found: Sequence[Series], series_uid: str | None) -> Series:
    if series_uid is not None:
        found = [series for series in found if series.uid == series_uid]
    if not found:
        raise InputError(folder, found="no DICOM image" if series_uid is None else "no such series",
                         wanted="the slices of one series", remedy="give the folder that holds the images themselves",
                         reason="no-images")
    if len(found) > 1:
        # Descriptions may hold names: they stand in `where`, which is shown on the terminal and written nowhere.
        listed = ", ".join(f"{series.number or 'no number'}: {series.description or 'no text'}" for series in found)
        counts = ", ".join(f"number {series.number or '?'} ({series.modality}, {len(series.slices)} slices)"
                           for series in found)
        raise InputError(f"{folder} [{listed}]", found=f"{len(found)} series: {counts}", wanted="one series",
                         remedy="put the wanted one in a folder of its own", reason="several-series")
    return found[0]


def _check_kind(folder: Path, series: Series) -> None:
    """Raises for the first slice that is not a whole grey image of its own."""
    for item in series.slices:
        name = item.path.name
        if item.is_multiframe:
            raise InputError(folder, found=f"a multi-frame object ({name})", wanted="one file a slice",
                             remedy="convert it to NIfTI, for instance with dcm2niix", reason="multiframe")
        if item.is_colour:
            raise InputError(folder, found=f"colour pixels in {name}", wanted="one number a pixel",
                             remedy="export the original images instead of a colour rendering", reason="colour")
        if item.is_inverted:
            # ITK would hand over complemented values, which no slope and intercept were meant for.
            raise InputError(folder, found=f"inverted pixels (MONOCHROME1) in {name}", wanted="MONOCHROME2",
                             remedy="export the series with MONOCHROME2", reason="inverted")
        if item.has_lookup_table:
            raise InputError(folder, found=f"a modality lookup table in {name}", wanted="slope and intercept",
                             remedy="export with rescaled values", reason="lookup-table")
        if item.is_truncated:
            raise InputError(folder, found=f"{name} ends before its pixels do", wanted="whole files",
                             remedy="copy or export the series again", reason="truncated-file")


def _pixels(folder: Path, paths: Sequence[Path]) -> NDArray[np.float32]:
    """Returns ``(column, row, slice)`` as float32."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    # The first slice's type would cut off the fractions that another slice's slope brings.
    reader.SetOutputPixelType(SimpleITK.sitkFloat32)
    reader.SetGlobalWarningDisplay(False)
    reader.SetFileNames([str(path) for path in paths])
    try:
        # A copy: a view would point into memory that ITK frees with the image.
        return np.asarray(SimpleITK.GetArrayFromImage(reader.Execute()), dtype=np.float32).T
    except RuntimeError as error:
        name = _first_undecodable(paths)
        raise InputError(folder, found=f"pixels that cannot be decoded in {name}", wanted="sound DICOM images",
                         remedy="export the series again, uncompressed", reason="undecodable") from error


def _first_undecodable(paths: Sequence[Path]) -> str:
    for path in paths:
        try:
            SimpleITK.ReadImage(str(path), imageIO="GDCMImageIO")
        except RuntimeError:
            return path.name
    return "one of the slices"


def _warnings(series: Series) -> tuple[str, ...]:
    is_lossy = any(item.is_lossy for item in series.slices)
    return ("the pixels were compressed with loss",) if is_lossy else ()
