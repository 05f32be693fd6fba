"""The CT series that we write, read back by SimpleITK and pydicom."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from pipeline.imaging.dicom_write import write_ct_series
from pipeline.records.errors import InputError

SHAPE = (12, 10, 8)
SPACING_MM = np.array([1.7, 2.1, 4.0])
OBLIQUE = Rotation.from_euler("xyz", (11, -8, 14), degrees=True).as_matrix()
DIRECTIONS = {
    "RAS": np.diag([1.0, 1, 1]),
    "LPS": np.diag([-1.0, -1, 1]),
    "LAS": np.diag([-1.0, 1, 1]),
    "LPI, slices against the normal": np.diag([-1.0, -1, -1]),
    "oblique": OBLIQUE @ np.diag([-1.0, -1, 1]),
    "oblique, left-handed": OBLIQUE @ np.diag([-1.0, 1, 1]),
    "coronal slices": np.array([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]]),
    "sagittal slices, oblique": OBLIQUE @ np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
}
# PS3.3 A.3: attributes of type 1 of the CT Image IOD's mandatory modules, or 1C with a condition that holds here.
TYPE_1 = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "ImageType", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient", "SamplesPerPixel",
    "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelData", "RescaleIntercept", "RescaleSlope",
]
TYPE_2 = [
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber", "SeriesNumber", "PatientPosition", "PositionReferenceIndicator", "Manufacturer",
    "InstanceNumber", "SliceThickness", "KVP", "AcquisitionNumber",
]


def affine_of(directions: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = directions * SPACING_MM
    affine[:3, 3] = (-31.5, 142.25, -407.125)
    return affine


def octant_markers() -> tuple[np.ndarray, dict[int, tuple[int, int, int]]]:
    """Air with one voxel of its own intensity in each octant."""
    array = np.full(SHAPE, -1000, dtype=np.int16)
    places = {}
    corners = [(i, j, k) for i in (2, 9) for j in (1, 7) for k in (1, 5)]
    for number, place in enumerate(corners):
        value = 100 * (number + 1)
        array[place] = value
        places[value] = place
    return array, places


def write(folder: Path, array: np.ndarray, directions: np.ndarray = DIRECTIONS["LPS"], *, seed: str = "1") -> Path:
    write_ct_series(folder, array, affine=affine_of(directions), uid_seed=seed, patient_id="p007")
    return folder


def read(folder: Path) -> SimpleITK.Image:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def datasets(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_marker_in_each_octant_lies_where_the_affine_says(tmp_path: Path, name: str) -> None:
    array, places = octant_markers()
    image = read(write(tmp_path / "series", array, DIRECTIONS[name]))
    voxels = SimpleITK.GetArrayFromImage(image)  # (z, y, x)
    for value, place in places.items():
        z, y, x = (int(found[0]) for found in np.where(voxels == value))
        lps = np.array(image.TransformIndexToPhysicalPoint((x, y, z)))
        expected_ras = (affine_of(DIRECTIONS[name]) @ np.append(place, 1))[:3]
        assert lps * (-1, -1, 1) == pytest.approx(expected_ras, abs=1e-3)
    assert (voxels == -1000).sum() == array.size - len(places)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_frame_is_orthonormal_and_spacing_is_between_rows_first(tmp_path: Path, name: str) -> None:
    for dataset in datasets(write(tmp_path / "series", octant_markers()[0], DIRECTIONS[name])):
        row, column = np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3)
        assert row @ column == pytest.approx(0, abs=1e-12)
        assert (row @ row, column @ column) == pytest.approx((1, 1), abs=1e-12)
        assert list(dataset.PixelSpacing) == pytest.approx([2.1, 1.7])
        assert float(dataset.SliceThickness) == pytest.approx(4.0)
        assert (dataset.Rows, dataset.Columns) == (10, 12)


def test_affines_rounded_to_float32_still_give_an_orthonormal_frame(tmp_path: Path) -> None:
    affine = affine_of(DIRECTIONS["oblique"]).astype(np.float32).astype(np.float64)
    write_ct_series(tmp_path / "s", octant_markers()[0], affine=affine, uid_seed="1", patient_id="p007")
    row, column = np.array(datasets(tmp_path / "s")[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    assert row @ column == pytest.approx(0, abs=1e-12)


def test_values_are_rounded_and_clipped_to_what_can_be_stored(tmp_path: Path) -> None:
    array = np.full(SHAPE, -2000.0)
    array[3, 4, 2], array[4, 4, 2], array[5, 4, 2] = 12.4, 80_000, -1024
    image = SimpleITK.GetArrayFromImage(read(write(tmp_path / "series", array)))[2, 4]
    assert image[[2, 3, 4, 5]].tolist() == [-1024, 12, 64511, -1024]


def test_every_slice_has_the_attributes_that_the_standard_demands(tmp_path: Path) -> None:
    for dataset in datasets(write(tmp_path / "series", octant_markers()[0])):
        assert [name for name in TYPE_1 if dataset.get(name) in (None, "", b"")] == []
        assert [name for name in TYPE_2 if name not in dataset] == []
        assert dataset.SOPClassUID.name == "CT Image Storage"
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert str(dataset.PatientName) == "PHANTOM^P007"
        assert (dataset.RescaleSlope, dataset.RescaleIntercept) == (1, -1024)


def test_one_series_of_distinct_valid_uids(tmp_path: Path) -> None:
    files = datasets(write(tmp_path / "series", octant_markers()[0]))
    assert len({file.SOPInstanceUID for file in files}) == len(files) == 8
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert len({file[name].value for file in files}) == 1
        assert files[0][name].value.is_valid
    assert len({files[0][name].value for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}) == 3


def test_neither_names_nor_instance_numbers_follow_position(tmp_path: Path) -> None:
    files = datasets(write(tmp_path / "series", octant_markers()[0]))  # by name
    heights = [float(file.ImagePositionPatient[2]) for file in files]
    numbers = [int(file.InstanceNumber) for file in sorted(files, key=lambda file: file.ImagePositionPatient[2])]
    assert heights != sorted(heights)
    assert heights != sorted(heights, reverse=True)
    assert sorted(numbers) == list(range(1, 9))
    assert numbers not in (list(range(1, 9)), list(range(8, 0, -1)))


def test_same_arguments_give_the_same_bytes_and_another_seed_or_content_other_uids(tmp_path: Path) -> None:
    array = octant_markers()[0]
    first, again = write(tmp_path / "a", array), write(tmp_path / "b", array)
    assert {p.name: p.read_bytes() for p in first.iterdir()} == {p.name: p.read_bytes() for p in again.iterdir()}
    other_seed, other_content = write(tmp_path / "c", array, seed="2"), write(tmp_path / "d", array + 1)
    uids = {datasets(folder)[0].SeriesInstanceUID for folder in (first, other_seed, other_content)}
    assert len(uids) == 3


def test_a_sheared_affine_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    affine = affine_of(DIRECTIONS["RAS"])
    affine[1, 2] = 0.9
    with pytest.raises(InputError, match="right angles") as caught:
        write_ct_series(tmp_path / "series", octant_markers()[0], affine=affine, uid_seed="1", patient_id="p007")
    assert caught.value.reason == "sheared-affine"
    assert list(tmp_path.iterdir()) == []


def test_a_stack_of_channels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="4 dimensions"):
        write_ct_series(tmp_path / "series", np.zeros((2, *SHAPE)), affine=np.eye(4), uid_seed="1", patient_id="p007")
