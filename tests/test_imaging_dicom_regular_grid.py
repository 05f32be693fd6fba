"""Irregular series on a regular grid: values against independent interpolation, and a warning for all that was done."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from scipy.ndimage import map_coordinates
from tiny_dicom import (
    ALONG_ROW,
    DOWN_COLUMN,
    FIRST_POSITION,
    NORMAL,
    STEP_MM,
    read_folder,
    slice_dataset,
    slice_voxels,
    write_slices,
)

from pipeline.imaging.scans import Scan
from pipeline.records.errors import InputError

REAL = os.environ.get("SEGLINE_TEST_DATA")
needs_real = pytest.mark.skipif(REAL is None, reason="SEGLINE_TEST_DATA is unset")
LPS = np.diag([-1.0, -1.0, 1.0])


def resampled(folder: Path) -> Scan:
    with pytest.raises(InputError):
        read_folder(folder)
    return read_folder(folder, irregular="resample")


def at_depths(*depths_mm: float) -> list[pydicom.Dataset]:
    return [slice_dataset(number, at_mm=depth_mm) for number, depth_mm in enumerate(depths_mm)]


def moved(number: int, *, columns_mm: float = 0.0, rows_mm: float = 0.0, at_mm: float | None = None) -> Any:
    """Returns slice `number`, moved along its rows and down its columns."""
    content = slice_dataset(number, at_mm=at_mm)
    depth = number * STEP_MM if at_mm is None else at_mm
    position = FIRST_POSITION + NORMAL * depth + np.array(ALONG_ROW) * columns_mm + np.array(DOWN_COLUMN) * rows_mm
    content.ImagePositionPatient = [f"{value:.6f}" for value in position]
    return content


def independent(scan: Scan) -> np.ndarray:
    """Returns what the true slices say at each voxel of `scan`, NaN where they say nothing.

    By scipy and pydicom from the voxels' world positions: within each slice bilinear, between two slices linear along
    the normal.
    """
    assert scan.planes is not None
    slices = [pydicom.dcmread(path) for path in scan.planes.files]
    row, column = np.array(slices[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(row, column)
    down, across = (float(value) for value in slices[0].PixelSpacing)
    voxels = np.concatenate([np.indices(scan.array.shape).reshape(3, -1), np.ones((1, scan.array.size))])
    world = LPS @ (scan.affine @ voxels)[:3]
    depths = np.array([np.array(one.ImagePositionPatient, dtype=float) @ normal for one in slices])
    planes = []
    for one in slices:
        offset = world - np.array(one.ImagePositionPatient, dtype=float)[:, None]
        coordinates = np.round([column @ offset / down, row @ offset / across], 4)
        stored = one.pixel_array * float(one.get("RescaleSlope", 1)) + float(one.get("RescaleIntercept", 0))
        planes.append(map_coordinates(stored, coordinates, order=1, cval=np.nan))
    depth = normal @ world
    above = np.clip(np.searchsorted(depths, depth - 1e-3), 1, len(depths) - 1)
    share = np.round((depth - depths[above - 1]) / (depths[above] - depths[above - 1]), 3)
    below_values, above_values = (np.choose(place, planes) for place in (above - 1, above))
    # A share of nothing of a plane that says nothing is nothing.
    mixed = np.where(share == 0, 0, share * above_values) + np.where(share == 1, 0, (1 - share) * below_values)
    return mixed.reshape(scan.array.shape)


def assert_as_independent(scan: Scan) -> None:
    expected = independent(scan)
    known = ~np.isnan(expected)
    assert known.mean() > 0.3
    assert np.allclose(scan.array[known], expected[known], rtol=0, atol=0.05)
    assert (scan.array[~known] == scan.array.min()).all()


def test_a_missing_slice_is_interpolated_and_the_others_kept(tmp_path: Path) -> None:
    scan = resampled(write_slices(tmp_path / "series", at_depths(0, 2.5, 7.5, 10)))
    assert scan.spacing_mm == pytest.approx((0.9, 0.7, 2.5), abs=1e-5)
    # Slices hold 100 k + pixel: between the second and the third of them lies their mean.
    for place, number in enumerate((0, 1, 1.5, 2, 3)):
        assert np.array_equal(scan.array[:, :, place].T, slice_voxels(0) + 100 * number - 1024), place
    assert scan.warnings == ("1 of 5 planes lie between slices and were interpolated",)
    assert scan.planes is not None
    assert scan.planes.is_resampled
    assert len(scan.planes.files) == 4


def test_uneven_steps_are_interpolated_at_the_usual_step(tmp_path: Path) -> None:
    scan = resampled(write_slices(tmp_path / "series", at_depths(0, 2.5, 5, 8.5, 11)))
    # From 0 on in steps of 2.5 mm; 12.5 mm would lie beyond the last slice. 7.5 mm is 2.5/3.5 of the way to slice 3,
    # 10 mm is 1.5/2.5 of the way to slice 4.
    expected = [0, 100, 200, 200 + 100 * 2.5 / 3.5, 300 + 100 * 1.5 / 2.5]
    assert scan.array[0, 0] == pytest.approx(np.array(expected) - 1024, abs=0.01)
    assert scan.warnings == ("2 of 5 planes lie between slices and were interpolated",)
    assert_as_independent(scan)


def test_a_leaning_stack_is_straightened(tmp_path: Path) -> None:
    slices = [moved(number, rows_mm=number * 0.5) for number in range(5)]
    scan = resampled(write_slices(tmp_path / "series", slices))
    # The last slice stands 2 mm down its columns, 2.86 of their pixels: three rows more hold all slices.
    assert scan.array.shape == (5, 7, 5)
    assert scan.spacing_mm == pytest.approx((0.9, 0.7, 2.5), abs=1e-5)
    assert np.array_equal(scan.array[:, :4, 0].T, slice_voxels(0) - 1024.0)
    # Rows are 5 apart: 0.5 mm of 0.7 mm are 5 * 5 / 7 less at the same place.
    assert scan.array[0, 1, 1] == pytest.approx(100 + 5 - 5 * 5 / 7 - 1024, abs=1e-3)
    assert_as_independent(scan)
    # 3 of 7 rows hold nothing in the upright slice, 4 of 7 in each of the four others, which lie between rows.
    assert scan.warnings == ("slices stood up to 2.0 mm beside the first one and were moved within their planes; "
                             "54.3% of the volume lies outside of them and holds its smallest value",)
    # Voxel (0, 3, 4) of the world is at row 3 - 20 / 7 of the last slice, a seventh of a row below its first.
    assert scan.array[0, 3, 4] == pytest.approx(400 + 5 / 7 - 1024, abs=1e-3)


@pytest.mark.parametrize(("columns_mm", "rows_mm"), [(1.8, 0.0), (-1.8, 1.4), (1.3, -2.0), (-0.5, -0.9)])
def test_one_slice_to_the_side_is_moved_back(tmp_path: Path, columns_mm: float, rows_mm: float) -> None:
    slices = [slice_dataset(number) for number in range(5)]
    slices[2] = moved(2, columns_mm=columns_mm, rows_mm=rows_mm)
    scan = resampled(write_slices(tmp_path / "series", slices))
    assert_as_independent(scan)
    first = np.linalg.inv(scan.affine) @ [*(LPS @ FIRST_POSITION), 1]
    x, y = (round(value) for value in first[:2])
    assert np.array_equal(scan.array[x : x + 5, y : y + 4, 3].T, slice_voxels(3) - 1024.0)


def test_a_leaning_stack_with_a_gap(tmp_path: Path) -> None:
    slices = [moved(number, rows_mm=number * 0.4, columns_mm=number * -0.6) for number in (0, 1, 2, 4, 5)]
    scan = resampled(write_slices(tmp_path / "series", slices))
    assert scan.array.shape[2] == 6
    assert len(scan.warnings) == 2
    assert scan.array.shape[:2] == (5 + 4, 4 + 3)


def test_a_gap_too_wide_to_bridge_is_refused(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "series", at_depths(0, 2.5, 5, 27.5, 30))
    with pytest.raises(InputError) as caught:
        read_folder(folder, irregular="resample")
    assert caught.value.reason == "missing-slice"
    # NORMAL is (-0.6, 0, 0.8): the first slice lies at 18 mm. Slices 2 and 3 are in files IM7 and IM4.
    assert "nothing for 22.50 mm between IM7 and IM4" in caught.value.found


def test_slices_found_twice_are_taken_once(tmp_path: Path) -> None:
    again = slice_dataset(7, at_mm=STEP_MM)
    again.PixelData = slice_voxels(1).tobytes()
    scan = resampled(write_slices(tmp_path / "series", [*(slice_dataset(number) for number in range(5)), again]))
    assert np.array_equal(scan.array[:, :, 1].T, slice_voxels(1) - 1024.0)
    assert scan.warnings == ("1 of 6 slices were left out: others lie at the same places with the same pixels; "
                             "the first acquired were kept",)
    assert scan.planes is not None
    assert not scan.planes.is_resampled


def test_of_two_acquisitions_the_first_is_kept(tmp_path: Path) -> None:
    slices = [slice_dataset(number, at_mm=number % 3 * STEP_MM) for number in range(6)]
    for number, content in enumerate(slices):
        content.AcquisitionNumber, content.InstanceNumber = 2 - number // 3, number + 1
    scan = resampled(write_slices(tmp_path / "series", slices))
    assert scan.array[0, 0].tolist() == [300 - 1024, 400 - 1024, 500 - 1024]
    assert "3 of 6 slices were left out: others lie at the same places with other pixels" in scan.warnings[0]


def test_the_larger_of_two_orientations_is_kept(tmp_path: Path) -> None:
    slices = [slice_dataset(number) for number in range(5)]
    for content in slices[:2]:
        content.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    scan = resampled(write_slices(tmp_path / "series", slices))
    assert scan.array[0, 0].tolist() == [200 - 1024, 300 - 1024, 400 - 1024]
    assert scan.warnings == ("the series mixes 2 orientations: 3 axial slices were kept and left out were 2 sagittal",)


@pytest.mark.parametrize(("thickness_mm", "expected_mm", "told"), [
    ("4.5", 4.5, "no volume"), (None, 1.0, "not stated"),
])
def test_one_place_over_and_over_is_a_single_plane(
    tmp_path: Path, thickness_mm: str | None, expected_mm: float, told: str
) -> None:
    slices = [slice_dataset(number, at_mm=0) for number in range(3)]
    for number, content in enumerate(slices):
        content.AcquisitionNumber, content.SliceThickness = 3 - number, thickness_mm
    scan = resampled(write_slices(tmp_path / "series", slices))
    assert scan.array.shape == (5, 4, 1)
    assert scan.spacing_mm[2] == pytest.approx(expected_mm)
    assert np.array_equal(scan.array[:, :, 0].T, slice_voxels(2) - 1024.0)
    assert told in scan.warnings[1]


def test_a_regular_series_is_read_the_same(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "series", at_depths(0, 2.5, 5))
    plain, scan = read_folder(folder), read_folder(folder, irregular="resample")
    assert np.array_equal(plain.array, scan.array)
    assert (scan.warnings, scan.planes) == ((), plain.planes)


@pytest.mark.parametrize(("reason", "elements"), [
    ("mixed-size", {"Rows": 2}),
    ("mixed-pixel-spacing", {"PixelSpacing": [0.7, 0.8]}),
    ("missing-geometry", {"ImagePositionPatient": None}),
    ("colour", {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}),
])
def test_what_has_no_grid_stays_refused(tmp_path: Path, reason: str, elements: dict[str, Any]) -> None:
    folder = write_slices(tmp_path / "series", at_depths(0, 2.5, 7.5, 10), **elements)
    with pytest.raises(InputError) as caught:
        read_folder(folder, irregular="resample")
    assert caught.value.reason == reason


@needs_real
@pytest.mark.parametrize(("folder", "shape", "spacing_mm", "told"), [
    # 5 mm along the table at 14 degrees are 4.85 mm along the normal.
    ("gantrytilting/001", (512, 521, 4), (0.418, 0.418, 4.851), "up to 3.6 mm beside"),
    ("sliceincrement/002", (512, 514, 5), (0.512, 0.512, 0.750), "1 of 5 planes lie between slices"),
    ("sliceorientation/001", (288, 288, 2), (0.320, 0.320, 3.300), "2 sagittal slices were kept"),
    ("notavolume/001", (512, 512, 1), (0.545, 0.545, 1.0), "repeats one place"),
])
def test_real_irregular_series_are_accepted(
    folder: str, shape: tuple[int, ...], spacing_mm: tuple[float, ...], told: str
) -> None:
    scan = resampled(Path(str(REAL)) / "dicom/irregular" / folder)
    assert scan.array.shape == shape
    assert scan.spacing_mm == pytest.approx(spacing_mm, abs=1e-3)
    assert told in " ".join(scan.warnings)
    if shape[2] > 1:
        assert_as_independent(scan)
    else:
        assert scan.planes is not None
        expected = pydicom.dcmread(scan.planes.files[0]).pixel_array - 1024.0
        assert np.array_equal(scan.array[:, :, 0].T, expected)
