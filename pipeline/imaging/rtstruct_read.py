"""Reads an RT Structure Set as masks on the grid of the scan it was drawn on.

All closed contours of a structure in one plane are combined by XOR: that is what the standard says for
CLOSEDPLANAR_XOR, what most readers do with a plain contour inside another, and what a keyhole needs. A pixel belongs to
a structure if its centre does.

Source: DICOM PS3.3, C.8.8.5 structure set, C.8.8.6 ROI contour.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from pipeline.imaging.contours import Contour, fill_contours
from pipeline.imaging.dicom_derived import UNREADABLE, frame_of_reference, lps_affine
from pipeline.imaging.scans import Scan
from pipeline.records.errors import InputError

CONTOUR_DATA = Tag("ContourData")
CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
# A contour may be off its plane by this share of the distance between planes: positions are written with few decimals.
OFF_PLANE_SHARE = 0.1


def read_rtstruct(path: Path, *, scan: Scan) -> dict[str, NDArray[np.bool_]]:
    """Returns each structure as ``(x, y, z)`` on the scan's grid, by name in the order of the file.

    A structure without contours is empty. One that has points or open lines only (an isocentre, a wire) is left out.
    What lies beyond the edge of a plane is cut off.

    Raises:
        InputError: ``undecodable``, ``not-a-structure-set``, ``other-frame-of-reference``, ``same-name-twice``;
            ``contour-between-planes`` for one that lies in no plane of the scan.
    """
    content = _read(path)
    try:
        with disable_value_validation():
            names = {int(roi.ROINumber): str(roi.get("ROIName", "")) for roi in content.StructureSetROISequence}
            frame_uids = {str(roi.get("ReferencedFrameOfReferenceUID", "")) for roi in content.StructureSetROISequence}
            drawn = {int(roi.ReferencedROINumber): _closed(roi) for roi in content.get("ROIContourSequence") or []}
    except UNREADABLE as error:
        raise _undecodable(path, error) from error
    wanted = frame_of_reference(scan)
    if wanted and frame_uids - {"", wanted}:
        raise InputError(path, found="another frame of reference", wanted="the scan's",
                         remedy="give the structure set that belongs to this series", reason="other-frame-of-reference")
    if len(set(names.values())) < len(names):
        raise InputError(path, found="two structures of one name", wanted="each name once",
                         remedy="rename one of them where they were drawn", reason="same-name-twice")
    contours = {name: drawn.get(number, []) for number, name in names.items()}
    return {name: _mask(path, given, scan) for name, given in contours.items() if given is not None}


def _read(path: Path) -> Dataset:
    try:
        with disable_value_validation():
            content = pydicom.dcmread(path)
    except UNREADABLE as error:
        raise _undecodable(path, error) from error
    if "StructureSetROISequence" not in content:
        raise InputError(path, found="no structures", wanted="an RT Structure Set", remedy="give the RTSTRUCT file",
                         reason="not-a-structure-set")
    return content


def _undecodable(path: Path, error: Exception) -> InputError:
    return InputError(path, found=f"a structure set that cannot be read ({type(error).__name__})",
                      wanted="a whole RT Structure Set", remedy="export it again", reason="undecodable")


def _closed(roi: Dataset) -> list[NDArray[np.float64]] | None:
    """Returns ``(points, 3)`` LPS millimetres of each closed contour; None where there are only others."""
    items = roi.get("ContourSequence") or []
    closed = [item for item in items if str(item.get("ContourGeometricType", "CLOSED_PLANAR")) in CLOSED]
    if items and not closed:
        return None
    points = [_points(item) for item in closed]
    if not all(np.isfinite(one).all() for one in points):
        raise ValueError("coordinates")
    return points


def _points(item: Dataset) -> NDArray[np.float64]:
    element: Any = item.get_item(CONTOUR_DATA)
    # A million numbers: from the raw bytes in a tenth of the time.
    values = element.value.rstrip(b"\0 ").split(b"\\") if isinstance(element.value, bytes) else element.value or []
    return np.array([float(value) for value in values if value], dtype=np.float64).reshape(-1, 3)


def _mask(path: Path, contours: Sequence[NDArray[np.float64]], scan: Scan) -> NDArray[np.bool_]:
    to_voxels = np.linalg.inv(lps_affine(scan))
    columns, rows, depth = scan.array.shape
    in_plane: dict[int, list[Contour]] = defaultdict(list)
    for points in contours:
        if len(points) == 0:
            continue
        voxels = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        in_plane[_plane(path, voxels[:, 2], depth)].append(voxels[:, :2])
    mask = np.zeros((depth, rows, columns), dtype=bool)
    for plane, found in in_plane.items():
        mask[plane] = fill_contours(found, (rows, columns))
    return mask.transpose(2, 1, 0)


def _plane(path: Path, heights: NDArray[np.float64], depth: int) -> int:
    """Returns the scan's plane that the contour lies in, by its points' heights in planes.

    A contour between planes is refused rather than moved: two that meet in one plane would cancel each other.
    """
    plane = int(np.clip(np.rint(np.median(heights)), 0, depth - 1))
    off = float(np.abs(heights - plane).max())
    if off > OFF_PLANE_SHARE:
        raise InputError(path, found=f"a contour that is {off:.2f} planes away from plane {plane} of {depth}",
                         wanted="contours drawn in the scan's own planes",
                         remedy="give the series that it was drawn on", reason="contour-between-planes")
    return plane
