"""Structure sets: the same mask back, holes and all, and the contours where the patient is."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage
from tiny_scans import (
    AFFINES,
    LPS_FROM_RAS,
    MODEL,
    REAL,
    dicom_scan,
    lopsided_labels,
    needs_real,
    real_multiframe_scan,
    real_scan,
)

from pipeline.imaging.rtstruct import write_rtstruct
from pipeline.imaging.rtstruct_read import read_rtstruct
from pipeline.imaging.scans import Scan
from pipeline.records.errors import InputError

LABELS = {"liver": 1, "tumour": 2}
SHAPE = (17, 15, 6)


def difficult_labels(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Returns noise (single pixels, corners that touch, holes, islands in holes, the border) and clean planes."""
    labels = np.random.default_rng(11).integers(0, 3, shape).astype(np.uint8)
    labels[:, :, 1] = 0
    labels[:, :, 2] = 1
    labels[4:9, 5:12, 2] = 2
    labels[6, 7, 2] = 0
    return labels


def written(scan: Scan, labelmap: np.ndarray, path: Path) -> Path:
    write_rtstruct(path, labelmap, scan, labels=LABELS, codes={}, model=MODEL)
    return path


def assert_round_trip(scan: Scan, labelmap: np.ndarray, path: Path) -> None:
    found = read_rtstruct(written(scan, labelmap, path), scan=scan)
    assert list(found) == list(LABELS)
    for name, value in LABELS.items():
        assert np.array_equal(found[name], labelmap == value), name


@pytest.mark.parametrize("affine", list(AFFINES))
def test_mask_comes_back_to_the_pixel(tmp_path: Path, affine: str) -> None:
    assert_round_trip(dicom_scan(tmp_path / "ct", AFFINES[affine], SHAPE), difficult_labels(), tmp_path / "rt.dcm")


def test_resampled_scan_comes_back_too(tmp_path: Path) -> None:
    scan = dicom_scan(tmp_path / "ct", AFFINES["oblique"], SHAPE)
    assert scan.planes is not None
    shape = (17, 15, 11)
    scan = replace(scan, array=np.zeros(shape, np.float32), affine=scan.affine @ np.diag([1.0, 1.0, 0.5, 1.0]),
                   planes=replace(scan.planes, is_resampled=True))
    assert_round_trip(scan, difficult_labels(shape), tmp_path / "rt.dcm")
    contours = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence
    assert not any("ContourImageSequence" in contour for contour in contours)


@pytest.mark.parametrize("affine", ["axial", "oblique, reversed"])
def test_contours_lie_around_the_voxels_in_patient_coordinates(tmp_path: Path, affine: str) -> None:
    scan = dicom_scan(tmp_path / "ct", AFFINES[affine])
    labelmap = np.zeros(scan.array.shape, dtype=np.uint8)
    labelmap[2:5, 1, 4] = 1
    content = pydicom.dcmread(written(scan, labelmap, tmp_path / "rt.dcm"))
    (contour,) = content.ROIContourSequence[0].ContourSequence
    # The edges of three voxels in a row: half a voxel around their centres.
    corners = np.array([[1.5, 0.5, 4, 1], [4.5, 0.5, 4, 1], [4.5, 1.5, 4, 1], [1.5, 1.5, 4, 1]])
    expected = (corners @ scan.affine.T @ LPS_FROM_RAS)[:, :3]
    found = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
    assert contour.NumberOfContourPoints == len(found) == 4
    assert np.abs(found[:, None] - expected[None]).max(axis=2).min(axis=1).max() < 1e-4
    source = pydicom.dcmread(scan.planes.files[4])  # type: ignore[union-attr]
    assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert contour.ContourGeometricType == "CLOSED_PLANAR"
    # Nothing was found of the second one: it has a name and no contour.
    assert "ContourSequence" not in content.ROIContourSequence[1]


def test_object_says_whose_it_is_and_what_made_it(tmp_path: Path) -> None:
    scan = dicom_scan(tmp_path / "ct", AFFINES["axial"])
    content = pydicom.dcmread(written(scan, lopsided_labels(), tmp_path / "rt.dcm"))
    source = pydicom.dcmread(scan.planes.files[0])  # type: ignore[union-attr]
    for name in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "FrameOfReferenceUID"):
        assert content[name].value == source[name].value, name
    assert (content.Modality, content.ApprovalStatus) == ("RTSTRUCT", "UNAPPROVED")
    frame = content.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert frame.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert len(series.ContourImageSequence) == 6
    assert [(roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm) for roi in content.StructureSetROISequence] == [
        (1, "liver", "AUTOMATIC"), (2, "tumour", "AUTOMATIC")]
    observed = content.RTROIObservationsSequence
    assert [item.RTROIInterpretedType for item in observed] == ["ORGAN", ""]
    assert observed[0].RTROIIdentificationCodeSequence[0].CodeMeaning == "Liver"
    assert "Research use only" in content.StructureSetName


def test_same_input_and_model_give_the_same_bytes(tmp_path: Path) -> None:
    scan = dicom_scan(tmp_path / "ct", AFFINES["axial"], SHAPE)
    first = written(scan, difficult_labels(), tmp_path / "1.dcm").read_bytes()
    assert written(scan, difficult_labels(), tmp_path / "2.dcm").read_bytes() == first


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    scan, labelmap = dicom_scan(tmp_path / "ct", AFFINES["axial"]), lopsided_labels()
    for given, array, reason in ((replace(scan, planes=None), labelmap, "not-dicom"),
                                 (scan, labelmap[1:], "wrong-shape"), (scan, labelmap + 2, "unknown-label")):
        with pytest.raises(InputError) as caught:
            written(given, array, tmp_path / "out" / "rt.dcm")
        assert caught.value.reason == reason
        assert not list((tmp_path / "out").iterdir() if (tmp_path / "out").exists() else [])


def structure_set(scan: Scan, *contours: tuple[str, list[tuple[float, float, float]]], names: tuple[str, ...] = ("a",),
                  frame: str = "") -> Dataset:
    """Returns a structure set whose first structure has these contours, given in voxels."""
    content = Dataset()
    content.StructureSetROISequence, drawn = [], Dataset()
    for number, name in enumerate(names, start=1):
        roi = Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame
        content.StructureSetROISequence.append(roi)
    drawn.ReferencedROINumber, drawn.ContourSequence = 1, []
    for kind, points in contours:
        item = Dataset()
        lps = np.column_stack([points, np.ones(len(points))]) @ scan.affine.T @ LPS_FROM_RAS
        item.ContourGeometricType, item.NumberOfContourPoints = kind, len(points)
        item.ContourData = [f"{value:.5f}" for value in lps[:, :3].ravel()]
        drawn.ContourSequence.append(item)
    content.ROIContourSequence = [drawn]
    return content


def saved(content: Dataset, path: Path) -> Path:
    content.SOPClassUID, content.SOPInstanceUID = RTStructureSetStorage, "1.2.3.4"
    content.file_meta = FileMetaDataset()
    content.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with disable_value_validation():
        content.save_as(path, enforce_file_format=True)
    return path


def square(low: float, high: float, plane: float) -> list[tuple[float, float, float]]:
    return [(low, low, plane), (high, low, plane), (high, high, plane), (low, high, plane)]


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_contour_inside_another_is_a_hole(tmp_path: Path, kind: str) -> None:
    scan = dicom_scan(tmp_path / "ct", AFFINES["oblique"], SHAPE)
    content = structure_set(scan, (kind, square(1.6, 9.4, 3)), (kind, square(3.6, 6.4, 3)),
                            ("POINT", [(0.0, 0.0, 0.0)]))
    expected = np.zeros(SHAPE, dtype=bool)
    expected[2:10, 2:10, 3] = True
    expected[4:7, 4:7, 3] = False
    assert np.array_equal(read_rtstruct(saved(content, tmp_path / "rt.dcm"), scan=scan)["a"], expected)


def test_structure_of_points_is_left_out_and_one_without_contours_is_empty(tmp_path: Path) -> None:
    scan = dicom_scan(tmp_path / "ct", AFFINES["axial"], SHAPE)
    content = structure_set(scan, ("POINT", [(1.0, 1.0, 1.0)]), names=("isocentre", "nothing"))
    found = read_rtstruct(saved(content, tmp_path / "rt.dcm"), scan=scan)
    assert list(found) == ["nothing"]
    assert not found["nothing"].any()


def refusal(content: Dataset, scan: Scan, path: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        read_rtstruct(saved(content, path), scan=scan)
    assert "\n" not in str(caught.value)
    return caught.value


def test_what_cannot_be_placed_is_refused(tmp_path: Path) -> None:
    scan, path = dicom_scan(tmp_path / "ct", AFFINES["axial"], SHAPE), tmp_path / "rt.dcm"
    for plane in (2.5, 2.2, -1, 6):
        given = structure_set(scan, ("CLOSED_PLANAR", square(1, 4, plane)))
        assert refusal(given, scan, path).reason == "contour-between-planes", plane
    tilted = [(1.0, 1.0, 2.0), (4.0, 1.0, 3.0), (4.0, 4.0, 2.0)]
    assert refusal(structure_set(scan, ("CLOSED_PLANAR", tilted)), scan, path).reason == "contour-between-planes"
    assert refusal(structure_set(scan, names=("a", "a")), scan, path).reason == "same-name-twice"
    assert refusal(structure_set(scan, frame="1.2.3"), scan, path).reason == "other-frame-of-reference"
    odd = structure_set(scan, ("CLOSED_PLANAR", square(1, 4, 2)))
    odd.ROIContourSequence[0].ContourSequence[0].ContourData = ["1"] * 11
    assert refusal(odd, scan, path).reason == "undecodable"
    assert refusal(Dataset(), scan, path).reason == "not-a-structure-set"
    whole = written(scan, difficult_labels(), path).read_bytes()
    for size in (0, 100, 500, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError) as caught:
            read_rtstruct(path, scan=scan)
        assert caught.value.reason in ("undecodable", "not-a-structure-set")


@needs_real
def test_real_structure_set_agrees_with_an_independent_conversion() -> None:
    folder = Path(str(REAL)) / "dicom" / "ct_rtstruct" / "STS_002"
    scan = real_scan(folder / "image")
    ((name, mask),) = read_rtstruct(next((folder / "rtstruct").iterdir()), scan=scan).items()
    reference = nib.load(folder / "reference_mask.nii.gz")
    assert name == "GTV_Mass_CT"
    assert reference.affine == pytest.approx(scan.affine, abs=1e-3)
    # Measured: every one of its 17,090 voxels.
    assert np.array_equal(mask, np.asarray(reference.dataobj) > 0)


@needs_real
@pytest.mark.parametrize("name", ["mr_t1_oblique", "multiframe/001/IM-0001-0001-0001.dcm"])
def test_real_oblique_series_and_multiframe_object(tmp_path: Path, name: str) -> None:
    path = Path(str(REAL)) / "dicom" / name
    scan = real_scan(path) if path.is_dir() else real_multiframe_scan(path)
    labelmap = np.zeros(scan.array.shape, dtype=np.uint8)
    part = difficult_labels((30, 40, scan.array.shape[2]))
    labelmap[:30, -40:] = part
    assert_round_trip(scan, labelmap, tmp_path / "rt.dcm")
