"""DICOM Segmentations: each voxel where it belongs, read back by highdicom, by dcmqi and from the raw elements."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.config import disable_value_validation
from pydicom.sr.codedict import codes as dictionary
from tiny_scans import (
    AFFINES,
    LPS_FROM_RAS,
    MODEL,
    REAL,
    SHAPE,
    dicom_scan,
    lopsided_labels,
    needs_real,
    real_multiframe_scan,
    real_scan,
    world,
)

from pipeline.imaging.dicom_codes import LabelCode, code_for
from pipeline.imaging.dicom_seg import Kind, write_fractional_seg, write_seg
from pipeline.imaging.scans import Scan
from pipeline.records.errors import InputError

LABELS = {"liver": 1, "kidney_left": 2}
DCMQI = shutil.which("segimage2itkimage") or shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent))


def written(scan: Scan, labelmap: np.ndarray, path: Path, *, labels: dict[str, int] = LABELS, kind: Kind = "binary",
            **codes: LabelCode) -> Path:
    write_seg(path, labelmap, scan, labels=labels, codes=codes, model=MODEL, kind=kind)
    return path


def by_highdicom(path: Path, scan: Scan) -> dict[int, np.ndarray]:
    """Returns each segment's world coordinates."""
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    # Its axes are (plane, row, column), its world LPS.
    affine = LPS_FROM_RAS @ volume.affine
    return {number: world(volume.array == number, affine) for number in np.unique(volume.array) if number}


def by_dcmqi(path: Path, scan: Scan) -> dict[int, np.ndarray]:
    if DCMQI is None:
        pytest.skip("dcmqi is not installed")
    folder = path.with_suffix(".dcmqi")
    folder.mkdir()
    subprocess.run([DCMQI, "--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nii"], check=True,
                   capture_output=True)
    images = [nib.load(file) for file in sorted(folder.glob("*.nii.gz"))]
    return {int(array.max()): world(array > 0, image.affine) for image in images
            for array in [np.asarray(image.dataobj)]}


def by_pydicom(path: Path, scan: Scan) -> dict[int, np.ndarray]:
    """Returns each segment's world coordinates from the elements themselves, frame by frame."""
    content = pydicom.dcmread(path)
    shared = content.SharedFunctionalGroupsSequence[0]
    between_rows, between_columns = shared.PixelMeasuresSequence[0].PixelSpacing
    row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    pixels = content.pixel_array.reshape(-1, content.Rows, content.Columns)
    found: dict[int, list[np.ndarray]] = {}
    for frame, group in zip(pixels, content.PerFrameFunctionalGroupsSequence, strict=True):
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        # PS3.3 C.7.6.2.1.1; the second index of a frame is its column.
        indices = np.argwhere(frame)
        points = origin + indices[:, 1:] * row * between_columns + indices[:, :1] * column * between_rows
        found.setdefault(number, []).append(points @ LPS_FROM_RAS[:3, :3])
    return {number: np.unique(np.round(np.concatenate(parts), 3) + 0.0, axis=0) for number, parts in found.items()}


def assert_in_place(found: dict[int, np.ndarray], labelmap: np.ndarray, scan: Scan) -> None:
    assert sorted(found) == [value for value in np.unique(labelmap) if value]
    for value, points in found.items():
        expected = world(labelmap == value, scan.affine)
        assert points.shape == expected.shape
        # Both sides are rounded, so points may come in another order: each must have its partner.
        distances = np.abs(points[:, None] - expected[None]).max(axis=2)
        assert distances.min(axis=1).max() < 0.005


@pytest.mark.parametrize("reader", [by_highdicom, by_dcmqi, by_pydicom])
@pytest.mark.parametrize("affine", list(AFFINES))
def test_voxels_lie_where_the_scan_has_them(tmp_path: Path, affine: str, reader: Any) -> None:
    scan, labelmap = dicom_scan(tmp_path / "ct", AFFINES[affine]), lopsided_labels()
    assert_in_place(reader(written(scan, labelmap, tmp_path / "seg.dcm"), scan), labelmap, scan)


def test_highdicom_finds_the_sources_grid(tmp_path: Path) -> None:
    scan, labelmap = dicom_scan(tmp_path / "ct", AFFINES["oblique, reversed"]), lopsided_labels()
    source = highdicom.get_volume_from_series([pydicom.dcmread(file) for file in scan.planes.files])  # type: ignore[union-attr]
    found = highdicom.seg.segread(written(scan, labelmap, tmp_path / "seg.dcm")).get_volume(combine_segments=True)
    matched = found.match_geometry(source)
    turned = labelmap.transpose(2, 1, 0)
    assert np.array_equal(matched.array, turned) or np.array_equal(matched.array, turned[::-1])
    assert_in_place({1: world(matched.array == 1, LPS_FROM_RAS @ matched.affine),
                     2: world(matched.array == 2, LPS_FROM_RAS @ matched.affine)}, labelmap, scan)


@pytest.mark.parametrize("count", [2, 300])
def test_label_map_kind_reads_back(tmp_path: Path, count: int) -> None:
    shape = (20, 18, 3)
    scan = dicom_scan(tmp_path / "ct", AFFINES["axial, from head to feet"], shape)
    # A row of 20 equal values, runs of one, and numbers above 255.
    labelmap = (np.arange(np.prod(shape)).reshape(shape) % (count + 1)).astype(np.uint16)
    labelmap[:, 3] = 1
    labels = {f"part {value}": value for value in range(1, count + 1)}
    path = written(scan, labelmap, tmp_path / "seg.dcm", labels=labels, kind="labelmap")
    assert_in_place(by_highdicom(path, scan), labelmap, scan)
    content = pydicom.dcmread(path)
    assert content.file_meta.TransferSyntaxUID.name == "RLE Lossless"
    assert content.BitsAllocated == (8 if count < 256 else 16)
    # Every value that occurs must be described, the background too.
    assert [int(item.SegmentNumber) for item in content.SegmentSequence] == list(range(count + 1))
    # pydicom's own decoder, without highdicom.
    assert np.array_equal(np.unique(content.pixel_array), np.unique(labelmap))


def test_fractions_are_stored_in_steps_of_a_255th(tmp_path: Path) -> None:
    scan = dicom_scan(tmp_path / "ct", AFFINES["oblique"])
    shares = np.zeros((2, *SHAPE), dtype=np.float32)
    shares[0, 2, 3, 4], shares[1, 1, 2, 0], shares[1, 1, 2, 1], shares[1, 0, 0, 0] = 0.5, 1.0, 0.001, np.nan
    write_fractional_seg(tmp_path / "seg.dcm", iter(shares), scan, labels=LABELS, codes={}, model=MODEL)
    found = highdicom.seg.segread(tmp_path / "seg.dcm")
    volume = found.get_volume()
    affine = np.linalg.inv(scan.affine) @ LPS_FROM_RAS @ volume.affine
    filled = {}
    for *place, segment in np.argwhere(volume.array).tolist():
        x, y, z = np.rint((affine @ [*place, 1])[:3]).astype(int).tolist()
        filled[x, y, z, segment] = float(volume.array[(*place, segment)])
    # 0.5 * 255 = 127.5 rounds to 128; 0.001 is less than half a step.
    assert filled == {(2, 3, 4, 0): pytest.approx(128 / 255), (1, 2, 0, 1): 1.0}
    assert found.segmentation_fractional_type.value == "PROBABILITY"
    assert found.NumberOfFrames == 2


@pytest.mark.parametrize("kind", ["binary", "labelmap", "fractional"])
def test_empty_segmentation_is_a_valid_object(tmp_path: Path, kind: Any) -> None:
    scan = dicom_scan(tmp_path / "ct", AFFINES["axial"])
    path = tmp_path / "seg.dcm"
    if kind == "fractional":
        write_fractional_seg(path, np.zeros((2, *SHAPE)), scan, labels=LABELS, codes={}, model=MODEL)
    else:
        written(scan, np.zeros(SHAPE, dtype=np.uint8), path, kind=kind)
    found = highdicom.seg.segread(path)
    assert (found.NumberOfFrames, found.segment_numbers) == (1, [1, 2])
    assert not found.get_volume(allow_missing_positions=True).array.any()


def test_segments_carry_name_code_algorithm_and_tracking(tmp_path: Path) -> None:
    scan = dicom_scan(tmp_path / "ct", AFFINES["axial"])
    own = LabelCode(code_for("liver").category, ("1", "99LOCAL", "Own"), colour=(255, 0, 0))
    content = highdicom.seg.segread(written(scan, lopsided_labels(), tmp_path / "seg.dcm", liver=own))
    first, second = (content.get_segment_description(number) for number in (1, 2))
    assert [first.segment_label, second.segment_label] == ["liver", "kidney_left"]
    assert (first.segmented_property_type.value, first.segmented_property_type.scheme_designator) == ("1", "99LOCAL")
    assert second.segmented_property_type == dictionary.SCT.Kidney
    kind = second.SegmentedPropertyTypeCodeSequence[0]
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert second.segmented_property_category == dictionary.SCT.AnatomicalStructure
    assert first.algorithm_type.value == "AUTOMATIC"
    identified = first.algorithm_identification
    assert (identified.name, identified.version) == ("Tiny model", "1.2.0")
    assert identified.family == dictionary.DCM.ArtificialIntelligence
    assert first.tracking_uid != second.tracking_uid
    # sRGB red in CIELab (D50) is 54.29, 80.80, 69.89 (Bruce Lindbloom's calculator).
    lightness, a, b = (value / 65535 for value in first.RecommendedDisplayCIELabValue)
    assert (lightness * 100, a * 255 - 128, b * 255 - 128) == pytest.approx((54.29, 80.80, 69.89), abs=0.02)


def test_patient_study_and_sources_are_those_of_the_scan(tmp_path: Path) -> None:
    scan, labelmap = dicom_scan(tmp_path / "ct", AFFINES["oblique, reversed"]), lopsided_labels()
    content = pydicom.dcmread(written(scan, labelmap, tmp_path / "seg.dcm"))
    files = [pydicom.dcmread(file) for file in scan.planes.files]  # type: ignore[union-attr]
    for name in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "StudyTime",
                 "StudyID", "AccessionNumber", "FrameOfReferenceUID"):
        assert content[name].value == files[0][name].value, name
    assert content.SeriesInstanceUID != files[0].SeriesInstanceUID
    assert "Research use only" in content.SeriesDescription
    referenced = content.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == files[0].SeriesInstanceUID
    assert {one.ReferencedSOPInstanceUID for one in referenced.ReferencedInstanceSequence} == {
        one.SOPInstanceUID for one in files}
    position = {one.SOPInstanceUID: one.ImagePositionPatient for one in files}
    assert len(content.PerFrameFunctionalGroupsSequence) == 4  # label 1 in plane 1, label 2 in planes 3, 4, 5
    for frame in content.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == pytest.approx(
            [float(value) for value in position[source.ReferencedSOPInstanceUID]], abs=1e-6)


def test_loss_of_the_source_is_repeated(tmp_path: Path) -> None:
    scan = dicom_scan(tmp_path / "ct", AFFINES["axial"])
    path = tmp_path / "seg.dcm"
    assert pydicom.dcmread(written(scan, lopsided_labels(), path)).LossyImageCompression == "00"
    for file in scan.planes.files:  # type: ignore[union-attr]
        content = pydicom.dcmread(file)
        content.LossyImageCompression, content.LossyImageCompressionRatio = "01", ["12.5", "3"]
        content.LossyImageCompressionMethod = ["ISO_10918_1", "ISO_15444_1"]
        content.save_as(file)
    found = pydicom.dcmread(written(scan, lopsided_labels(), path))
    assert (found.LossyImageCompression, found.LossyImageCompressionRatio) == ("01", [12.5, 3])
    assert found.LossyImageCompressionMethod == ["ISO_10918_1", "ISO_15444_1"]


def test_every_element_that_highdicom_writes_is_there(tmp_path: Path) -> None:
    scan, labelmap = dicom_scan(tmp_path / "ct", AFFINES["axial"]), lopsided_labels()
    ours = pydicom.dcmread(written(scan, labelmap, tmp_path / "seg.dcm"))
    described = [highdicom.seg.SegmentDescription(
        number, name, dictionary.SCT.AnatomicalStructure, dictionary.SCT.Liver, "AUTOMATIC",
        highdicom.AlgorithmIdentificationSequence("m", dictionary.DCM.ArtificialIntelligence, "1"),
        tracking_id=name, tracking_uid=highdicom.UID()) for name, number in LABELS.items()]
    theirs = highdicom.seg.Segmentation(
        [pydicom.dcmread(file) for file in scan.planes.files],  # type: ignore[union-attr]
        np.ascontiguousarray(labelmap.transpose(2, 1, 0)), "BINARY", described, highdicom.UID(), 1, highdicom.UID(), 1,
        "Segline", "m", "1", "0", content_description="d", content_creator_name="n^")
    # When it was made would differ from one run to the next; the equipment of the source is no part of the result.
    left_out = {"InstanceCreationDate", "InstanceCreationTime", "ContributingEquipmentSequence", "ContributionDateTime",
                "ContributionDescription"}
    assert keywords(theirs) - keywords(ours) - left_out == set()
    assert sorted(frame.tobytes() for frame in ours.pixel_array) == sorted(
        frame.tobytes() for frame in theirs.pixel_array)


def keywords(content: pydicom.Dataset) -> set[str]:
    return {element.keyword for element in content.iterall()}


def test_same_input_and_model_give_the_same_bytes(tmp_path: Path) -> None:
    scan, labelmap = dicom_scan(tmp_path / "ct", AFFINES["axial"]), lopsided_labels()
    first = written(scan, labelmap, tmp_path / "1.dcm").read_bytes()
    assert written(scan, np.asfortranarray(labelmap), tmp_path / "2.dcm").read_bytes() == first
    labelmap[0, 0, 0] = 1
    other = pydicom.dcmread(written(scan, labelmap, tmp_path / "3.dcm"))
    assert other.SOPInstanceUID != pydicom.dcmread(tmp_path / "1.dcm").SOPInstanceUID


def test_resampled_scan_gives_its_own_planes_and_all_sources(tmp_path: Path) -> None:
    scan = dicom_scan(tmp_path / "ct", AFFINES["oblique"])
    assert scan.planes is not None
    shape = (7, 5, 11)
    scan = replace(scan, array=np.zeros(shape, np.float32), affine=scan.affine @ np.diag([1.0, 1.0, 0.5, 1.0]),
                   planes=replace(scan.planes, is_resampled=True))
    labelmap = lopsided_labels(shape)
    path = written(scan, labelmap, tmp_path / "seg.dcm")
    for reader in (by_highdicom, by_dcmqi, by_pydicom):
        assert_in_place(reader(path, scan), labelmap, scan)
    content = pydicom.dcmread(path)
    assert len(content.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 6
    assert not any(frame.DerivationImageSequence for frame in content.PerFrameFunctionalGroupsSequence)


def test_odd_headers_are_taken_over_as_far_as_they_go(tmp_path: Path) -> None:
    scan = dicom_scan(tmp_path / "ct", AFFINES["axial"])
    assert scan.planes is not None
    for file in scan.planes.files:
        with disable_value_validation():
            content = pydicom.dcmread(file)
            for name in ("StudyID", "PatientSex", "AccessionNumber", "ReferringPhysicianName", "StudyTime",
                         "FrameOfReferenceUID", "SeriesNumber", "PositionReferenceIndicator"):
                del content[name]
            content.SpecificCharacterSet = "ISO_IR 100"
            content.PatientName, content.PatientID = "Müller^Jörg", "0" * 70
            content.StudyDate, content.PatientBirthDate = "2020-01-01", "unknown"
            content.add_new("StudyDescription", "UN", b"caf\xe9")
            content.add_new("PatientWeight", "LO", "about 70")
            content.save_as(file)
        # Now the name's bytes are no text of the declared character set.
        file.write_bytes(file.read_bytes().replace(b"ISO_IR 100", b"ISO_IR 192"))
    labelmap = lopsided_labels()
    path = written(scan, labelmap, tmp_path / "seg.dcm")
    assert_in_place(by_highdicom(path, scan), labelmap, scan)
    assert_in_place(by_dcmqi(path, scan), labelmap, scan)
    with disable_value_validation():
        content = pydicom.dcmread(path)
        assert str(content.PatientName).startswith("M")
        assert (content.PatientID, content.StudyDate, content.StudyID) == ("0" * 70, "2020-01-01", "")
        assert content.ContentDate == "19700101"
        assert "PatientWeight" not in content
        assert content.FrameOfReferenceUID


def refusal(scan: Scan, labelmap: np.ndarray, path: Path, **arguments: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        written(scan, labelmap, path, **arguments)
    assert "\n" not in str(caught.value)
    assert not path.exists()
    assert not list(path.parent.glob(".aside*"))
    return caught.value


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    scan, labelmap = dicom_scan(tmp_path / "ct", AFFINES["axial"]), lopsided_labels()
    path = tmp_path / "out" / "seg.dcm"
    assert refusal(replace(scan, planes=None), labelmap, path).reason == "not-dicom"
    assert refusal(scan, labelmap[:-1], path).reason == "wrong-shape"
    assert refusal(scan, labelmap, path, labels={"liver": 1}).reason == "unknown-label"
    assert refusal(scan, labelmap, path, labels={"liver": 1, "kidney": 1}).reason == "unknown-label"
    assert scan.planes is not None
    backwards = replace(scan, planes=replace(scan.planes, files=scan.planes.files[::-1]))
    assert refusal(backwards, labelmap, path).reason == "plane-mismatch"
    gone = replace(scan, planes=replace(scan.planes, files=(tmp_path / "gone", *scan.planes.files[1:])))
    assert refusal(gone, labelmap, path).reason == "undecodable"
    for shares in (np.zeros((1, *SHAPE)), np.zeros((3, *SHAPE)), np.zeros((2, 3, 3, 3))):
        with pytest.raises(InputError) as caught:
            write_fractional_seg(path, shares, scan, labels=LABELS, codes={}, model=MODEL)
        assert caught.value.reason == "wrong-shape"
        assert not path.exists()


@needs_real
@pytest.mark.parametrize("name", ["ct_rtstruct/STS_002/image", "mr_t1_oblique", "hippocampus_study1", "seg/ct-3slice",
                                  "regular/siemens_001"])
def test_real_series(tmp_path: Path, name: str) -> None:
    scan = real_scan(Path(str(REAL)) / "dicom" / name)
    labelmap = sparse_labels(scan.array.shape)
    path = written(scan, labelmap, tmp_path / "seg.dcm")
    for reader in (by_highdicom, by_dcmqi, by_pydicom):
        assert_in_place(reader(path, scan), labelmap, scan)


@needs_real
def test_real_enhanced_multiframe_object(tmp_path: Path) -> None:
    file = next(path for path in (Path(str(REAL)) / "dicom" / "multiframe" / "001").iterdir() if path.is_file())
    scan = real_multiframe_scan(file)
    labelmap = sparse_labels(scan.array.shape)
    path = written(scan, labelmap, tmp_path / "seg.dcm")
    for reader in (by_highdicom, by_dcmqi, by_pydicom):
        assert_in_place(reader(path, scan), labelmap, scan)
    content, source = pydicom.dcmread(path), pydicom.dcmread(file, stop_before_pixels=True)
    for frame in content.PerFrameFunctionalGroupsSequence:
        number = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        there = source.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0].ImagePositionPatient
        assert frame.PlanePositionSequence[0].ImagePositionPatient == pytest.approx([float(v) for v in there], abs=1e-3)


def sparse_labels(shape: tuple[int, ...]) -> np.ndarray:
    """Returns few voxels, so that each one's world coordinates can be compared."""
    labelmap = np.zeros(shape, dtype=np.uint8)
    rng = np.random.default_rng(3)
    for value in (1, 2):
        labelmap[tuple(rng.integers(0, size, 60) for size in shape)] = value
    labelmap[0, 0, 0], labelmap[-1, -1, -1], labelmap[-1, 0, 0] = 1, 2, 1
    return labelmap
