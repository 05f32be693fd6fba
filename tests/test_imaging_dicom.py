"""DICOM series: the right voxels at the right place, and a reason for each series that is no regular volume."""

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.uid import MRImageStorage, SegmentationStorage, generate_uid
from tiny_dicom import (
    ALONG_ROW,
    DOWN_COLUMN,
    FIRST_POSITION,
    NORMAL,
    STEP_MM,
    slice_dataset,
    slice_voxels,
    write_slices,
)

from pipeline.imaging.dicom import read_series
from pipeline.records.errors import InputError

REAL = os.environ.get("SEGLINE_TEST_DATA")
needs_real = pytest.mark.skipif(REAL is None, reason="SEGLINE_TEST_DATA is unset")
LPS = np.diag([-1.0, -1.0, 1.0])


def refusal(folder: Path, **arguments: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        read_series(folder, **arguments)
    assert "\n" not in str(caught.value)
    return caught.value


def five(**changes: Any) -> list[pydicom.Dataset]:
    return [slice_dataset(number, **changes) for number in range(5)]


def test_slices_are_ordered_by_position_and_rescaled(tmp_path: Path) -> None:
    scan = read_series(write_slices(tmp_path / "series", five()))
    assert scan.array.shape == scan.shape_on_disk == (5, 4, 5)
    assert scan.modality == "CT"
    for number in range(5):
        assert np.array_equal(scan.array[:, :, number].T, slice_voxels(number) - 1024.0), number


def test_affine_puts_each_pixel_where_the_standard_says(tmp_path: Path) -> None:
    scan = read_series(write_slices(tmp_path / "series", five()))
    # PS3.3 C.7.6.2.1.1: position + column * spacing between columns * row direction + row * spacing between rows * ...
    lps = FIRST_POSITION + 4 * 0.9 * np.array(ALONG_ROW) + 3 * 0.7 * np.array(DOWN_COLUMN) + 2 * STEP_MM * NORMAL
    assert (scan.affine @ [4, 3, 2, 1])[:3] == pytest.approx(LPS @ lps, abs=1e-5)
    assert scan.spacing_mm == pytest.approx((0.9, 0.7, 2.5), abs=1e-5)
    assert (scan.qform_code, scan.sform_code) == (1, 1)


def test_each_slice_has_its_own_slope(tmp_path: Path) -> None:
    slices = five()
    for number, content in enumerate(slices):
        content.RescaleSlope, content.RescaleIntercept = str(1 + number / 4), str(number)
    scan = read_series(write_slices(tmp_path / "series", slices))
    for number in range(5):
        expected = slice_voxels(number) * (1 + number / 4) + number
        assert np.allclose(scan.array[:, :, number].T, expected, rtol=0, atol=1e-3), number


def test_files_without_preamble_are_read(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "series", five())
    for path in folder.iterdir():
        content = pydicom.dcmread(path)
        del content.file_meta
        content.preamble = None
        content.save_as(path, implicit_vr=True, little_endian=True)
        assert path.read_bytes()[128:132] != b"DICM"
    scan = read_series(folder)
    assert np.array_equal(scan.array[:, :, 4].T, slice_voxels(4) - 1024.0)


def test_other_objects_and_localizers_are_set_aside(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "series", five())
    localizer = slice_dataset(9, series_uid="1.2.3.9")
    localizer.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    mask = slice_dataset(8, series_uid="1.2.3.8")
    mask.SOPClassUID = mask.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    mask.Modality = "SEG"
    screen = slice_dataset(6, series_uid="1.2.3.6")
    del screen.ImagePositionPatient, screen.ImageOrientationPatient
    for name, content in (("localizer", localizer), ("mask", mask), ("screen", screen)):
        content.save_as(folder / name, enforce_file_format=True)
    (folder / "notes.txt").write_text("no DICOM")
    (folder / "._IM3").write_bytes((folder / "IM3").read_bytes())
    assert read_series(folder).array.shape == (5, 4, 5)


def test_several_series_are_listed_and_one_can_be_chosen(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "series", five())
    for number in range(3):
        other = slice_dataset(number, series_uid="1.2.3.5")
        other.SeriesNumber, other.SeriesDescription = "8", "bone kernel"
        other.save_as(folder / f"other{number}", enforce_file_format=True)
    error = refusal(folder)
    assert error.reason == "several-series"
    assert "number 7 (CT, 5 slices)" in error.found
    assert "number 8 (CT, 3 slices)" in error.found
    # Free text may name a patient: shown on the terminal, and not in what is written to files.
    assert "Smith" in error.where
    assert "Smith" not in error.found + error.wanted + error.remedy
    assert read_series(folder, series_uid="1.2.3.5").array.shape == (5, 4, 3)
    assert refusal(folder, series_uid="9.9").reason == "no-images"


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
    assert read_series(write_slices(tmp_path / "rounded", rounded)).spacing_mm[2] == pytest.approx(0.625)


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
    ("inverted", {"PhotometricInterpretation": "MONOCHROME1"}),
    ("multiframe", {"NumberOfFrames": 2}),
    ("truncated-file", {"PixelData": bytes(10)}),
    ("undecodable", {"BitsAllocated": 13}),
])
def test_one_odd_slice_is_named(tmp_path: Path, reason: str, elements: dict[str, Any]) -> None:
    error = refusal(write_slices(tmp_path / "series", five(), **elements))
    assert error.reason == reason
    assert "IM0" in error.found


def test_file_cut_off_in_its_header_is_named(tmp_path: Path) -> None:
    folder = write_slices(tmp_path / "series", five())
    (folder / "IM0").write_bytes((folder / "IM0").read_bytes()[:300])
    # Without rows and columns it is no image any more, so its place in the stack is empty.
    assert refusal(folder).reason == "missing-slice"


def test_single_slice_and_empty_folder_are_refused(tmp_path: Path) -> None:
    assert refusal(write_slices(tmp_path / "one", five()[:1] * 2)).reason == "duplicate-slice"
    (tmp_path / "single").mkdir()
    slice_dataset(0).save_as(tmp_path / "single/a", enforce_file_format=True)
    assert refusal(tmp_path / "single").reason == "too-few-slices"
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").reason == "no-images"


def test_lossy_pixels_are_warned_of(tmp_path: Path) -> None:
    scan = read_series(write_slices(tmp_path / "series", five(), LossyImageCompression="01"))
    assert scan.warnings == ("the pixels were compressed with loss",)
    assert np.array_equal(scan.array[:, :, 1].T, slice_voxels(1) - 1024.0)


def test_series_of_another_class_is_read_the_same(tmp_path: Path) -> None:
    slices = five(series_uid=generate_uid(entropy_srcs=["mr"]))
    for content in slices:
        content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID = MRImageStorage
        content.Modality = "MR"
        del content.RescaleSlope, content.RescaleIntercept
    scan = read_series(write_slices(tmp_path / "series", slices))
    assert scan.modality == "MR"
    assert np.array_equal(scan.array[:, :, 3].T, slice_voxels(3))


def same_in_the_world(folder: Path, reference: Path) -> None:
    """Asserts that each voxel has the value that an independent NIfTI conversion has at the same place."""
    scan, image = read_series(folder), nib.load(reference)
    to_reference = np.linalg.inv(image.affine) @ scan.affine
    voxels = np.indices(scan.array.shape).reshape(3, -1)
    places = to_reference[:3, :3] @ voxels + to_reference[:3, 3:]
    assert np.abs(places - np.rint(places)).max() < 1e-3
    found = np.asarray(image.dataobj)[tuple(np.rint(places).astype(int))]
    assert np.array_equal(found, scan.array.ravel())


@needs_real
@pytest.mark.parametrize(("folder", "reference"), [
    ("regular/siemens_001", "regular/siemens_001_reference.nii.gz"),
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
    scan = read_series(path)
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
    ("multiframe/001", "multiframe", "IM-0001-0001-0001.dcm"),
    ("encodings/rgb/001", "colour", "IM-0001-0001-0001.dcm"),
    ("ct_rtstruct/STS_002/rtstruct", "no-images", "no DICOM image"),
    ("seg", "no-images", "no DICOM image"),
])
def test_real_irregular_series_is_refused(folder: str, reason: str, named: str) -> None:
    error = refusal(Path(str(REAL)) / "dicom" / folder)
    assert error.reason == reason
    assert named in error.found
