from pathlib import Path

import nibabel as nib
import numpy as np
import pandas
import pytest
from tiny_bundle import write_bundle
from tiny_msd import write_scan

from pipeline.registered_bundle import RegisteredBundle, _load_pyfunc
from pipeline.tracking.models import _signature

SHAPE = (8, 6, 5)
AFFINE = np.diag([1.0, 2.0, 5.0, 1.0])  # 0.01 mL a voxel


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RegisteredBundle:
    """One whose segmentation is the scan itself, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return _load_pyfunc(str(write_bundle(tmp_path / "bundle", labels={"organ": 1, "lesion": 2})))


def scan(path: str, *, organ: int, lesion: int = 0) -> str:
    """Writes a scan with so many voxels of each."""
    array = np.zeros(SHAPE, dtype=np.float32)
    array.ravel()[:organ] = 1
    array.ravel()[organ : organ + lesion] = 2
    write_scan(Path(path), array, AFFINE)
    return path


def test_each_scan_has_a_segmentation_and_the_volume_of_each_label(model: RegisteredBundle, tmp_path: Path) -> None:
    table = pandas.DataFrame({"scan": [scan("in/a.nii.gz", organ=7), scan("in/b.nii.gz", organ=2, lesion=30)],
                              "output_dir": [str(tmp_path / "one"), str(tmp_path / "other")]})
    found = model.predict(table)
    assert list(found["status"]) == ["ok", "ok"]
    assert list(found["segmentation"]) == [str(tmp_path / "one/a/segmentation.nii.gz"),
                                           str(tmp_path / "other/b/segmentation.nii.gz")]
    assert found["volumes_ml"][0] == pytest.approx({"organ": 0.07, "lesion": 0.0})
    assert found["volumes_ml"][1] == pytest.approx({"organ": 0.02, "lesion": 0.3})
    np.testing.assert_array_equal(nib.load(found["segmentation"][1]).dataobj, nib.load("in/b.nii.gz").dataobj)


def test_a_scan_that_fails_is_a_row_with_the_reason_and_stops_no_other(model: RegisteredBundle) -> None:
    Path("torn.nii.gz").write_bytes(Path(scan("a.nii.gz", organ=1)).read_bytes()[:60])
    found = model.predict(pandas.DataFrame({"scan": ["nowhere.nii.gz", "torn.nii.gz", "a.nii.gz"]}))
    assert list(found["scan"]) == ["nowhere.nii.gz", "torn.nii.gz", "a.nii.gz"]
    assert list(found["status"]) == ["failed", "failed", "ok"]
    assert list(found["reason"])[:2] == ["missing-file", "truncated-file"]
    assert found["message"].notna().tolist() == [True, True, False]
    assert found["segmentation"].tolist() == [None, None, "segmented/a/segmentation.nii.gz"]
    assert found["volumes_ml"][0] == {}


def test_scans_of_one_name_and_folders_of_scans_keep_their_own_results_and_rows(model: RegisteredBundle) -> None:
    scan("x/a.nii.gz", organ=1)
    scan("y/a.nii.gz", organ=2)
    scan("y/b.nii.gz", organ=3)
    found = model.predict(pandas.DataFrame({"scan": ["y", "x/a.nii.gz"], "output_dir": ["out", None]}))
    assert list(zip(found["scan"], found["input"], strict=True)) == [
        ("y", "a.nii.gz"), ("y", "b.nii.gz"), ("x/a.nii.gz", "a.nii.gz")]
    found = model.predict(pandas.DataFrame({"scan": ["x/a.nii.gz", "y/a.nii.gz"], "output_dir": ["both", "both"]}))
    assert list(found["segmentation"]) == ["both/a/segmentation.nii.gz", "both/a-2/segmentation.nii.gz"]
    assert [volumes["organ"] for volumes in found["volumes_ml"]] == pytest.approx([0.01, 0.02])


def test_the_answer_is_what_the_registry_says_of_it(model: RegisteredBundle) -> None:
    answer = model.predict(pandas.DataFrame({"scan": [scan("a.nii.gz", organ=1)]}))
    assert list(answer.columns) == _signature().outputs.input_names()
