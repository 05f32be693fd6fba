"""Makes tiny DICOM scans for tests: the files, and the `Scan` that a reader would make of them."""

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pipeline.imaging.dicom_derived import SegModel
from pipeline.imaging.dicom_write import write_ct_series
from pipeline.imaging.scans import DicomPlanes, Scan

REAL = os.environ.get("SEGLINE_TEST_DATA")
needs_real = pytest.mark.skipif(REAL is None, reason="SEGLINE_TEST_DATA is unset")
MODEL = SegModel("Tiny model", "1.2.0", "ab" * 32)
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Seven columns and five rows: frames of 35 bits, which fill no whole bytes.
SHAPE = (7, 5, 6)


def affine_of(columns: object, spacing_mm: tuple[float, float, float], origin: tuple[float, ...]) -> np.ndarray:
    """Returns an affine with these unit vectors (RAS) as columns."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns, dtype=float).T * spacing_mm
    affine[:3, 3] = origin
    return affine


def _oblique() -> np.ndarray:
    a, b = np.radians(25), np.radians(-40)
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]]) @ np.array(
        [[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    return affine_of((turn @ np.diag([-1, -1, 1])).T, (0.7, 0.9, 2.5), (12.3, -45.6, 78.9))


# Rows run to the left and columns to the back in an axial scan: in RAS both are negative.
AFFINES = {
    "axial": affine_of([(-1, 0, 0), (0, -1, 0), (0, 0, 1)], (0.7, 0.9, 2.5), (10, 20, 30)),
    "axial, from head to feet": affine_of([(-1, 0, 0), (0, -1, 0), (0, 0, -1)], (0.7, 0.9, 2.5), (10, 20, 30)),
    "coronal": affine_of([(-1, 0, 0), (0, 0, -1), (0, -1, 0)], (0.7, 0.9, 3.0), (-10, 200, 3)),
    "coronal, from back to front": affine_of([(-1, 0, 0), (0, 0, -1), (0, 1, 0)], (0.7, 0.9, 3.0), (-10, 200, 3)),
    "sagittal": affine_of([(0, -1, 0), (0, 0, -1), (1, 0, 0)], (1.1, 0.6, 4.0), (1, 2, 3)),
    "oblique": _oblique(),
    "oblique, reversed": _oblique() @ np.diag([1.0, 1.0, -1.0, 1.0]),
}


def dicom_scan(folder: Path, affine: np.ndarray, shape: tuple[int, ...] = SHAPE) -> Scan:
    """Writes a CT series and returns its scan; plane k lies where the affine says."""
    values = np.random.default_rng(5).integers(-500, 500, shape)
    write_ct_series(folder, values, affine=affine, uid_seed="tiny", patient_id="p001")
    return scan_of(list(folder.iterdir()), affine, shape)


def scan_of(files: list[Path], affine: np.ndarray, shape: tuple[int, ...]) -> Scan:
    """Returns the scan of single-frame files, put in order by their position."""
    to_voxels = np.linalg.inv(affine) @ LPS_FROM_RAS
    height = {file: (to_voxels @ [*map(float, pydicom.dcmread(file).ImagePositionPatient), 1])[2] for file in files}
    ordered = tuple(sorted(files, key=lambda file: height[file]))
    return Scan(np.zeros(shape, dtype=np.float32), affine, ordered[0].parent, "CT", shape, planes=DicomPlanes(ordered))


def real_scan(folder: Path) -> Scan:
    """Returns the scan of a regular real series of single-frame files, its geometry worked out from the headers."""
    headers = [(file, pydicom.dcmread(file, stop_before_pixels=True)) for file in sorted(folder.iterdir())
               if file.is_file()]
    row, column = np.reshape([float(value) for value in headers[0][1].ImageOrientationPatient], (2, 3))
    normal = np.cross(row, column)
    headers.sort(key=lambda pair: float(np.dot([float(v) for v in pair[1].ImagePositionPatient], normal)))
    first, last = (np.array([float(v) for v in headers[at][1].ImagePositionPatient]) for at in (0, -1))
    step = (last - first) / (len(headers) - 1)
    between_rows, between_columns = (float(value) for value in headers[0][1].PixelSpacing)
    lps = np.eye(4)
    lps[:3, :] = np.column_stack([row * between_columns, column * between_rows, step, first])
    shape = (int(headers[0][1].Columns), int(headers[0][1].Rows), len(headers))
    return Scan(np.zeros(shape, dtype=np.float32), LPS_FROM_RAS @ lps, folder, str(headers[0][1].Modality), shape,
                planes=DicomPlanes(tuple(file for file, _ in headers)))


def real_multiframe_scan(file: Path) -> Scan:
    """Returns the scan of one enhanced object whose frames are one stack, its geometry from the functional groups."""
    header = pydicom.dcmread(file, stop_before_pixels=True)
    frames = header.PerFrameFunctionalGroupsSequence
    positions = np.array([[float(v) for v in frame.PlanePositionSequence[0].ImagePositionPatient] for frame in frames])
    groups = [frames[0], *header.get("SharedFunctionalGroupsSequence", [])]
    orientation, measures = (next(group[name][0] for group in groups if name in group)
                             for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"))
    row, column = np.reshape([float(value) for value in orientation.ImageOrientationPatient], (2, 3))
    order = np.argsort(positions @ np.cross(row, column))
    between_rows, between_columns = (float(value) for value in measures.PixelSpacing)
    step = (positions[order[-1]] - positions[order[0]]) / (len(order) - 1)
    lps = np.eye(4)
    lps[:3, :] = np.column_stack([row * between_columns, column * between_rows, step, positions[order[0]]])
    shape = (int(header.Columns), int(header.Rows), len(order))
    return Scan(np.zeros(shape, dtype=np.float32), LPS_FROM_RAS @ lps, file, "MR", shape,
                planes=DicomPlanes((file,) * len(order), tuple(int(index) + 1 for index in order)))


def lopsided_labels(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Returns labels 1 and 2 that no turn or flip maps to themselves, with an empty first and an empty middle plane."""
    labels = np.zeros(shape, dtype=np.uint8)
    x, y, z = shape
    labels[1 : x // 2, 1 : y - 1, 1 : z // 2 - 1] = 1
    labels[x - 2, 1, 1 : z // 2 - 1] = 1
    labels[x // 2 :, y // 2 :, z // 2 :] = 2
    labels[0, 0, -1] = 2
    return labels


def world(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Returns the RAS millimetres of the mask's voxels, rounded to a micrometre and sorted."""
    points = np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3]
    return np.unique(np.round(points, 3) + 0.0, axis=0)
