"""Segmentations as label data: real ones as highdicom and dcmqi read them, and one's own back to the voxel."""

import io
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from tiny_scans import (
    AFFINES,
    LPS_FROM_RAS,
    MODEL,
    REAL,
    SHAPE,
    dicom_scan,
    lopsided_labels,
    needs_real,
    real_scan,
    world,
)

from pipeline.imaging.dicom_codes import code_for
from pipeline.imaging.dicom_seg import Kind, write_fractional_seg, write_seg
from pipeline.imaging.dicom_seg_read import SegContent, read_seg
from pipeline.imaging.scans import Scan
from pipeline.records.errors import InputError

LABELS = {"liver": 1, "kidney_left": 2}


def own_seg(folder: Path, affine: str = "oblique", kind: Kind = "binary") -> tuple[Path, Scan, np.ndarray]:
    scan, labelmap = dicom_scan(folder / "ct", AFFINES[affine]), lopsided_labels()
    write_seg(folder / "seg.dcm", labelmap, scan, labels=LABELS, codes={}, model=MODEL, kind=kind)
    return folder / "seg.dcm", scan, labelmap


def assert_same(content: SegContent, labelmap: np.ndarray) -> None:
    assert [segment.number for segment in content.segments] == [1, 2]
    for segment in content.segments:
        assert segment.mask.dtype == bool
        assert np.array_equal(segment.mask, labelmap == segment.number), segment.label


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
@pytest.mark.parametrize("affine", list(AFFINES))
def test_own_segmentation_comes_back_on_the_scans_grid(tmp_path: Path, affine: str, kind: Kind) -> None:
    path, scan, labelmap = own_seg(tmp_path, affine, kind)
    content = read_seg(path, scan=scan)
    assert_same(content, labelmap)
    assert np.array_equal(content.affine, scan.affine)
    assert not content.is_fractional
    assert [segment.label for segment in content.segments] == list(LABELS)
    assert [segment.code for segment in content.segments] == [code_for(name) for name in LABELS]


@pytest.mark.parametrize("affine", list(AFFINES))
def test_own_grid_puts_voxels_at_the_same_place(tmp_path: Path, affine: str) -> None:
    path, scan, labelmap = own_seg(tmp_path, affine)
    content = read_seg(path)
    assert content.segments[0].mask.shape == (7, 5, 5)  # five of the six planes lie between filled ones
    for segment in content.segments:
        expected = world(labelmap == segment.number, scan.affine)
        assert world(segment.mask, content.affine) == pytest.approx(expected, abs=0.002)


def test_scan_with_turned_axes_gets_turned_masks(tmp_path: Path) -> None:
    path, scan, labelmap = own_seg(tmp_path)
    # Axes (z, x, y), x reversed: voxel (a, b, c) of the turned scan is voxel (SHAPE[0]-1-b, c, a) of the written one.
    turn = np.array([[0, -1, 0, SHAPE[0] - 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    turned = replace(scan, array=np.zeros((SHAPE[2], SHAPE[0], SHAPE[1]), np.float32), affine=scan.affine @ turn)
    assert_same(read_seg(path, scan=turned), labelmap[::-1].transpose(2, 0, 1))


def test_fractions_come_back_within_half_a_step(tmp_path: Path) -> None:
    scan = dicom_scan(tmp_path / "ct", AFFINES["coronal"])
    shares = np.random.default_rng(1).random((2, *SHAPE)).astype(np.float32)
    write_fractional_seg(tmp_path / "seg.dcm", shares, scan, labels=LABELS, codes={}, model=MODEL)
    content = read_seg(tmp_path / "seg.dcm", scan=scan)
    assert content.is_fractional
    for segment, share in zip(content.segments, shares, strict=True):
        assert np.abs(segment.mask - share).max() <= 0.5 / 255 + 1e-6


def test_single_plane_lands_in_its_scan(tmp_path: Path) -> None:
    scan = dicom_scan(tmp_path / "ct", AFFINES["sagittal"])
    labelmap = np.zeros(SHAPE, dtype=np.uint8)
    labelmap[2, 3, 4], labelmap[3, 3, 4] = 1, 2
    write_seg(tmp_path / "seg.dcm", labelmap, scan, labels=LABELS, codes={}, model=MODEL)
    assert_same(read_seg(tmp_path / "seg.dcm", scan=scan), labelmap)


def refusal(path: Path, scan: Scan | None = None) -> InputError:
    with pytest.raises(InputError) as caught:
        read_seg(path, scan=scan)
    assert "\n" not in str(caught.value)
    return caught.value


def test_other_grids_are_refused(tmp_path: Path) -> None:
    path, scan, _ = own_seg(tmp_path)
    half = np.eye(4)
    half[0, 3] = 0.5
    for change in (half, np.diag([2.0, 1, 1, 1]), np.diag([1.0, 1, 0.5, 1])):
        assert refusal(path, replace(scan, affine=scan.affine @ change)).reason == "other-grid"
    smaller = replace(scan, array=np.zeros((7, 5, 5), np.float32))
    assert "beyond" in refusal(path, smaller).found
    elsewhere = dicom_scan(tmp_path / "other", AFFINES["oblique, reversed"])
    assert refusal(path, elsewhere).reason == "other-frame-of-reference"


def test_files_that_are_no_segmentation_are_refused(tmp_path: Path) -> None:
    path, scan, _ = own_seg(tmp_path)
    assert scan.planes is not None
    assert refusal(scan.planes.files[0]).reason == "not-a-segmentation"
    (tmp_path / "text").write_text("no DICOM")
    assert refusal(tmp_path / "text").reason == "undecodable"
    assert refusal(tmp_path / "missing").reason == "undecodable"
    whole = path.read_bytes()
    for size in range(200, len(whole) - 1, 97):
        (tmp_path / "cut").write_bytes(whole[:size])
        assert refusal(tmp_path / "cut").reason in ("undecodable", "not-a-segmentation"), size


def changed(path: Path, **elements: object) -> Path:
    content = pydicom.dcmread(path)
    for name, value in elements.items():
        setattr(content, name, value)
    stream = io.BytesIO()
    content.save_as(stream)
    target = path.with_name("changed.dcm")
    target.write_bytes(stream.getvalue())
    return target


def test_uneven_planes_and_lying_headers_are_refused(tmp_path: Path) -> None:
    path, _, _ = own_seg(tmp_path, "axial")
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    groups[-1].PlanePositionSequence[0].ImagePositionPatient[2] += 1.0
    assert refusal(changed(path, PerFrameFunctionalGroupsSequence=groups)).reason == "irregular-planes"
    groups[-1].PlanePositionSequence[0].ImagePositionPatient[2] += 1e12
    assert refusal(changed(path, PerFrameFunctionalGroupsSequence=groups)).reason == "irregular-planes"
    shared = pydicom.dcmread(path).SharedFunctionalGroupsSequence
    shared[0].PixelMeasuresSequence[0].PixelSpacing = [0, 1]
    assert refusal(changed(path, SharedFunctionalGroupsSequence=shared)).reason == "irregular-planes"
    assert refusal(changed(path, PerFrameFunctionalGroupsSequence=[])).reason == "undecodable"
    assert refusal(changed(path, NumberOfFrames=3)).reason == "undecodable"
    assert refusal(changed(path, Rows=60000, Columns=60000)).reason in ("undecodable", "irregular-planes")


@needs_real
@pytest.mark.parametrize("name", ["liver", "partial_overlaps"])
def test_real_segmentations_as_highdicom_reads_them(name: str) -> None:
    folder = Path(str(REAL)) / "dicom" / "seg"
    scan = real_scan(folder / "ct-3slice")
    content = read_seg(folder / f"{name}.dcm", scan=scan)
    volume = highdicom.seg.segread(folder / f"{name}.dcm").get_volume(combine_segments=False)
    # Theirs has axes (plane, row, column, segment).
    to_scan = np.linalg.inv(scan.affine) @ LPS_FROM_RAS @ volume.affine
    for at, segment in enumerate(content.segments):
        indices = np.argwhere(volume.array[..., at])
        places = np.rint(indices @ to_scan[:3, :3].T + to_scan[:3, 3]).astype(int)
        expected = np.zeros(scan.array.shape, dtype=bool)
        expected[tuple(places.T)] = True
        assert np.array_equal(segment.mask, expected), segment.label
    if name == "partial_overlaps":
        labels = [segment.label for segment in content.segments]
        assert labels == ["GREEN", "ORANGE", "PURPLE", "LIGHT_BLUE", "DARK_BLUE"]
        assert (content.segments[0].mask & content.segments[1].mask).any()
    else:
        assert content.segments[0].code is not None
        assert content.segments[0].code.type == ("T-62000", "SRT", "Liver")
        assert int(content.segments[0].mask.sum()) == 36233 + 35645 + 35220
