"""Multi-frame objects: each frame at its place, with its own scaling; several volumes in one object are refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    LegacyConvertedEnhancedCTImageStorage,
    NuclearMedicineImageStorage,
    UltrasoundMultiFrameImageStorage,
)
from tiny_dicom import (
    ALONG_ROW,
    DOWN_COLUMN,
    FIRST_POSITION,
    NORMAL,
    enhanced_dataset,
    item,
    read_folder,
    slice_dataset,
    slice_voxels,
    survey_folder,
    write_slices,
)

from pipeline.records.errors import InputError

LPS = np.diag([-1.0, -1.0, 1.0])
DEPTHS = (5.0, 0.0, 7.5, 2.5)
BY_DEPTH = (1, 3, 0, 2)


def write(content: Dataset, folder: Path) -> Path:
    return write_slices(folder, [content])


def refusal(folder: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        read_folder(folder)
    return caught.value


def test_frames_are_ordered_by_position_and_placed(tmp_path: Path) -> None:
    folder = write(enhanced_dataset(DEPTHS), tmp_path / "series")
    assert [one.frame for one in survey_folder(folder).series[0].slices] == [1, 2, 3, 4]
    scan = read_folder(folder)
    assert scan.array.shape == (5, 4, 4)
    for place, frame in enumerate(BY_DEPTH):
        assert np.array_equal(scan.array[:, :, place].T, slice_voxels(frame) - 1024.0)
    assert scan.spacing_mm == pytest.approx((0.9, 0.7, 2.5), abs=1e-5)
    lps = FIRST_POSITION + 3 * 0.9 * np.array(ALONG_ROW) + 2 * 0.7 * np.array(DOWN_COLUMN) + 7.5 * NORMAL
    assert (scan.affine @ [3, 2, 3, 1])[:3] == pytest.approx(LPS @ lps, abs=1e-5)
    assert scan.planes is not None
    assert scan.planes.frames == (2, 4, 1, 3)
    assert {path.name for path in scan.planes.files} == {"IM3"}


def test_each_frame_has_its_own_slope(tmp_path: Path) -> None:
    scaling = [{"PixelValueTransformationSequence": item(RescaleSlope=1 + frame / 4, RescaleIntercept=frame)}
               for frame in range(4)]
    scan = read_folder(write(enhanced_dataset(DEPTHS, frames=scaling), tmp_path / "series"))
    for place, frame in enumerate(BY_DEPTH):
        assert np.array_equal(scan.array[:, :, place].T, slice_voxels(frame) * (1 + frame / 4) + frame)


def test_a_legacy_converted_object_is_read_the_same(tmp_path: Path) -> None:
    content = enhanced_dataset(DEPTHS)
    content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID = LegacyConvertedEnhancedCTImageStorage
    # With sequences of undefined length, as some converters write them.
    content["PerFrameFunctionalGroupsSequence"].is_undefined_length = True
    for group in content.PerFrameFunctionalGroupsSequence:
        group.is_undefined_length_sequence_item = True
    scan = read_folder(write(content, tmp_path / "series"))
    assert np.array_equal(scan.array[:, :, 0].T, slice_voxels(1) - 1024.0)


def test_several_objects_make_one_series(tmp_path: Path) -> None:
    one, other = enhanced_dataset([0.0, 2.5]), enhanced_dataset([5.0, 7.5])
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = "1.2.99"
    scan = read_folder(write_slices(tmp_path / "series", [one, other]))
    assert scan.planes is not None
    assert [(path.name, frame) for path, frame in zip(scan.planes.files, scan.planes.frames or (), strict=True)] == [
        ("IM3", 1), ("IM3", 2), ("IM0", 1), ("IM0", 2)]


@pytest.mark.parametrize(("what", "groups"), [
    ("temporal position", lambda phase: {"FrameContentSequence": item(TemporalPositionIndex=phase)}),
    ("echo time", lambda phase: {"MREchoSequence": item(EffectiveEchoTime=4.6 * phase)}),
    ("b-value", lambda phase: {"MRDiffusionSequence": item(DiffusionBValue=500.0 * phase)}),
    ("image type", lambda phase: {"MRImageFrameTypeSequence": item(FrameType=["ORIGINAL", "PRIMARY", f"P{phase}"])}),
    ("stack", lambda phase: {"FrameContentSequence": item(StackID=str(phase))}),
])
def test_several_volumes_in_one_object_are_refused_by_name(
    tmp_path: Path, what: str, groups: Callable[[int], dict[str, list[Dataset]]]
) -> None:
    frames = [groups(phase) for phase in (1, 2) for _ in range(3)]
    folder = write(enhanced_dataset([0.0, 2.5, 5.0] * 2, frames=frames), tmp_path / "series")
    error = refusal(folder)
    assert error.reason == "several-volumes"
    assert f"which differ in {what}" in error.found
    assert "frame 1 of IM3 and frame 4 of IM3" in error.found
    # Resampled, it is the first of them.
    scan = read_folder(folder, irregular="resample")
    assert np.array_equal(scan.array[:, :, 1].T, slice_voxels(1) - 1024.0)
    assert scan.planes is not None
    assert (scan.planes.frames, scan.planes.is_resampled) == ((1, 2, 3), False)
    assert f"3 of 6 slices were left out: they are of other volumes, told apart by {what};" in scan.warnings[0]


def test_stacks_of_two_orientations_are_several_volumes(tmp_path: Path) -> None:
    turned = item(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    frames = [{"FrameContentSequence": item(StackID="1")}] * 3 + [
        {"FrameContentSequence": item(StackID="2"), "PlaneOrientationSequence": turned}] * 3
    error = refusal(write(enhanced_dataset([0, 2.5, 5] * 2, frames=frames), tmp_path / "series"))
    assert error.reason == "several-volumes"
    assert "frame 4 of IM3" in error.found


def test_more_frames_than_descriptions_are_damage(tmp_path: Path) -> None:
    content = enhanced_dataset(DEPTHS)
    content.NumberOfFrames = 1_000_000_000
    survey = survey_folder(write(content, tmp_path / "series"))
    assert survey.series == ()
    assert "1000000000 frames and descriptions of 4" in survey.damaged[0].found


def test_a_cine_without_geometry_is_refused(tmp_path: Path) -> None:
    content = slice_dataset(0)
    content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    content.Modality, content.NumberOfFrames = "US", 3
    content.PixelData = bytes(3 * 4 * 5 * 2)
    del content.ImagePositionPatient, content.ImageOrientationPatient
    error = refusal(write(content, tmp_path / "series"))
    assert error.reason == "multiframe"
    assert "IM3" in error.found


def nuclear(step_mm: float) -> Dataset:
    """Returns a reconstructed nuclear medicine volume of three slices."""
    content = slice_dataset(0)
    content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID = NuclearMedicineImageStorage
    content.Modality, content.NumberOfFrames, content.SpacingBetweenSlices = "NM", 3, step_mm
    content.ImageType = ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    content.FrameIncrementPointer, content.SliceVector = 0x00540080, [1, 2, 3]
    content.DetectorInformationSequence = item(ImagePositionPatient=list(content.ImagePositionPatient),
                                               ImageOrientationPatient=list(content.ImageOrientationPatient))
    del content.ImagePositionPatient, content.ImageOrientationPatient
    content.PixelData = b"".join(slice_voxels(number).tobytes() for number in range(3))
    return content


@pytest.mark.parametrize(("step_mm", "order"), [(4.0, (0, 1, 2)), (-4.0, (2, 1, 0))])
def test_nuclear_medicine_slices_follow_the_first_one(tmp_path: Path, step_mm: float, order: tuple[int, ...]) -> None:
    scan = read_folder(write(nuclear(step_mm), tmp_path / "series"))
    for place, frame in enumerate(order):
        assert np.array_equal(scan.array[:, :, place].T, slice_voxels(frame) - 1024.0)
    first = np.linalg.inv(scan.affine) @ [*(LPS @ FIRST_POSITION), 1]
    assert first == pytest.approx([0, 0, order.index(0), 1], abs=1e-5)


def test_nuclear_medicine_frames_over_time_are_refused(tmp_path: Path) -> None:
    content = nuclear(4.0)
    content.FrameIncrementPointer, content.TimeSliceVector = [0x00540080, 0x00540100], [1, 2, 3]
    assert refusal(write(content, tmp_path / "series")).reason == "multiframe"
