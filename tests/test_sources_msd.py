"""The MSD layout: which pairs are cases, which files are orphans, which descriptions are refused."""

import os
from pathlib import Path

import pytest
from tiny_msd import describe, entry, write_msd

from pipeline.records.errors import InputError
from pipeline.sources.layouts import read_dataset
from pipeline.sources.msd import read_msd


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def refusal(root: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        read_msd(root)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_sound_dataset(tmp_path: Path) -> None:
    dataset = read_msd(write_msd(tmp_path, ["b_2", "a_1"]))
    assert [case.case_id for case in dataset.cases] == ["a_1", "b_2"]
    assert dataset.cases[0].image == tmp_path / "imagesTr" / "a_1.nii.gz"
    assert dataset.cases[0].label == tmp_path / "labelsTr" / "a_1.nii.gz"
    assert (dataset.modality, dataset.licence, dataset.orphans) == ("MR", "CC0-1.0", ())
    assert dataset.labels == {"organ": 1, "lesion": 2}


@pytest.mark.parametrize(("declared", "code"), [
    ("MRI", "MR"), ("mr", "MR"), ("MR-T2", "MR"), ("CT", "CT"), ("ct", "CT"), ("DX", "DX"), ("PET", "PT"), ("pt", "PT"),
    ("T1", "MR"), ("T1w", "MR"), ("T1gd", "MR"), ("T2", "MR"), ("T2-weighted MRI", "MR"), ("FLAIR", "MR"),
    ("ADC", "MR"), ("DWI", "MR"), ("X-ray", "DX"), ("chest x ray", "DX"), ("Xray", "DX"), ("Ultrasound", "US"),
    ("SPECT", "NM"), ("mammography", "MG"),
])
def test_modality_becomes_the_dicom_code(tmp_path: Path, declared: str, code: str) -> None:
    describe(tmp_path, modality={"0": declared})
    assert read_msd(tmp_path).modality == code


@pytest.mark.parametrize("declared", ["CTA", "PET/CT", "unknown", "T10", "microCT", "fluorescence"])
def test_a_modality_that_tells_no_code_or_several_stays_as_it_is(tmp_path: Path, declared: str) -> None:
    describe(tmp_path, modality={"0": declared})
    assert read_msd(tmp_path).modality == declared


def test_labels_are_ordered_by_value_without_background(tmp_path: Path) -> None:
    describe(tmp_path, labels={"10": "ten", "2": "two", "0": "nothing"})
    assert list(read_msd(tmp_path).labels.items()) == [("two", 2), ("ten", 10)]


@pytest.mark.parametrize(("key", "licence"), [("licence", "A"), ("license", "A"), (None, "not stated")])
def test_licence_in_either_spelling(tmp_path: Path, key: str | None, licence: str) -> None:
    describe(tmp_path, **{"licence": None, **({key: "A"} if key else {})})
    assert read_msd(tmp_path).licence == licence


def test_uncompressed_nifti_is_named_without_its_suffix(tmp_path: Path) -> None:
    describe(tmp_path, training=[{"image": "imagesTr/x.1.nii", "label": "labelsTr/x.1.nii"}])
    touch(tmp_path / "imagesTr/x.1.nii")
    touch(tmp_path / "labelsTr/x.1.nii")
    assert [case.case_id for case in read_msd(tmp_path).cases] == ["x.1"]


def test_hidden_files_are_neither_cases_nor_orphans(tmp_path: Path) -> None:
    write_msd(tmp_path, ["a"])
    touch(tmp_path / "imagesTr" / "._a.nii.gz")
    touch(tmp_path / "labelsTr" / "._b.nii.gz")
    describe(tmp_path, training=[entry("a"), entry("._a")])
    dataset = read_msd(tmp_path)
    assert [case.case_id for case in dataset.cases] == ["a"]
    assert dataset.orphans == ()


def test_image_without_its_label_gives_both_as_orphans(tmp_path: Path) -> None:
    write_msd(tmp_path, ["a", "b"])
    (tmp_path / "labelsTr" / "b.nii.gz").unlink()
    dataset = read_msd(tmp_path)
    assert [case.case_id for case in dataset.cases] == ["a"]
    assert dataset.orphans == (tmp_path / "imagesTr" / "b.nii.gz", tmp_path / "labelsTr" / "b.nii.gz")


def test_files_that_are_not_listed_are_orphans_and_test_images_are_not(tmp_path: Path) -> None:
    write_msd(tmp_path, ["a"])
    image, label = touch(tmp_path / "imagesTr" / "new.nii.gz"), touch(tmp_path / "labelsTr" / "old.nii")
    touch(tmp_path / "imagesTs" / "unlabelled.nii.gz")
    touch(tmp_path / "imagesTr" / "notes.txt")
    assert read_msd(tmp_path).orphans == (image, label)


def test_no_description(tmp_path: Path) -> None:
    error = refusal(tmp_path)
    assert error.reason == "missing-description"
    assert error.where == str(tmp_path / "dataset.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe{}", b"[" * 100_000])
def test_a_description_that_is_no_json_object(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dataset.json").write_bytes(content)
    assert refusal(tmp_path).reason == "invalid-description"


@pytest.mark.parametrize(("changes", "found"), [
    ({"training": None}, "no list `training`"),
    ({"training": {"a": 1}}, "no list `training`"),
    ({"training": ["a.nii.gz"]}, 'entry 0 of `training` is "a.nii.gz"'),
    ({"training": [{"image": "imagesTr/a.nii.gz"}]}, 'entry 0 of `training` is {"image": "imagesTr/a.nii.gz"}'),
    ({"training": [{"image": 1, "label": 2}]}, 'entry 0 of `training` is {"image": 1, "label": 2}'),
    ({"labels": None}, "no object `labels`"),
    ({"labels": ["background", "organ"]}, "no object `labels`"),
    ({"labels": {"background": 0, "organ": 1}}, 'the label {"background": 0}'),
    ({"labels": {"0": "background", "-1": "organ"}}, 'the label {"-1": "organ"}'),
    ({"labels": {"0": "background", "1": " "}}, 'the label {"1": " "}'),
    ({"labels": {"0": "background"}}, "the labels []"),
    ({"labels": {"1": "organ", "2": "organ"}}, "the labels ['organ', 'organ']"),
    ({"modality": None}, "no object `modality`"),
    ({"modality": "CT"}, "no object `modality`"),
    ({"modality": {"0": 1}}, "no object `modality`"),
])
def test_a_description_that_lacks_or_garbles_a_part(tmp_path: Path, changes: dict[str, object], found: str) -> None:
    describe(tmp_path, **changes)
    error = refusal(tmp_path)
    assert (error.reason, error.found) == ("invalid-description", found)


def test_several_channels_are_refused(tmp_path: Path) -> None:
    describe(tmp_path, modality={"0": "T1", "1": "T2"})
    error = refusal(tmp_path)
    assert (error.reason, error.found) == ("not-single-channel", "2 channels (T1, T2)")


@pytest.mark.parametrize("path", ["../secret.nii.gz", "imagesTr/../../secret.nii.gz", "/etc/passwd", "", "."])
@pytest.mark.parametrize("key", ["image", "label"])
def test_a_listed_path_that_leaves_the_dataset(tmp_path: Path, path: str, key: str) -> None:
    touch(tmp_path / "secret.nii.gz")
    describe(tmp_path / "set", training=[{**entry("a"), key: path}])
    error = refusal(tmp_path / "set")
    assert error.reason == "outside-dataset"
    assert repr(path) in error.found


def test_two_cases_of_one_name(tmp_path: Path) -> None:
    write_msd(tmp_path, ["a"])
    describe(tmp_path, training=[entry("a"), entry("a")])
    error = refusal(tmp_path)
    assert (error.reason, error.found) == ("duplicate-case", "two cases named `a`")


def test_unknown_layout_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="layout `bids`: an unknown layout; expected one of folders, msd;") as caught:
        read_dataset("bids", tmp_path)
    assert caught.value.reason == "unknown-layout"


@pytest.mark.parametrize(("name", "found"), [("nothing", "no such folder"), ("file", "a file")])
def test_a_root_that_is_no_folder(tmp_path: Path, name: str, found: str) -> None:
    touch(tmp_path / "file")
    with pytest.raises(InputError) as caught:
        read_dataset("msd", tmp_path / name)
    assert (caught.value.reason, caught.value.found) == ("missing-folder", found)


def shared_data() -> Path:
    folder = os.environ.get("SEGLINE_TEST_DATA")
    if not folder:
        pytest.skip("SEGLINE_TEST_DATA is not set: no real data to read")
    return Path(folder)


def test_real_hippocampus() -> None:
    dataset = read_dataset("msd", shared_data() / "hippocampus")
    assert len(dataset.cases) == 200
    assert dataset.orphans == ()
    assert dataset.labels == {"Anterior": 1, "Posterior": 2}
    assert (dataset.modality, dataset.licence) == ("MR", "CC-BY-SA 4.0")


def test_real_files_without_partners(tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).symlink_to(shared_data() / "hippocampus_unpaired" / folder)
    describe(tmp_path, training=[entry("hippocampus_118")])
    dataset = read_dataset("msd", tmp_path)
    assert dataset.cases == ()
    assert [str(path.relative_to(tmp_path)) for path in dataset.orphans] == [
        "imagesTr/hippocampus_118.nii.gz", "labelsTr/hippocampus_010.nii.gz",
        "labelsTr/hippocampus_118.nii.gz", "labelsTr/hippocampus_281.nii.gz"]
