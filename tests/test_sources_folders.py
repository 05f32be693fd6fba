"""Folders of pictures and masks: pairs, orphans, what data.yaml may say; and masks that come one file an object."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_fetch import RAW, assert_nothing_left, call, enter_repository, files_below, refusal
from tiny_pictures import blob_labels, blob_picture, write_pictures
from tiny_scans import REAL, needs_real

from pipeline.records.errors import InputError
from pipeline.records.settings import FolderSettings, read_data_settings
from pipeline.sources.checks import check_case
from pipeline.sources.folders import read_folders
from pipeline.sources.layouts import guess_layout, read_dataset
from pipeline.sources.masks_apart import merge_masks

USUAL = FolderSettings(label_values="instances", label_names={"blob": 1})


def test_files_of_one_name_are_a_case_and_all_others_are_named(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["b", "a", "image_only", "label_only", "twice", "other"])
    (tmp_path / "labels/image_only.png").unlink()
    (tmp_path / "images/label_only.png").unlink()
    (tmp_path / "images/twice.png").rename(tmp_path / "images/twice.tif")
    Image.fromarray(blob_picture()).save(tmp_path / "images/twice.png")
    (tmp_path / "images/other.png").rename(tmp_path / "images/other.jpg")
    (tmp_path / "images/.hidden.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("beside the folders")
    dataset = read_folders(tmp_path, USUAL)
    assert [(case.case_id, case.image.name, case.label and case.label.name) for case in dataset.cases] == [
        ("a", "a.png", "a.png"), ("b", "b.png", "b.png")]
    assert [path.relative_to(tmp_path).as_posix() for path in dataset.orphans] == [
        "images/image_only.png", "images/other.jpg", "images/twice.png", "images/twice.tif", "labels/label_only.png",
        "labels/other.png", "labels/twice.png"]
    assert (dataset.are_pictures, dataset.are_instances, dataset.labels) == (True, True, {"blob": 1})


@pytest.mark.parametrize("changes", [
    {"label_values": "both"}, {"label_names": {}}, {"label_names": {"a": 0}}, {"label_names": ["a"]},
    {"label_names": {"a": 1, "b": 1}}, {"label_names": {"a": 1, "b": 2}}, {"spacing_mm": 0.5},
    {"spacing_mm": (0.5, 0)}, {"modality": 5}, {"images": "../images"}, {"labels": "/labels"}, {"images": "masks"},
])
def test_what_data_yaml_cannot_mean_is_one_line(changes: dict[str, Any], tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a"])
    with pytest.raises(InputError) as caught:
        read_folders(tmp_path, replace(USUAL, **changes))
    assert caught.value.reason in ("invalid-value", "outside-dataset", "missing-folder")


@needs_real
def test_real_nuclei() -> None:
    root = Path(REAL or "") / "nuclei"
    dataset = read_folders(root, FolderSettings(label_values="instances", label_names={"nucleus": 1}))
    assert (len(dataset.cases), dataset.orphans) == (110, ())
    case = dataset.cases[0]
    checked = check_case(case, root, labels=dataset.labels, are_instances=True)
    assert (checked.findings, checked.channels, checked.has_spacing) == ((), 3, False)
    # Counted by Pillow and numpy alone.
    count = int((np.asarray(Image.open(root / "labels/00071198d059.png")) > 0).sum())
    assert (case.case_id, checked.facts and checked.facts.label_voxels) == ("00071198d059", {"nucleus": count})


def test_several_classes(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a"])
    labels = {"left": 1, "right": 2}
    assert read_folders(tmp_path, FolderSettings(label_names=labels)).labels == labels


def test_settings_are_read_strictly_and_refused_by_another_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "configs/e/data.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("dataset: d\nlayout: folders\nfolders: {label_values: instances, spacing_mm: [0.5, 0.25]}\n")
    folders = read_data_settings("e").folders
    assert folders is not None
    assert (folders.label_values, folders.spacing_mm) == ("instances", [0.5, 0.25])
    with pytest.raises(InputError, match="`folders` for another layout"):
        read_dataset("msd", tmp_path, folders)
    path.write_text("dataset: d\nfolders: {label_value: instances}\n")
    with pytest.raises(InputError, match="did you mean `label_values`"):
        read_data_settings("e")


def test_fetch_recognises_the_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    enter_repository(tmp_path, monkeypatch)
    source = write_pictures(tmp_path / "source", ["a", "b"])
    assert guess_layout(source) == "folders"
    call("tiny", "--from", str(source))
    assert files_below(RAW / "tiny") == ["images/a.png", "images/b.png", "labels/a.png", "labels/b.png"]
    assert "2 cases, PNG or TIFF with masks" in capsys.readouterr().out


def test_nuclei_are_not_downloaded_but_it_is_said_where_they_are(tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    enter_repository(tmp_path, monkeypatch)
    assert "https://bbbc.broadinstitute.org/BBBC038" in str(refusal("nuclei"))
    assert_nothing_left()


@pytest.mark.parametrize("is_zipped", [False, True])
def test_masks_one_file_an_object_become_instances(is_zipped: bool, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    enter_repository(tmp_path, monkeypatch)
    source = tmp_path / "source"
    for number, name in enumerate(("a", "bad", "c")):
        for folder in ("images", "masks"):
            (source / name / folder).mkdir(parents=True)
        Image.fromarray(blob_picture(number)).save(source / name / f"images/{name}.png")
        for value in (100, 101, 102):
            mask = (blob_labels(number) == value).astype(np.uint8) * 255
            Image.fromarray(mask).save(source / name / f"masks/{value}.png")
    (source / "bad/masks/101.png").write_bytes(b"no picture")
    if is_zipped:
        source = Path(shutil.make_archive(str(tmp_path / "stage1_train"), "zip", source))
    call("tiny", "--from", str(source))
    assert files_below(RAW / "tiny") == ["images/a.png", "images/bad.png", "images/c.png", "labels/a.png",
                                         "labels/c.png"]
    expected = np.where(blob_labels(2) > 0, blob_labels(2) - 99, 0)
    np.testing.assert_array_equal(np.asarray(Image.open(RAW / "tiny/labels/c.png")), expected)


def test_images_without_masks_and_several_of_one_case_are_left_to_the_audit(tmp_path: Path) -> None:
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for name in ("a/images/a", "a/masks/1", "b/images/b", "c/images/one", "c/images/two", "c/masks/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    merge_masks(tmp_path)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert files == ["images/a.png", "images/b.png", "images/c_one.png", "images/c_two.png", "labels/a.png",
                     "labels/c.png"]
