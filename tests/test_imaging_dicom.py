"""DICOM series: the right voxels at the right place, and a reason for each series that is no regular volume."""

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import MRImageStorage, RLELossless, generate_uid
from tiny_dicom import (
    ALONG_ROW,
    DOWN_COLUMN,
    FIRST_POSITION,
    NORMAL,
    STEP_MM,
    read_folder,
    slice_dataset,
    slice_voxels,
    survey_folder,
    write_slices,
)

from pipeline.records.errors import InputError

REAL = os.environ.get("SEGLINE_TEST_DATA")
needs_real = pytest.mark.skipif(REAL is None, reason="SEGLINE_TEST_DATA is unset")
LPS = np.diag([-1.0, -1.0, 1.0])


def refusal(folder: Path, **arguments: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        read_folder(folder, **arguments)
    assert "\n" not in str(caught.value)
    return caught.value


def five(**changes: Any) -> list[pydicom.Dataset]:
    return [slice_dataset(number, **changes) for number in range(5)]


def test_slices_are_ordered_by_position_and_rescaled(tmp_path: Path) -> None:
    scan = read_folder(write_slices(tmp_path / "series", five()))
    assert scan.array.shape == scan.shape_on_disk == (5, 4, 5)
    assert scan.modality == "CT"
    for number in range(5):
        assert np.array_equal(scan.array[:, :, number].T, slice_voxels(number) - 1024.0), number


def test_affine_puts_each_pixel_where_the_standard_says(tmp_path: Path) -> None:
    scan = read_folder(write_slices(tmp_path / "series", five()))
    # PS3.3 C.7.6.2.1.1: position + column * spacing between columns * row direction + row * spacing between rows * ...
    lps = FIRST_POSITION + 4 * 0.9 * np.array(ALONG_ROW) + 3 * 0.7 * np.array(DOWN_COLUMN) + 2 * STEP_MM * NORMAL
    assert (scan.affine @ [4, 3, 2, 1])[:3] == pytest.approx(LPS @ lps, abs=1e-5)
    assert scan.spacing_mm == pytest.approx((0.9, 0.7, 2.5), abs=1e-5)
    assert (scan.qform_code, scan.sform_code) == (1, 1)


def test_each_slice_has_its_own_slope(tmp_path: Path) -> None:
    slices = five()
    for number, content in enumerate(slices):
        content.RescaleSlope, content.RescaleIntercept = str(1 + number / 4), str(number)
    scan = read_folder(write_slices(tmp_path / "series", slices))
    for number in range(5):
        expected = slice_voxels(number) * (1 + number / 4) + number
        assert np.allclose(scan.array[:, :, number].T, expected, rtol=0, atol=1e-3), number


def test_planes_name_the_file_behind_each(tmp_path: Path) -> None:
    scan = read_folder(write_slices(tmp_path / "series", five()))
    # `write_slices` names slice k IM(7k + 3 mod 10).
    assert scan.planes is not None
    assert [path.name for path in scan.planes.files] == ["IM3", "IM0", "IM7", "IM4", "IM1"]
    assert (scan.planes.frames, scan.planes.is_resampled) == (None, False)


AXES = {"left": (1, 0, 0), "back": (0, 1, 0), "up": (0, 0, 1), "right": (-1, 0, 0), "front": (0, -1, 0),
        "down": (0, 0, -1), "oblique": (0.48, 0.6, -0.64), "across": (0.8, 0, 0.6)}


@pytest.mark.parametrize("step_mm", [2.5, -2.5])
@pytest.mark.parametrize(("along_row", "down_column"), [
    ("left", "back"), ("left", "down"), ("back", "down"), ("right", "front"), ("up", "left"), ("front", "up"),
    ("across", "back"), ("oblique", "across"),
])
def test_each_orientation_puts_a_marker_where_it_was(
    tmp_path: Path, along_row: str, down_column: str, step_mm: float
) -> None:
    row, column = np.array(AXES[along_row], dtype=float), np.array(AXES[down_column], dtype=float)
    normal = np.cross(row, column)
    slices = five()
    for number, content in enumerate(slices):
        content.ImageOrientationPatient = [f"{value:.10f}" for value in (*row, *column)]
        content.ImagePositionPatient = [f"{value:.10f}" for value in FIRST_POSITION + normal * step_mm * number]
    scan = read_folder(write_slices(tmp_path / "series", slices))
    # Slice 3 has its pixel of row 1 and column 4 there, and no other voxel has its value.
    lps = FIRST_POSITION + normal * step_mm * 3 + row * 0.9 * 4 + column * 0.7 * 1
    voxel = np.linalg.inv(scan.affine) @ [*(LPS @ lps), 1]
    assert voxel == pytest.approx([4, 1, 3 if step_mm > 0 else 1, 1], abs=1e-6)
    assert scan.array[tuple(np.rint(voxel[:3]).astype(int))] == slice_voxels(3)[1, 4] - 1024
    # The same file alone, by ITK.
    image = SimpleITK.ReadImage(str(tmp_path / "series" / "IM4"), imageIO="GDCMImageIO")
    assert image.TransformIndexToPhysicalPoint((4, 1, 0)) == pytest.approx(lps, abs=1e-5)


def test_pixels_shown_inverted_keep_their_values(tmp_path: Path) -> None:
    # MONOCHROME1 says that small values are shown bright (PS3.3 C.7.6.3.1.2); what is stored is the same.
    slices = five()
    for content in slices:
        content.PhotometricInterpretation = "MONOCHROME1"
    scan = read_folder(write_slices(tmp_path / "series", slices))
    assert np.array_equal(scan.array[:, :, 2].T, slice_voxels(2) - 1024.0)


def test_missing_slice_is_named_with_its_neighbours(tmp_path: Path) -> None:
    slices = five()
    del slices[2]
    error = refusal(write_slices(tmp_path / "series", slices))
    assert error.reason == "missing-slice"
    # The normal is (-0.6, 0, 0.8): the first slice lies at 18 mm, its neighbour at 20.5, the next one left at 25.5.
    assert "1 missing between IM0 at 20.50 mm and IM7 at 25.50 mm" in error.found


def test_duplicate_slice_is_named(tmp_path: Path) -> None:
    error = refusal(write_slices(tmp_path / "series", [*five(), slice_dataset(7, at_mm=STEP_MM)]))
    assert error.reason == "duplicate-slice"
    assert "20.50 mm" in error.found


def test_uneven_step_is_refused_and_rounding_is_not(tmp_path: Path) -> None:
    uneven = [slice_dataset(number, at_mm=at) for number, at in enumerate((0, 2.5, 5.0, 8.5, 11.0))]
    assert refusal(write_slices(tmp_path / "uneven", uneven)).reason == "uneven-spacing"
    rounded = [slice_dataset(number, at_mm=round(number * 0.625, 1)) for number in range(5)]
    assert read_folder(write_slices(tmp_path / "rounded", rounded)).spacing_mm[2] == pytest.approx(0.625)


def test_steps_that_grow_slowly_are_uneven(tmp_path: Path) -> None:
    # Steps of 2.51 to 2.66 mm are each near the usual one; the fifth slice still lies 0.16 mm off an even stack.
    growing = [slice_dataset(number, at_mm=number * 2.5 + number**2 * 0.01) for number in range(9)]
    assert refusal(write_slices(tmp_path / "series", growing)).reason == "uneven-spacing"


def test_gantry_tilt_is_measured_in_degrees(tmp_path: Path) -> None:
    slices = five()
    for number, content in enumerate(slices):
        # 0.5 mm down the column for each 2.5 mm: atan(0.2) is 11.3 degrees.
        shifted = FIRST_POSITION + NORMAL * number * STEP_MM + np.array(DOWN_COLUMN) * number * 0.5
        content.ImagePositionPatient = [f"{value:.6f}" for value in shifted]
    error = refusal(write_slices(tmp_path / "series", slices))
    assert error.reason == "gantry-tilt"
    assert "11.3 degrees" in error.found


def test_one_slice_to_the_side_is_refused(tmp_path: Path) -> None:
    shifted = FIRST_POSITION + NORMAL * STEP_MM + np.array(DOWN_COLUMN) * 3
    position = [f"{value:.6f}" for value in shifted]
    error = refusal(write_slices(tmp_path / "series", five(), ImagePositionPatient=position))
    assert error.reason == "shifted-slice"


@pytest.mark.parametrize(("reason", "elements"), [
    ("mixed-orientation", {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}),
    ("mixed-pixel-spacing", {"PixelSpacing": [0.7, 0.8]}),
    ("mixed-size", {"Rows": 2, "PixelData": bytes(2 * 5 * 2)}),
    ("missing-geometry", {"ImagePositionPatient": None}),
    ("colour", {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}),
    ("colour", {"PhotometricInterpretation": "PALETTE COLOR"}),
    ("bad-rescale", {"RescaleSlope": "0"}),
    ("mosaic", {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}),
    ("multiframe", {"NumberOfFrames": 2}),
    ("truncated-file", {"PixelData": bytes(10)}),
    ("undecodable", {"BitsAllocated": 13}),
])
def test_one_odd_slice_is_named(tmp_path: Path, reason: str, elements: dict[str, Any]) -> None:
    error = refusal(write_slices(tmp_path / "series", five(), **elements))
    assert error.reason == reason
    assert "IM0" in error.found


def test_a_series_with_a_damaged_file_is_refused(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "series", five())
    whole = (folder / "IM1").read_bytes()
    # The last slice, whose absence would not show in the stack. What is left names the series.
    (folder / "IM1").write_bytes(whole[: whole.index(b"1.2.3.4") + 20])
    assert [Path(error.where).name for error in survey_folder(folder).damaged] == ["IM1"]
    error = refusal(folder)
    assert error.reason == "damaged-header"
    assert "IM1" in error.found
    scan = read_folder(folder, irregular="resample")
    assert scan.array.shape == (5, 4, 4)
    assert scan.warnings == ("files of the series that cannot be read were left out: 1",)


def test_one_slice_is_no_volume(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "two", five()[:2])
    (folder / "IM0").unlink()
    assert refusal(folder).reason == refusal(folder, irregular="resample").reason == "too-few-slices"


def test_more_voxels_than_the_limit_are_refused_before_they_are_read(tmp_path: Path) -> None:
    slices = five()
    for content in slices:
        content.compress(RLELossless, encoding_plugin="pydicom")
        content.Rows = content.Columns = 65535
    # 5 x 65535 x 65535 x 4 bytes are 80 GiB, in files of 1 KiB.
    assert refusal(write_slices(tmp_path / "series", slices)).reason == "too-large"


def test_echoes_in_one_series_are_several_volumes(tmp_path: Path) -> None:
    slices = [*five(), *(slice_dataset(number + 5, at_mm=number * STEP_MM) for number in range(5))]
    for number, content in enumerate(slices):
        content.EchoTime = "4.6" if number < 5 else "9.2"
    error = refusal(write_slices(tmp_path / "series", slices))
    assert error.reason == "several-volumes"
    assert "which differ in echo time" in error.found


def test_lossy_pixels_are_warned_of(tmp_path: Path) -> None:
    scan = read_folder(write_slices(tmp_path / "series", five(), LossyImageCompression="01"))
    assert scan.warnings == ("the pixels were compressed with loss",)
    assert np.array_equal(scan.array[:, :, 1].T, slice_voxels(1) - 1024.0)


def test_series_of_another_class_is_read_the_same(tmp_path: Path) -> None:
    slices = five(series_uid=generate_uid(entropy_srcs=["mr"]))
    for content in slices:
        content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID = MRImageStorage
        content.Modality = "MR"
        del content.RescaleSlope, content.RescaleIntercept
    scan = read_folder(write_slices(tmp_path / "series", slices))
    assert scan.modality == "MR"
    assert np.array_equal(scan.array[:, :, 3].T, slice_voxels(3))


def same_in_the_world(folder: Path, reference: Path) -> None:
    """Asserts that each voxel has the value that an independent NIfTI conversion has at the same place."""
    scan, image = read_folder(folder), nib.load(reference)
    assert scan.array.size == np.prod(image.shape)  # a slice that is lost would be missed by none of the others
    voxels = np.concatenate([np.indices(scan.array.shape).reshape(3, -1), np.ones((1, scan.array.size))])
    nearest = np.rint(np.linalg.inv(image.affine) @ scan.affine @ voxels)
    assert np.linalg.norm((image.affine @ nearest - scan.affine @ voxels)[:3], axis=0).max() < 0.01
    found = np.asarray(image.dataobj)[tuple(nearest[:3].astype(int))]
    assert np.array_equal(found, scan.array.ravel())


@needs_real
@pytest.mark.parametrize(("folder", "reference"), [
    ("regular/siemens_001", "regular/siemens_001_reference.nii.gz"),
    ("multiframe/001", "multiframe/001_reference.nii.gz"),
    ("ct_rtstruct/STS_002/image", "ct_rtstruct/STS_002/reference_image.nii.gz"),
    ("encodings/compressed_rle/001", "encodings/compressed_rle/001_ground_truth.nii.gz"),
    ("encodings/compressed_j2k/001", "encodings/compressed_j2k/001_ground_truth.nii.gz"),
    ("encodings/compressed_jpeg/001", "encodings/compressed_jpeg/001_ground_truth.nii.gz"),
    ("encodings/compressed_jpegls/001", "encodings/compressed_jpegls/001_ground_truth.nii.gz"),
])
def test_real_series_equals_an_independent_conversion(folder: str, reference: str) -> None:
    same_in_the_world(Path(str(REAL)) / "dicom" / folder, Path(str(REAL)) / "dicom" / reference)


@needs_real
@pytest.mark.parametrize("folder", ["hippocampus_study1", "mr_t1_oblique"])
def test_real_series_equals_itk_slice_by_slice(folder: str) -> None:
    path = Path(str(REAL)) / "dicom" / folder
    scan = read_folder(path)
    inverse = np.linalg.inv(scan.affine)
    for file in sorted(path.iterdir()):
        image = SimpleITK.ReadImage(str(file))
        voxel = inverse @ [*(LPS @ np.array(image.GetOrigin())), 1]
        assert voxel[:2] == pytest.approx([0, 0], abs=1e-3)
        assert np.array_equal(scan.array[:, :, round(voxel[2])].T, SimpleITK.GetArrayFromImage(image)[0])


@needs_real
@pytest.mark.parametrize(("folder", "reason", "named"), [
    ("irregular/gantrytilting/001", "gantry-tilt", "14.0 degrees"),
    ("irregular/notavolume/001", "duplicate-slice", "61.50 mm"),
    ("irregular/sliceincrement/002", "missing-slice", "IM-0001-0003.dcm at -133.75 mm"),
    ("irregular/sliceorientation/001", "mixed-orientation", "IM-0001"),
    ("encodings/rgb/001", "colour", "IM-0001-0001-0001.dcm"),
])
def test_real_irregular_series_is_refused(folder: str, reason: str, named: str) -> None:
    error = refusal(Path(str(REAL)) / "dicom" / folder)
    assert error.reason == reason
    assert named in error.found
