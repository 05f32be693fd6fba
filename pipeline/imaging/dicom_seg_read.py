"""Reads a DICOM Segmentation as label data: one mask for each segment, on the scan's grid or on its own.

Segments of a file may overlap and may lie on fewer or more planes than the scan; each becomes a mask of its own, and
planes without a frame are empty.

Source: DICOM PS3.3, A.51 segmentation, C.7.6.16 functional groups; PS3.5, 8.2.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from pipeline.imaging.dicom_codes import Code, LabelCode
from pipeline.imaging.dicom_derived import LPS_FROM_RAS, UNREADABLE, frame_of_reference
from pipeline.imaging.scans import Scan
from pipeline.records.errors import InputError

# Positions along the normal that differ by less are one plane; files state them with few decimals.
SAME_PLANE_MM = 0.01
SAME_COSINE = 1e-3
# A plane may be off its place in a regular grid by this share of the spacing, and a voxel off the scan's by this much.
OFF_GRID_SHARE, OFF_GRID_VOXELS = 0.05, 0.1
# Most voxels of one mask: a file may state two planes a kilometre apart.
MOST_VOXELS = 2**31
SMALLEST_VOXEL_MM3 = 1e-9


@dataclass(frozen=True)
class Segment:
    """One segment.

    Attributes:
        number: its number in the file, from 1.
        label: its name in the file.
        code: what it stands for; None where the file does not say.
        mask: ``(x, y, z)`` boolean; float32 from 0 to 1 where the file holds fractions.
    """

    number: int
    label: str
    code: LabelCode | None
    mask: NDArray[np.bool_] | NDArray[np.float32]


@dataclass(frozen=True)
class SegContent:
    """The segments of a file, all on one grid.

    Attributes:
        segments: in the order of the file.
        affine: ``(4, 4)`` voxel index to millimetres in RAS+.
        is_fractional: the masks are shares or probabilities.
    """

    segments: tuple[Segment, ...]
    affine: NDArray[np.float64]
    is_fractional: bool


@dataclass(frozen=True)
class _Frames:
    """Stored frames ``(frame, row, column)`` with the segment (0: all) and plane number of each, and their grid."""

    pixels: NDArray[Any]
    segments: tuple[int, ...]
    planes: tuple[int, ...]
    affine: NDArray[np.float64]


def read_seg(path: Path, *, scan: Scan | None = None) -> SegContent:
    """Returns the segments of a DICOM Segmentation (BINARY, FRACTIONAL or LABELMAP).

    Args:
        path: the file.
        scan: bring the masks to its grid, whose voxels must be the segmentation's, in any order of axes and with any
            part cut off; None keeps the file's own planes, from the lowest along the normal to the highest.

    Raises:
        InputError: ``undecodable``, ``not-a-segmentation``, ``irregular-planes``, ``other-frame-of-reference``,
            ``other-grid`` where voxels do not fall on the scan's or a segment reaches beyond it.
    """
    content = _read(path)
    try:
        with disable_value_validation():
            frames = _frames(path, content)
            described = [(int(item.SegmentNumber), str(item.get("SegmentLabel", "")), _label_code(item))
                         for item in content.SegmentSequence if int(item.SegmentNumber) != 0]  # 0: background
            scale = float(content.MaximumFractionalValue) if content.SegmentationType == "FRACTIONAL" else None
            frame_uid = str(content.get("FrameOfReferenceUID", "") or "")
    except UNREADABLE as error:
        raise _undecodable(path, error) from error
    if scan is not None:
        _check_frame_of_reference(path, frame_uid, scan)
    segments = []
    for number, label, code in described:
        mask = _mask(frames, number, scale)
        placed = mask if scan is None else _on_grid(path, mask, frames.affine, scan)
        segments.append(Segment(number, label, code, placed))
    return SegContent(tuple(segments), frames.affine if scan is None else scan.affine, scale is not None)


def _read(path: Path) -> Dataset:
    try:
        with disable_value_validation():
            content = pydicom.dcmread(path)
    except UNREADABLE as error:
        raise _undecodable(path, error) from error
    if "SegmentationType" not in content or "SegmentSequence" not in content:
        raise InputError(path, found="no segments", wanted="a DICOM Segmentation", remedy="give the SEG file",
                         reason="not-a-segmentation")
    return content


def _undecodable(path: Path, error: Exception) -> InputError:
    return InputError(path, found=f"a segmentation that cannot be read ({type(error).__name__})",
                      wanted="a whole DICOM Segmentation", remedy="export it again", reason="undecodable")


def _frames(path: Path, content: Dataset) -> _Frames:
    """Returns the frames with their place on a regular grid."""
    shared = content.get("SharedFunctionalGroupsSequence") or [Dataset()]
    groups = list(content.PerFrameFunctionalGroupsSequence)
    positions = _numbers([_group(one, shared[0], "PlanePositionSequence").ImagePositionPatient for one in groups])
    orientations = _numbers([_group(one, shared[0], "PlaneOrientationSequence").ImageOrientationPatient
                             for one in groups])
    measures = _group(groups[0], shared[0], "PixelMeasuresSequence")
    if positions.shape != (len(groups), 3) or orientations.shape != (len(groups), 6):
        raise ValueError("geometry")
    if np.ptp(orientations, axis=0).max() > SAME_COSINE:
        raise _irregular(path, "frames of several orientations")
    is_map = content.SegmentationType == "LABELMAP"
    segments = (0,) * len(groups) if is_map else tuple(
        int(_group(one, shared[0], "SegmentIdentificationSequence").ReferencedSegmentNumber) for one in groups)
    affine, planes = _grid(path, positions, orientations[0], measures)
    if content.Rows * content.Columns * (max(planes) + 1) > MOST_VOXELS:
        raise _irregular(path, f"planes that span {max(planes) + 1} steps")
    pixels = np.asarray(content.pixel_array)
    if pixels.size != len(groups) * content.Rows * content.Columns:
        raise ValueError("frames")
    return _Frames(pixels.reshape(len(groups), content.Rows, content.Columns), segments, planes, affine)


def _numbers(values: Sequence[Iterable[Any]]) -> NDArray[np.float64]:
    return np.array([[float(value) for value in row] for row in values])


def _group(frame: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """Returns the first item of a functional group of this frame, or else of all frames."""
    item: Dataset = (frame.get(keyword) or shared[keyword].value)[0]
    return item


def _grid(path: Path, positions: NDArray[np.float64], orientation: NDArray[np.float64],
          measures: Dataset) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """Returns the affine (RAS+) of the regular grid that holds all planes, and the plane of each frame."""
    row, column = orientation[:3], orientation[3:]
    normal = np.cross(row, column)
    heights = positions @ normal
    distinct = np.unique(np.round(heights / SAME_PLANE_MM)) * SAME_PLANE_MM
    stated = float(measures.get("SpacingBetweenSlices") or measures.get("SliceThickness") or 1.0)
    gaps = np.diff(distinct)
    # What the file states may be an outdated slice thickness: it counts only where there is a single plane.
    step_mm = float(np.median(gaps[gaps < 1.5 * gaps.min()])) if gaps.size else stated
    planes = np.rint((heights - heights.min()) / step_mm)
    lowest = int(np.argmin(heights))
    expected = positions[lowest] + np.outer(planes * step_mm, normal)
    between_rows, between_columns = (float(value) for value in measures.PixelSpacing)
    lps = np.eye(4)
    lps[:3, :] = np.column_stack([row * between_columns, column * between_rows, normal * step_mm, positions[lowest]])
    if not np.isfinite(lps).all() or abs(np.linalg.det(lps)) < SMALLEST_VOXEL_MM3:
        raise _irregular(path, "voxels without volume")
    if not (np.linalg.norm(positions - expected, axis=1) <= max(SAME_PLANE_MM, OFF_GRID_SHARE * step_mm)).all():
        raise _irregular(path, "planes at uneven distances")
    return np.asarray(LPS_FROM_RAS @ lps), tuple(int(plane) for plane in planes)


def _irregular(path: Path, found: str) -> InputError:
    return InputError(path, found=found, wanted="parallel planes at even distances",
                      remedy="convert the segmentation with the tool that wrote it", reason="irregular-planes")


def _mask(frames: _Frames, number: int, scale: float | None) -> NDArray[np.bool_] | NDArray[np.float32]:
    """Returns ``(x, y, z)`` of one segment on the file's grid."""
    _, rows, columns = frames.pixels.shape
    shape = (max(frames.planes) + 1, rows, columns)
    if scale is not None:
        shares = np.zeros(shape, dtype=np.float32)
        for index in _indices(frames.segments, number):
            shares[frames.planes[index]] = frames.pixels[index] / np.float32(scale)
        return shares.transpose(2, 1, 0)
    mask = np.zeros(shape, dtype=bool)
    for index in _indices(frames.segments, number):
        mask[frames.planes[index]] |= frames.pixels[index] == (number if frames.segments[index] == 0 else 1)
    return mask.transpose(2, 1, 0)


def _indices(segments: Sequence[int], number: int) -> Iterable[int]:
    return (index for index, segment in enumerate(segments) if segment in (0, number))


def _check_frame_of_reference(path: Path, uid: str, scan: Scan) -> None:
    wanted = frame_of_reference(scan)
    if uid and wanted and uid != wanted:
        raise InputError(path, found="another frame of reference", wanted="the scan's",
                         remedy="give the segmentation that belongs to this series", reason="other-frame-of-reference")


def _on_grid(path: Path, mask: NDArray[Any], affine: NDArray[np.float64], scan: Scan) -> NDArray[Any]:
    """Returns the mask on the scan's grid: axes swapped, turned and shifted by whole voxels."""
    to_scan = np.linalg.inv(scan.affine) @ affine
    turn = nib.orientations.io_orientation(to_scan)
    whole = np.zeros((3, 3))
    for axis, (target, direction) in enumerate(turn):
        if not np.isnan(target):
            whole[int(target), axis] = direction
    # The first voxel and the last one along each axis; an axis of one voxel has no step that could be off.
    ends = np.array([[0, 0, 0], *np.diag(np.array(mask.shape) - 1)])
    nearest = ends @ whole.T + np.rint(to_scan[:3, 3])
    if np.abs(ends @ to_scan[:3, :3].T + to_scan[:3, 3] - nearest).max() > OFF_GRID_VOXELS:
        raise _other_grid(path, "voxels that do not fall on the scan's")
    turned = nib.orientations.apply_orientation(mask, turn)
    first = nearest.min(axis=0).astype(int)
    result = np.zeros(scan.array.shape, dtype=mask.dtype)
    inside = [slice(max(0, start), min(size, start + count))
              for start, size, count in zip(first, result.shape, turned.shape, strict=True)]
    source = tuple(slice(part.start - start, part.stop - start) for part, start in zip(inside, first, strict=True))
    if all(part.stop > part.start for part in inside):
        result[tuple(inside)] = turned[source]
    if np.count_nonzero(result) != np.count_nonzero(mask):
        raise _other_grid(path, "a segment that reaches beyond the scan")
    return result


def _other_grid(path: Path, found: str) -> InputError:
    return InputError(path, found=found, wanted="voxels of the scan's own grid",
                      remedy="give the series that was segmented, or resample the segmentation", reason="other-grid")


def _label_code(segment: Dataset) -> LabelCode | None:
    category = _code(segment, "SegmentedPropertyCategoryCodeSequence")
    kind = _code(segment, "SegmentedPropertyTypeCodeSequence")
    if category is None or kind is None:
        return None
    return LabelCode(category, kind, _code(segment.SegmentedPropertyTypeCodeSequence[0],
                                           "SegmentedPropertyTypeModifierCodeSequence"))


def _code(content: Dataset, keyword: str) -> Code | None:
    items = content.get(keyword)
    if not items:
        return None
    value = items[0].get("CodeValue") or items[0].get("LongCodeValue") or items[0].get("URNCodeValue") or ""
    return str(value), str(items[0].get("CodingSchemeDesignator", "")), str(items[0].get("CodeMeaning", ""))
