"""Checks of one case that need no dataset around it; the faults themselves are in test_stages_audit.py."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from tiny_msd import image_array, label_array, write_scan

from pipeline.records.cases import RawCase
from pipeline.sources.checks import check_case, orientation_of

LABELS = {"organ": 1, "lesion": 2}


@pytest.mark.parametrize(("codes", "columns"), [
    ("RAS", [(1, 0, 0), (0, 1, 0), (0, 0, 1)]),
    ("LPS", [(-1, 0, 0), (0, -1, 0), (0, 0, 1)]),
    ("PIR", [(0, -1, 0), (0, 0, -1), (1, 0, 0)]),
    ("SLA", [(0, 0, 1), (-1, 0, 0), (0, 1, 0)]),
])
def test_orientation_along_the_axes(codes: str, columns: list[tuple[float, ...]]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.transpose(columns) * (0.5, 2.0, 7.0)
    assert orientation_of(affine) == codes


def test_orientation_of_oblique_scans_is_that_of_nibabel() -> None:
    for turn in Rotation.random(200, random_state=0):
        affine = np.eye(4)
        affine[:3, :3] = turn.as_matrix() * (0.5, 2.0, 7.0)
        assert orientation_of(affine) == "".join(nib.aff2axcodes(affine))


def test_orientation_leaves_the_affine_alone() -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    orientation_of(affine)
    assert np.array_equal(affine, np.diag([1.0, 2.0, 3.0, 1.0]))


def test_a_case_without_label(tmp_path: Path) -> None:
    image = write_scan(tmp_path / "a.nii.gz", image_array())
    checked = check_case(RawCase("a", image, None), tmp_path, labels=LABELS)
    assert checked.facts is None
    assert [finding.check for finding in checked.findings] == ["no-label"]


def test_a_two_dimensional_image(tmp_path: Path) -> None:
    image = write_scan(tmp_path / "image.nii", image_array()[:, :, 0])
    label = write_scan(tmp_path / "label.nii", label_array()[:, :, 0])
    checked = check_case(RawCase("a", image, label), tmp_path, labels=LABELS)
    assert checked.findings == ()
    assert checked.facts is not None
    assert checked.facts.shape == (5, 4, 1)


def test_a_header_without_orientation_is_kept_with_a_warning(tmp_path: Path) -> None:
    image, label = tmp_path / "image.nii", tmp_path / "label.nii"
    for path, array in ((image, image_array()), (label, label_array())):
        scan = nib.Nifti1Image(array, None)
        scan.header.set_zooms((1, 2, 3))
        nib.save(scan, path)
    checked = check_case(RawCase("a", image, label), tmp_path, labels=LABELS)
    assert [(item.check, item.severity, item.file) for item in checked.findings] == [
        ("doubtful-header", "warning", "image.nii"), ("doubtful-header", "warning", "label.nii")]
    assert checked.facts is not None
    assert checked.facts.spacing_mm == (1.0, 2.0, 3.0)


def test_spacing_is_rounded_to_what_a_header_can_mean(tmp_path: Path) -> None:
    affine = np.diag([0.8, 0.8, 2.5, 1.0])  # 0.8 is 0.800000012 in float32
    image = write_scan(tmp_path / "image.nii", image_array(), affine)
    label = write_scan(tmp_path / "label.nii", label_array(), affine)
    facts = check_case(RawCase("a", image, label), tmp_path, labels=LABELS).facts
    assert facts is not None
    assert facts.spacing_mm == (0.8, 0.8, 2.5)
