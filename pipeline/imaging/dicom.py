"""A DICOM series, of classic or multi-frame files, read as one scan; what is no regular volume is refused by name."""

import math
from pathlib import Path
from typing import Literal

from pipeline.imaging.dicom_geometry import stack_slices
from pipeline.imaging.dicom_headers import Series, SliceHeader
from pipeline.imaging.dicom_pixels import check_size, read_planes, truncated_file
from pipeline.imaging.dicom_regular_grid import RESAMPLED_REASONS, regular_volume
from pipeline.imaging.scans import DicomPlanes, Scan
from pipeline.records.errors import InputError

Irregular = Literal["refuse", "resample"]


def read_series(series: Series, *, where: Path, irregular: Irregular = "refuse") -> Scan:
    """Returns the series as one volume with each plane's slope and intercept applied.

    Args:
        series: from `survey_files`.
        where: what errors name and `Scan.path` holds: the folder or file that the user gave.
        irregular: "resample" takes what lies irregularly onto a regular grid, with warnings that say how.

    Raises:
        InputError: ``multiframe``, ``mosaic``, ``colour``, ``bad-rescale``, ``damaged-header``, ``truncated-file``,
            ``undecodable``, ``too-large``, or one of `stack_slices` or `regular_volume`.
    """
    for item in series.slices:
        _check_kind(where, item)
    warnings = _warnings(series)
    first = series.slices[0]
    check_size(where, (first.columns, first.rows, len(series.slices)))
    try:
        _check_whole(where, series, irregular)
        stack = stack_slices(where, series.slices)
    except InputError as error:
        if irregular == "refuse" or error.reason not in RESAMPLED_REASONS:
            raise
    else:
        array = read_planes(where, stack.slices)
        return Scan(array, stack.affine, where, series.modality or None, array.shape, warnings=warnings,
                    planes=_planes(stack.slices))
    volume = regular_volume(where, series.slices)
    return Scan(volume.array, volume.affine, where, series.modality or None, volume.array.shape,
                warnings=warnings + volume.warnings, planes=_planes(volume.slices, is_resampled=volume.is_resampled))


def _check_kind(where: Path, item: SliceHeader) -> None:
    """Raises unless the plane is a whole grey image with a place of its own."""
    if item.pixels.frames > 1 and item.position_mm is None:
        raise InputError(where, found=f"frames without positions of their own in {item.path.name}",
                         wanted="a position for each frame", remedy="export it as single slices", reason="multiframe")
    if "MOSAIC" in item.image_type:
        raise InputError(where, found=f"many slices tiled into one image in {item.label}", wanted="one slice an image",
                         remedy="convert it to NIfTI, for instance with dcm2niix", reason="mosaic")
    if item.pixels.is_colour:
        raise InputError(where, found=f"colour pixels in {item.label}", wanted="one number a pixel",
                         remedy="export the original images instead of a colour rendering", reason="colour")
    if not math.isfinite(item.intercept) or not math.isfinite(item.slope) or item.slope == 0:
        raise InputError(where, found=f"slope {item.slope} and intercept {item.intercept} in {item.label}",
                         wanted="numbers, and a slope other than 0", remedy="export the series again",
                         reason="bad-rescale")
    if item.is_truncated:
        raise truncated_file(where, item.path.name)


def _check_whole(where: Path, series: Series, irregular: Irregular) -> None:
    """Raises where files of the series could not be read: the stack might be short without showing it."""
    if series.damaged and irregular == "refuse":
        raise InputError(where, found=f"files of the series that cannot be read: {len(series.damaged)}, the first "
                         f"{series.damaged[0]}", wanted="whole files",
                         remedy="copy or export them again or pass --irregular resample", reason="damaged-header")


def _planes(slices: tuple[SliceHeader, ...], *, is_resampled: bool = False) -> DicomPlanes:
    frames = tuple(item.frame for item in slices if item.frame is not None)
    return DicomPlanes(tuple(item.path for item in slices), frames if len(frames) == len(slices) else None,
                       is_resampled)


def _warnings(series: Series) -> tuple[str, ...]:
    found = []
    if any(item.pixels.is_lossy for item in series.slices):
        found.append("the pixels were compressed with loss")
    if series.damaged:
        found.append(f"files of the series that cannot be read were left out: {len(series.damaged)}")
    return tuple(found)
