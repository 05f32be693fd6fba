"""From a path to the scans below it."""

import os
from pathlib import Path

import numpy as np
import pytest
from tiny_dicom import slice_dataset, write_slices
from tiny_msd import AFFINE, SHAPE, write_scan

from pipeline.imaging.discovery import find_scans, read_scan
from pipeline.imaging.pseudonyms import pseudonym
from pipeline.records.errors import InputError


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGLINE_PSEUDONYM_KEY", "test")


def nifti(path: Path) -> Path:
    return write_scan(path, np.zeros(SHAPE, dtype=np.int16))


def series(folder: Path, uid: str = "1.2.3.4") -> Path:
    return write_slices(folder, [slice_dataset(number, series_uid=uid) for number in range(3)])


def found(path: Path, leave_out: Path | None = None) -> list[tuple[str, str]]:
    return [(scan.name, scan.relative) for scan in find_scans(path, leave_out=leave_out)]


def reason_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        find_scans(path)
    return caught.value.reason


def test_one_file_is_named_by_its_stem(tmp_path: Path) -> None:
    assert found(nifti(tmp_path / "A.b.nii.gz")) == [("A.b", "A.b.nii.gz")]
    assert found(nifti(tmp_path / "c.NII")) == [("c", "c.NII")]


def test_series_is_named_by_a_keyed_hash(tmp_path: Path) -> None:
    folder = series(tmp_path / "Smith John", "1.2.3.4")
    (scan,) = find_scans(folder)
    assert scan.name == pseudonym("1.2.3.4")
    assert (scan.path, scan.relative) == (folder, "Smith John")


def test_folder_is_searched_to_any_depth_in_order(tmp_path: Path) -> None:
    nifti(tmp_path / "in/b.nii.gz")
    nifti(tmp_path / "in/a/deep/c.nii")
    series(tmp_path / "in/a/series")
    (tmp_path / "in/notes.txt").write_text("nothing")
    assert found(tmp_path / "in") == [
        ("c", "a/deep/c.nii"), (pseudonym("1.2.3.4"), "a/series"), ("b", "b.nii.gz"),
    ]


def test_equal_names_get_a_suffix(tmp_path: Path) -> None:
    for name in ("1/ct.nii.gz", "2/ct.nii", "3/CT.nii.gz", "4/ct-2.nii.gz", "summary.json.nii.gz"):
        nifti(tmp_path / "in" / name)
    # Capitals count as equal: some file systems cannot hold both.
    assert [name for name, _ in found(tmp_path / "in")] == ["ct", "ct-2", "CT-3", "ct-2-2", "summary.json-2"]


def test_hidden_files_and_earlier_results_are_passed_over(tmp_path: Path) -> None:
    nifti(tmp_path / "in/a.nii.gz")
    nifti(tmp_path / "in/._a.nii.gz")
    nifti(tmp_path / "in/.hidden/b.nii.gz")
    nifti(tmp_path / "in/out/a/segmentation.nii.gz")
    assert found(tmp_path / "in", tmp_path / "in/out") == [("a", "a.nii.gz")]


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    nifti(tmp_path / "elsewhere/a.nii.gz")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/circle").symlink_to(tmp_path / "elsewhere")
    assert found(tmp_path / "in") == [("a", "link/a.nii.gz")]


def test_folder_of_a_damaged_series_is_still_a_scan(tmp_path: Path) -> None:
    folder = series(tmp_path / "in/series")
    (folder / "IM0").write_bytes((folder / "IM0").read_bytes()[:140])
    nifti(tmp_path / "in/b.nii.gz")
    assert [relative for _, relative in found(tmp_path / "in")] == ["b.nii.gz", "series"]


def test_name_that_is_no_text_can_be_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"scan-\xff.nii.gz")
    try:
        nifti(tmp_path / "in" / "x.nii.gz").rename(tmp_path / "in" / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert found(tmp_path / "in") == [("scan-\ufffd", "scan-\ufffd.nii.gz")]


def test_wrong_paths_are_refused(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "missing") == "missing-file"
    (tmp_path / "empty").mkdir()
    assert reason_of(tmp_path / "empty") == "no-images"
    folder = series(tmp_path / "series")
    assert reason_of(folder / "IM0") == "not-an-image"


def test_both_kinds_are_read(tmp_path: Path) -> None:
    assert read_scan(nifti(tmp_path / "a.nii.gz")).affine == pytest.approx(AFFINE)
    assert read_scan(series(tmp_path / "series")).modality == "CT"
