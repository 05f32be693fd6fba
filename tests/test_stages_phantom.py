"""The phantom stage writes what it says, under data/raw, whole or not at all."""

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from pipeline.records.errors import InputError
from pipeline.records.settings import SplitSettings
from pipeline.records.splits import split_by_patient
from pipeline.sources.phantom_2d import make_phantom_2d
from pipeline.sources.phantom_3d import make_phantom_3d
from pipeline.stages import phantom


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(phantom, "make_phantom_3d", partial(make_phantom_3d, patients=2, largest_shape=(32, 28, 14)))
    monkeypatch.setattr(phantom, "make_phantom_2d", partial(make_phantom_2d, patients=2, largest_side=48))
    monkeypatch.setattr(phantom, "DICOM_CASE", "p001_a")
    return tmp_path / "data" / "raw"


def test_unknown_phantom_is_refused_with_the_known_names(tiny: Path) -> None:
    with pytest.raises(InputError, match="phantom_2d or phantom_3d") as caught:
        phantom.run("phantom_4d")
    assert caught.value.reason == "unknown-phantom"
    assert not tiny.exists()


def test_volumes_come_with_one_of_them_as_dicom(tiny: Path) -> None:
    phantom.run("phantom_3d")
    folder = tiny / "phantom_3d"
    assert {path.name for path in folder.iterdir()} == {"dataset.json", "imagesTr", "labelsTr", "dicom"}
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder / "dicom" / "p001_a")))
    series = SimpleITK.GetArrayFromImage(reader.Execute())
    image = nib.load(folder / "imagesTr" / "p001_a.nii.gz")
    assert np.array_equal(np.sort(series.ravel()), np.sort(np.asarray(image.dataobj).ravel()))


def test_images_replace_an_older_folder(tiny: Path) -> None:
    (tiny / "phantom_2d").mkdir(parents=True)
    (tiny / "phantom_2d" / "left_over.txt").write_text("old")
    phantom.run("phantom_2d")
    assert {path.name for path in (tiny / "phantom_2d").iterdir()} == {"dataset.json", "imagesTr", "labelsTr"}


def test_a_failure_leaves_the_older_folder_as_it_was(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom.run("phantom_2d")
    before = sorted(path.name for path in (tiny / "phantom_2d" / "imagesTr").iterdir())
    monkeypatch.setattr(phantom, "make_phantom_2d", lambda _seed: iter([None]))
    with pytest.raises(AttributeError):
        phantom.run("phantom_2d")
    assert sorted(path.name for path in (tiny / "phantom_2d" / "imagesTr").iterdir()) == before
    assert [path.name for path in tiny.iterdir()] == ["phantom_2d"]


def test_the_dicom_case_is_an_oblique_scan_with_lesions_in_the_default_test_split() -> None:
    scans = list(make_phantom_3d(phantom.SEED, largest_shape=(16, 14, 8)))
    chosen = next(scan for scan in scans if scan.case_id == phantom.DICOM_CASE)
    splits = split_by_patient({scan.patient for scan in scans}, SplitSettings(), where=Path("data.yaml"))
    assert splits[chosen.patient] == "test"
    assert nib.affines.obliquity(chosen.affine).max() > np.deg2rad(5)
    assert len(chosen.lesion_diameters_mm) >= 2
