"""Faults of scans, one at a time: each is found and worded by the audit, and the other cases go on."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tiny_audit import (
    CASES,
    CONFIG,
    IMAGE,
    LABEL,
    SETTINGS,
    WORK,
    enter_audited_repository,
    findings,
    indexed,
    truncate,
)
from tiny_msd import AFFINE, SHAPE, image_array, label_array, write_scan

from pipeline.records.index import read_index
from pipeline.stages import audit


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return enter_audited_repository(tmp_path, monkeypatch)


def shifted(millimetres: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += millimetres
    return affine


def with_values(array: np.ndarray, *values: float, dtype: type = np.float32) -> np.ndarray:
    changed = array.astype(dtype)
    changed.flat[-len(values):] = values
    return changed


FAULTS: dict[str, tuple[Callable[[], Any], str, str, str, str]] = {
    # what is done: (how, check, file, found, wanted)
    "NaN in the image": (
        lambda: write_scan(IMAGE, with_values(image_array(), np.nan, np.inf)),
        "not-finite", "imagesTr/p3_a.nii.gz", "2 voxels that are NaN or infinite", "finite values"),
    "NaN in the label": (
        lambda: write_scan(LABEL, with_values(label_array(), np.nan)),
        "not-finite", "labelsTr/p3_a.nii.gz", "1 voxels that are NaN or infinite", "label values"),
    "one value": (
        lambda: write_scan(IMAGE, np.full(SHAPE, 7, np.float32)),
        "constant-image", "imagesTr/p3_a.nii.gz", "7 in every voxel", "an image"),
    "another shape": (
        lambda: write_scan(LABEL, np.ones((5, 4, 2), np.uint8)),
        "shape-mismatch", "labelsTr/p3_a.nii.gz", "5x4x2 voxels", "5x4x3 as the image"),
    "shifted by half a millimetre": (
        lambda: write_scan(LABEL, label_array(), shifted(0.5)),
        "affine-mismatch", "labelsTr/p3_a.nii.gz", "a grid up to 0.5 mm from the image's", "at most 0.01 mm"),
    # 3 voxels of spacing 3 along z: the last slice lies at 6 mm, with spacing 4 at 8 mm.
    "another spacing": (
        lambda: write_scan(LABEL, label_array(), np.diag([1.0, 2.0, 4.0, 1.0])),
        "affine-mismatch", "labelsTr/p3_a.nii.gz", "a grid up to 2 mm from the image's", "at most 0.01 mm"),
    "a value not declared": (
        lambda: write_scan(LABEL, with_values(label_array(), 3, 3, 9, dtype=np.uint8)),
        "unexpected-label", "labelsTr/p3_a.nii.gz", "the value 3 (2 voxels), 9 (1 voxels)",
        "0 background, 1 organ, 2 lesion"),
    "a negative value": (
        lambda: write_scan(LABEL, with_values(label_array(), -1, dtype=np.int16)),
        "unexpected-label", "labelsTr/p3_a.nii.gz", "the value -1 (1 voxels)", "0 background, 1 organ, 2 lesion"),
    "a value of many digits": (
        lambda: write_scan(LABEL, with_values(label_array(), 70000, dtype=np.int32)),
        "unexpected-label", "labelsTr/p3_a.nii.gz", "the value 70000 (1 voxels)", "0 background, 1 organ, 2 lesion"),
    "between two labels": (
        lambda: write_scan(LABEL, with_values(label_array(), 0.5, 1.5)),
        "fractional-label", "labelsTr/p3_a.nii.gz", "2 voxels such as 0.5", "whole numbers"),
    "a truncated gzip": (
        lambda: truncate(IMAGE),
        "truncated-file", "imagesTr/p3_a.nii.gz", "a compressed stream that ends early", "a complete file"),
    "an empty file": (
        lambda: LABEL.write_bytes(b""),
        "truncated-file", "labelsTr/p3_a.nii.gz", "an empty file", "a NIfTI file"),
    "no NIfTI": (
        lambda: LABEL.write_bytes(gzip.compress(b"a text" * 100)),
        "not-an-image", "labelsTr/p3_a.nii.gz", "no NIfTI header", "a single-file NIfTI (.nii or .nii.gz)"),
    "two channels": (
        lambda: write_scan(IMAGE, np.stack([image_array(), image_array()], axis=-1)),
        "not-single-channel", "imagesTr/p3_a.nii.gz", "shape (5, 4, 3, 2)", "one channel"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_leaves_its_case_out(fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, check, file, found, wanted = FAULTS[fault]
    make()
    audit.run("tiny")
    (finding,) = findings()
    remedy = finding.pop("remedy")
    assert finding == {"check": check, "severity": "error", "case_id": "p3_a", "file": file, "found": found,
                       "wanted": wanted}
    assert remedy
    assert indexed() == [case_id for case_id in CASES if case_id != "p3_a"]
    assert f"LEFT OUT: {check} 1;" in capsys.readouterr().out


def test_all_faults_of_a_case_are_named() -> None:
    write_scan(IMAGE, np.full(SHAPE, np.inf, np.float32))
    write_scan(LABEL, with_values(label_array(), 5, dtype=np.uint8), shifted(2))
    audit.run("tiny")
    assert [finding["check"] for finding in findings()] == ["not-finite", "unexpected-label", "affine-mismatch"]


def test_both_files_unreadable_gives_two_findings() -> None:
    truncate(IMAGE)
    truncate(LABEL)
    audit.run("tiny")
    assert [finding["file"] for finding in findings()] == ["imagesTr/p3_a.nii.gz", "labelsTr/p3_a.nii.gz"]


def test_rounding_of_an_affine_is_tolerated() -> None:
    write_scan(LABEL, label_array(), shifted(0.005))
    audit.run("tiny")
    assert findings() == []
    assert indexed() == CASES


def test_an_empty_label_is_kept_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    write_scan(LABEL, np.zeros(SHAPE, np.uint8))
    audit.run("tiny")
    (finding,) = findings()
    assert (finding["check"], finding["severity"]) == ("empty-label", "warning")
    assert indexed() == CASES
    assert read_index(WORK / "index.json").cases[4].label_voxels == {"organ": 0, "lesion": 0}
    assert "7 of 7 cases sound" in (out := capsys.readouterr().out)
    assert "; WARNINGS: empty-label 1;" in out


def test_a_missing_label_gives_both_halves_of_the_pair() -> None:
    LABEL.unlink()
    audit.run("tiny")
    assert [(item["check"], item["file"], item["found"]) for item in findings()] == [
        ("unpaired-file", "imagesTr/p3_a.nii.gz", "a file that belongs to no case"),
        ("missing-file", "labelsTr/p3_a.nii.gz", "no such file")]
    assert indexed() == [case_id for case_id in CASES if case_id != "p3_a"]


@pytest.mark.parametrize(("declared", "is_left_out"), [("", False), ("left_right: symmetric\n", True)])
def test_scans_that_do_not_say_which_side_is_left_are_not_mirrored(declared: str, is_left_out: bool) -> None:
    CONFIG.write_text(SETTINGS + declared)
    for path in (IMAGE, LABEL):
        nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), None), path)  # neither qform nor sform
    audit.run("tiny")
    left = {case.case_id for case in read_index(WORK / "index.json").cases}
    assert set(CASES) - left == ({"p3_a"} if is_left_out else set())
    found = [(item["check"], item["case_id"]) for item in findings() if item["severity"] == "error"]
    assert found == ([("unknown-sides", "p3_a")] if is_left_out else [])
