"""From a path to the scans below it."""

import os
import zipfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from pydicom.config import disable_value_validation
from pydicom.fileset import FileSet
from pydicom.uid import generate_uid
from tiny_dicom import slice_dataset, write_slices
from tiny_msd import AFFINE, SHAPE, write_scan

from pipeline.imaging.discovery import Found, SeriesRule, find_scans, read_scan
from pipeline.imaging.pseudonyms import pseudonym
from pipeline.imaging.unpacked import archive_of, remove_unpacked
from pipeline.records.errors import InputError


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGLINE_PSEUDONYM_KEY", "test")


def nifti(path: Path) -> Path:
    return write_scan(path, np.zeros(SHAPE, dtype=np.int16))


def series(folder: Path, uid: str = "1.2.3.4", *, slices: int = 3, first: int = 0, **elements: Any) -> Path:
    """Writes slices of a series into a folder, with elements set in each, under names that no other series has."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + slices):
        content = slice_dataset(number, series_uid=uid)
        for name, value in elements.items():
            setattr(content, name, value)
        content.save_as(folder / f"{uid}-{number}", enforce_file_format=True)
    return folder


def found(path: Path, **options: Any) -> list[tuple[str, str]]:
    return [(scan.name, scan.relative) for scan in find_scans(path, **options).scans]


def places(result: Found) -> list[str]:
    return [scan.relative for scan in result.scans]


def refusals(result: Found) -> list[tuple[str, str]]:
    return [(one.relative, one.error.reason) for one in result.refused]


def refusal(path: Path, **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        find_scans(path, **options)
    assert "\n" not in str(caught.value)
    # What stands in summary.json tells no name and no description.
    assert "Smith" not in caught.value.found + caught.value.wanted + caught.value.remedy
    return caught.value


def reason_of(path: Path, **options: Any) -> str:
    return refusal(path, **options).reason


def zipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, file.relative_to(folder))
    return path


def test_one_file_is_named_by_its_stem(tmp_path: Path) -> None:
    assert found(nifti(tmp_path / "A.b.nii.gz")) == [("A.b", "A.b.nii.gz")]
    assert found(nifti(tmp_path / "c.NII")) == [("c", "c.NII")]


def test_series_is_named_by_a_keyed_hash(tmp_path: Path) -> None:
    folder = series(tmp_path / "Smith John", "1.2.3.4")
    (scan,) = find_scans(folder).scans
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
    for name in ("1/ct.nii.gz", "2/ct.nii", "3/CT.nii.gz", "4/ct-2.nii.gz", "5/ct.mha", "summary.json.nii.gz"):
        nifti(tmp_path / "in" / name) if name.endswith(("nii", "gz")) else volume(tmp_path / "in" / name)
    # Capitals count as equal: some file systems cannot hold both.
    assert [name for name, _ in found(tmp_path / "in")] == ["ct", "ct-2", "CT-3", "ct-2-2", "ct-4", "summary.json-2"]


def test_names_that_would_leave_the_output_folder_are_replaced(tmp_path: Path) -> None:
    # The stem of `...nii` is two points, which is the folder above.
    assert found(nifti(tmp_path / "...nii")) == [("scan", "...nii")]
    (scan,) = find_scans(nifti(tmp_path / f"{'a' * 240}.nii")).scans
    assert scan.name == "a" * 200


def test_hidden_files_and_earlier_results_are_passed_over(tmp_path: Path) -> None:
    nifti(tmp_path / "in/a.nii.gz")
    nifti(tmp_path / "in/._a.nii.gz")
    nifti(tmp_path / "in/.hidden/b.nii.gz")
    nifti(tmp_path / "in/out/a/segmentation.nii.gz")
    assert found(tmp_path / "in", leave_out=tmp_path / "in/out") == [("a", "a.nii.gz")]


@pytest.mark.parametrize("name", ["in", "link", "in/../in"])
def test_the_folder_for_the_results_is_not_searched_for_scans(tmp_path: Path, name: str) -> None:
    nifti(tmp_path / "in/a.nii.gz")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    error = refusal(tmp_path / "in", leave_out=tmp_path / name)
    assert (error.reason, error.found, error.wanted) == ("same-folder", "the folder for the results", "another folder")
    assert error.remedy == "choose another --output_dir"
    assert found(tmp_path / "in", leave_out=tmp_path) == [("a", "a.nii.gz")]
    assert found(tmp_path / "in", leave_out=tmp_path / "in/a.nii.gz/below a file") == [("a", "a.nii.gz")]


def volume(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros(SHAPE[::-1], np.int16)), str(path))
    return path


def test_all_kinds_of_files_are_scans(tmp_path: Path) -> None:
    for name in ("a.nrrd", "b.nhdr", "c.mha", "d.mhd"):
        volume(tmp_path / "in" / name)
    assert found(tmp_path / "in") == [("a", "a.nrrd"), ("b", "b.nhdr"), ("c", "c.mha"), ("d", "d.mhd")]
    for name in ("a.nrrd", "b.nhdr", "c.mha", "d.mhd"):
        assert read_scan(tmp_path / "in" / name).array.shape == SHAPE


def test_a_file_given_alone_is_known_by_its_content(tmp_path: Path) -> None:
    for kind, path in (("nii", nifti(tmp_path / "a.nii")), ("gz", nifti(tmp_path / "a.nii.gz")),
                       ("nrrd", volume(tmp_path / "a.nrrd")), ("mha", volume(tmp_path / "a.mha"))):
        plain = path.rename(tmp_path / f"scan_{kind}")
        assert found(plain) == [(f"scan_{kind}", f"scan_{kind}")]
        assert read_scan(plain).array.shape == SHAPE, kind


# Links.


def test_links_are_followed_and_circles_end(tmp_path: Path) -> None:
    nifti(tmp_path / "elsewhere/a.nii.gz")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/circle").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/self").symlink_to(tmp_path / "in/self")
    assert found(tmp_path / "in") == [("a", "link/a.nii.gz")]


def test_a_folder_is_entered_once_and_named_by_its_own_path(tmp_path: Path) -> None:
    nifti(tmp_path / "in/z/a.nii.gz")
    (tmp_path / "in/a").symlink_to(tmp_path / "in/z")
    assert found(tmp_path / "in") == [("a", "z/a.nii.gz")]


def test_links_that_double_at_each_step_end_soon(tmp_path: Path) -> None:
    # Two links in each of 40 folders to the next one: 10^12 paths.
    for step in range(40):
        (tmp_path / f"in/{step}").mkdir(parents=True)
        if step:
            for name in ("one", "two"):
                (tmp_path / f"in/{step - 1}/{name}").symlink_to(tmp_path / f"in/{step}")
    nifti(tmp_path / "in/39/a.nii")
    start = perf_counter()
    assert found(tmp_path / "in/0") == [("a", "/".join(["one"] * 39) + "/a.nii")]
    assert perf_counter() - start < 2


def test_linked_files_are_scans_of_their_own(tmp_path: Path) -> None:
    # As a store that keeps files by their content has them: two cases may be one file.
    stored = nifti(tmp_path / "store/5eb63b.nii")
    (tmp_path / "in").mkdir()
    for name in ("case1.nii", "case2.nii"):
        (tmp_path / "in" / name).symlink_to(stored)
    assert [name for name, _ in found(tmp_path / "in")] == ["case1", "case2"]


def test_links_to_nothing_pipes_and_devices_are_no_scans(tmp_path: Path) -> None:
    nifti(tmp_path / "in/a.nii")
    (tmp_path / "in/gone.nii").symlink_to(tmp_path / "gone.nii")
    (tmp_path / "in/gone.txt").symlink_to(tmp_path / "gone.txt")
    (tmp_path / "in/device.dcm").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "in/pipe.dcm")
    os.mkfifo(tmp_path / "in/pipe.nii")
    result = find_scans(tmp_path / "in")
    assert places(result) == ["a.nii"]
    assert refusals(result) == [("gone.nii", "missing-file")]
    assert reason_of(tmp_path / "in/pipe.nii") == "not-an-image"
    assert reason_of(Path("/dev/zero")) == "not-an-image"


# DICOM series, studies and what to choose.


def test_series_in_folders_of_their_own_are_all_scans(tmp_path: Path) -> None:
    series(tmp_path / "in/one", "1.1", SeriesNumber="1")
    series(tmp_path / "in/two", "1.2", SeriesNumber="2")
    assert found(tmp_path / "in") == [(pseudonym("1.1"), "one"), (pseudonym("1.2"), "two")]


def test_series_over_several_folders_is_one(tmp_path: Path) -> None:
    series(tmp_path / "in/study/first", slices=2)
    series(tmp_path / "in/study/second", slices=2, first=2)
    (scan,) = find_scans(tmp_path / "in").scans
    assert (scan.relative, scan.path) == ("study", tmp_path / "in/study")
    assert read_scan(scan).array.shape[2] == 4


def test_copies_of_an_image_count_once(tmp_path: Path) -> None:
    series(tmp_path / "in/a")
    series(tmp_path / "in/copy of a")
    (scan,) = (result := find_scans(tmp_path / "in")).scans
    assert (scan.relative, len(scan.series.slices if scan.series else ())) == ("a", 3)
    assert result.set_aside == {"repeated image": 3}


def two_series(folder: Path, study: str = "1.2.3") -> Path:
    series(folder, f"{study}.1", SeriesNumber="1", SeriesDescription="Smith thin", StudyInstanceUID=study)
    series(folder, f"{study}.2", SeriesNumber="2", SeriesDescription="Smith thick", StudyInstanceUID=study, slices=2,
           Modality="MR")
    return folder


def test_several_series_in_one_folder_are_listed(tmp_path: Path) -> None:
    error = refusal(two_series(tmp_path / "in"))
    assert error.reason == "several-series"
    assert "number 1 (CT, 3 slices), number 2 (MR, 2 slices)" in error.found
    assert "--series" in error.remedy
    assert "1: Smith thin; 2: Smith thick" in error.where


def test_other_studies_go_on_beside_several_series(tmp_path: Path) -> None:
    two_series(tmp_path / "in/both")
    series(tmp_path / "in/other", "5.1", StudyInstanceUID="5")
    # In the same folder, but of another patient: nothing to choose.
    series(tmp_path / "in/both", "6.1", StudyInstanceUID="6", SeriesNumber="4")
    result = find_scans(tmp_path / "in")
    assert places(result) == ["both#4", "other"]
    assert refusals(result) == [("both", "several-series")]


@pytest.mark.parametrize(("wanted", "numbers"), [
    ("1.2.3.2", ["2"]), ("2", ["2"]), ("THIN", ["1"]), ("all", ["1", "2"]), ("ALL", ["1", "2"]),
])
def test_series_are_chosen_by_uid_number_or_description(tmp_path: Path, wanted: str, numbers: list[str]) -> None:
    result = find_scans(two_series(tmp_path / "in"), series=wanted)
    assert [scan.series.number for scan in result.scans if scan.series] == numbers
    assert places(result) == [f"in#{number}" for number in numbers]
    assert result.set_aside == ({"series not asked for": 1} if len(numbers) == 1 else {})


def test_a_number_is_not_looked_for_in_descriptions_of_others(tmp_path: Path) -> None:
    series(tmp_path / "in", "1.1", SeriesNumber="1", SeriesDescription="T2 3 mm")
    series(tmp_path / "in", "1.2", SeriesNumber="3", SeriesDescription="T1")
    assert places(find_scans(tmp_path / "in", series="3")) == ["in#3"]
    assert places(find_scans(tmp_path / "in", series="3 mm")) == ["in#1"]


@pytest.mark.parametrize(("wanted", "kinds"), [
    ("7", "UID or number"), (" 7 ", "UID or number"), ("-7", "UID or number"), ("0.7", "UID"), ("1.2.3", "UID"),
])
def test_numbers_and_uids_that_no_series_has_are_in_no_description(tmp_path: Path, wanted: str, kinds: str) -> None:
    series(tmp_path / "in", "1.1", SeriesNumber="1", SeriesDescription="CT-7 thin 0.7 mm 1.2.3")
    series(tmp_path / "in", "1.2", SeriesNumber="2", SeriesDescription="CT thick")
    error = refusal(tmp_path / "in", series=wanted)
    assert (error.reason, error.wanted) == ("no-such-series", f"a series with this {kinds}")
    assert places(find_scans(tmp_path / "in", series="0.7 mm")) == ["in#1"]


def test_text_that_fits_several_is_listed_again(tmp_path: Path) -> None:
    assert reason_of(two_series(tmp_path / "in"), series="thi") == "several-series"


def test_no_series_as_wanted_lists_what_there_is(tmp_path: Path) -> None:
    error = refusal(two_series(tmp_path / "in"), series="Smith portal")
    assert error.reason == "no-such-series"
    assert "number 1 (CT, 3 slices), number 2 (MR, 2 slices)" in error.found
    assert reason_of(nifti(tmp_path / "a.nii"), series="3") == "no-such-series"


def test_a_study_without_the_wanted_number_is_refused_and_others_go_on(tmp_path: Path) -> None:
    two_series(tmp_path / "in/a", "1.2.3")
    series(tmp_path / "in/b", "7.1", StudyInstanceUID="7", SeriesNumber="1")
    result = find_scans(tmp_path / "in", series="2")
    assert (places(result), refusals(result)) == (["a#2"], [("b", "no-such-series")])
    # A UID can be of one study only: the others were not meant.
    assert find_scans(tmp_path / "in", series="1.2.3.2").refused == ()


def test_series_of_equal_number_are_told_apart(tmp_path: Path) -> None:
    for study in ("5", "6"):
        series(tmp_path / "in", f"{study}.1", StudyInstanceUID=study, SeriesNumber="3")
    assert places(find_scans(tmp_path / "in")) == ["in#3", "in#3-2"]


def test_a_number_that_is_text_is_not_shown(tmp_path: Path) -> None:
    series(tmp_path / "in", "1.1", SeriesNumber="1")
    path = series(tmp_path / "in", "1.2", SeriesNumber="2222", slices=1) / "1.2-0"
    path.write_bytes(path.read_bytes().replace(b"2222", b"Smit"))
    assert "number ? (CT, 1 slices)" in refusal(tmp_path / "in").found


@pytest.mark.parametrize(("rule", "chosen", "left"), [
    (SeriesRule(modality="CT"), "in#1", "MR series (not CT)"),
    (SeriesRule(modality="MR"), "in#2", "CT series (not MR)"),
    (SeriesRule(fewest_slices=3), "in#1", "series of fewer than 3 slices"),
])
def test_a_rule_chooses_among_several(tmp_path: Path, rule: SeriesRule, chosen: str, left: str) -> None:
    result = find_scans(two_series(tmp_path / "in"), rule=rule)
    assert (places(result), result.set_aside) == ([chosen], {left: 1})


@pytest.mark.parametrize("modality", ["PET", "PET/CT", "microscopy", "ct", ""])
def test_a_modality_that_is_no_dicom_code_restricts_nothing(tmp_path: Path, modality: str) -> None:
    rule = SeriesRule(modality=modality, fewest_slices=3)
    assert places(find_scans(two_series(tmp_path / "in"), rule=rule, strict=True)) == ["in#1"]
    error = refusal(series(tmp_path / "short", slices=2), rule=rule, strict=True)
    assert error.wanted == "a series of 3 slices or more"


def test_a_rule_chooses_by_orientation(tmp_path: Path) -> None:
    for number, cosines in enumerate(([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0.1, -0.995])):
        series(tmp_path / "in", f"1.{number}", SeriesNumber=str(number), ImageOrientationPatient=cosines)
    for orientation, number in (("axial", 0), ("coronal", 1), ("sagittal", 2)):
        result = find_scans(tmp_path / "in", rule=SeriesRule(orientation=orientation))
        assert places(result) == [f"in#{number}"]
        assert sum(result.set_aside.values()) == 2


def test_a_rule_that_nothing_fits_chooses_nothing(tmp_path: Path) -> None:
    folder = two_series(tmp_path / "in")
    assert reason_of(folder, rule=SeriesRule(modality="PT")) == "several-series"
    only = series(tmp_path / "only")
    assert places(find_scans(only, rule=SeriesRule(modality="PT"))) == ["only"]


def test_strict_refuses_what_no_rule_fits(tmp_path: Path) -> None:
    rule = SeriesRule(modality="PT", orientation="axial")
    error = refusal(series(tmp_path / "only"), rule=rule, strict=True)
    assert (error.reason, error.wanted) == ("not-matching", "axial PT series of 2 slices or more")
    assert reason_of(tmp_path / "only", rule=rule, strict=True, series="all") == "not-matching"
    assert reason_of(two_series(tmp_path / "in"), rule=rule, strict=True) == "not-matching"


def test_a_rule_does_not_overrule_what_was_asked_for(tmp_path: Path) -> None:
    folder = two_series(tmp_path / "in")
    assert places(find_scans(folder, series="2", rule=SeriesRule(modality="CT"))) == ["in#2"]
    assert len(find_scans(folder, series="all", rule=SeriesRule(modality="CT")).scans) == 2


# DICOM files that are damaged, alone or listed elsewhere.


def test_folder_of_a_damaged_series_is_still_a_scan(tmp_path: Path) -> None:
    folder = series(tmp_path / "in/series")
    (folder / "1.2.3.4-0").write_bytes((folder / "1.2.3.4-0").read_bytes()[:140])
    nifti(tmp_path / "in/b.nii.gz")
    result = find_scans(tmp_path / "in")
    assert places(result) == ["b.nii.gz", "series"]
    assert refusals(result) == [("series/1.2.3.4-0", "damaged-header")]
    # Two slices are left, which makes a sound volume: nothing else would tell that the third is missing.
    assert "slices at an end" in read_scan(result.scans[1]).warnings[-1]


def test_many_damaged_files_of_a_folder_are_one_refusal(tmp_path: Path) -> None:
    nifti(tmp_path / "in/a.nii")
    folder = series(tmp_path / "in/series", slices=5)
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:140])
    result = find_scans(tmp_path / "in")
    assert refusals(result) == [("series/1.2.3.4-0", "damaged-header")]
    assert "4 more" in result.refused[0].error.found


def test_another_file_under_a_dicom_name_is_told(tmp_path: Path) -> None:
    folder = series(tmp_path / "in")
    (folder / "page.dcm").write_text("<html>session expired</html>")
    (folder / "empty.DCM").touch()
    result = find_scans(folder)
    assert refusals(result) == [("empty.DCM", "truncated-file"), ("page.dcm", "not-an-image")]
    assert "slices at an end" in read_scan(result.scans[0]).warnings[-1]


def test_what_is_no_scan_is_counted(tmp_path: Path) -> None:
    folder = series(tmp_path / "in")
    series(folder, "1.2", slices=2, Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.11")
    series(folder, "1.3", slices=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert find_scans(folder).set_aside == {"report": 2, "localizer": 1}
    only = series(tmp_path / "only", "1.3", slices=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert (reason_of(only), refusal(only).found) == ("no-images", "no scan (1 localizer)")


def test_a_single_slice_is_refused_and_many_frames_are_a_scan(tmp_path: Path) -> None:
    folder = series(tmp_path / "Smith")
    assert reason_of(folder / "1.2.3.4-0") == "not-an-image"
    data = os.environ.get("SEGLINE_TEST_DATA")
    if not data:
        pytest.skip("the multi-frame file is real data: set SEGLINE_TEST_DATA")
    (path,) = (Path(data) / "dicom/multiframe/001").iterdir()
    (scan,) = find_scans(path).scans
    assert (scan.path, scan.relative, scan.series is not None) == (path, path.name, True)
    assert np.array_equal(read_scan(path).array, read_scan(path.parent).array)


def directory(folder: Path) -> Path:
    """Writes a DICOMDIR with the slices of one series, by pydicom."""
    fileset = FileSet()
    for number in range(3):
        content = slice_dataset(number)
        content.PatientID, content.PatientName, content.StudyID = "1", "Smith^John", "1"
        content.StudyDate, content.StudyTime, content.AccessionNumber = "20200101", "120000", ""
        content.StudyDescription, content.InstanceNumber = "", number + 1
        fileset.add(content)
    fileset.write(folder)
    return folder / "DICOMDIR"


def test_a_dicomdir_is_the_files_it_lists(tmp_path: Path) -> None:
    path = directory(tmp_path / "disc")
    nifti(tmp_path / "disc/other.nii")
    (scan,) = find_scans(path).scans
    assert len(scan.series.slices if scan.series else ()) == 3
    assert read_scan(path).array.shape == (5, 4, 3)
    # Given the folder, all that lies there counts, and the directory itself is no damaged image.
    result = find_scans(tmp_path / "disc")
    assert (len(result.scans), result.refused, result.set_aside) == (2, (), {})


def test_missing_files_of_a_dicomdir_are_counted(tmp_path: Path) -> None:
    path = directory(tmp_path / "disc")
    listed = sorted(file for file in path.parent.rglob("*") if file.is_file() and file.name != "DICOMDIR")
    listed[0].unlink()
    result = find_scans(path)
    assert len(result.scans) == 1
    assert refusals(result) == [("DICOMDIR", "missing-listed-files")]
    assert result.refused[0].error.found.startswith("1 of 3 ")


def test_a_dicomdir_leads_nowhere_else(tmp_path: Path) -> None:
    path = directory(tmp_path / "disc")
    series(tmp_path / "elsewhere")
    content = pydicom.dcmread(path)
    with disable_value_validation():
        for record in content.DirectoryRecordSequence:
            if "ReferencedFileID" in record:
                record.ReferencedFileID = ["..", "elsewhere", "1.2.3.4-0"]
        content.save_as(path)
    assert reason_of(path) == "missing-listed-files"
    path.write_bytes(path.read_bytes()[:900])
    assert reason_of(path) in ("damaged-header", "missing-listed-files")


def test_names_in_small_letters_are_found_for_a_dicomdir(tmp_path: Path) -> None:
    path = directory(tmp_path / "disc")
    for file in sorted(path.parent.rglob("*"), reverse=True):
        file.rename(file.with_name(file.name.lower()))
    assert len(find_scans(tmp_path / "disc/dicomdir").scans) == 1


# Archives.


def test_scans_in_a_zip_are_named_through_it(tmp_path: Path) -> None:
    nifti(tmp_path / "packed/a/x.nii.gz")
    series(tmp_path / "packed/series")
    archive = zipped(tmp_path / "study.zip", tmp_path / "packed")
    result = find_scans(archive)
    assert places(result) == ["study.zip/a/x.nii.gz", "study.zip/series"]
    assert [scan.name for scan in result.scans] == ["x", pseudonym("1.2.3.4")]
    assert read_scan(result.scans[1]).modality == "CT"
    folder = result.scans[0].path.parents[1]
    assert (folder.stat().st_mode & 0o777, folder.is_relative_to(tmp_path)) == (0o700, False)
    remove_unpacked()
    assert not folder.exists()


def test_zips_in_a_folder_are_looked_into_but_not_zips_in_them(tmp_path: Path) -> None:
    series(tmp_path / "packed")
    zipped(tmp_path / "inner/nested.zip", nifti(tmp_path / "inner/a.nii").parent)
    (tmp_path / "in").mkdir()
    zipped(tmp_path / "in/study.zip", tmp_path / "packed")
    zipped(tmp_path / "in/outer.zip", tmp_path / "inner")
    (tmp_path / "in/broken.zip").write_bytes((tmp_path / "in/study.zip").read_bytes()[:300])
    nifti(tmp_path / "in/b.nii")
    result = find_scans(tmp_path / "in")
    assert places(result) == ["b.nii", "outer.zip/a.nii", "study.zip"]
    assert refusals(result) == [("broken.zip", "damaged-archive")]


@pytest.mark.parametrize("error", [None, OSError(28, "full"), KeyboardInterrupt()])
def test_of_a_zip_that_cannot_be_unpacked_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                        error: BaseException | None) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    archive = zipped(tmp_path / "a.zip", nifti(tmp_path / "packed/a.nii").parent)
    if error is None:
        content = archive.read_bytes()
        archive.write_bytes(content.replace(b"\0" * 9, b"\1" * 9, 1))  # a checksum that is wrong at its end
    else:
        def fail(*_: object) -> None:
            assert list((tmp_path / "temporary").glob("*/a.nii")), "unpacked so far"
            raise error

        monkeypatch.setattr("pipeline.imaging.unpacked._set_times", fail)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else InputError):
        find_scans(archive)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_zip_gives_its_files_the_same_times_each_time(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    content = nifti(tmp_path / "a.nii").read_bytes()
    dates = {"a/b.nii": (2021, 2, 3, 4, 5, 6), "no date.nii": (1980, 0, 0, 0, 0, 0), "odd.nii": (2020, 2, 31, 25, 0, 0)}
    with zipfile.ZipFile(archive, "w") as packed:
        for name, date in dates.items():
            packed.writestr(zipfile.ZipInfo(name, date), content)
    # Seconds since 1970 in UTC, by `date -u +%s`.
    expected = {"a.zip/a/b.nii": 1612325106, "a.zip/no date.nii": 315532800, "a.zip/odd.nii": 315532800}
    for _ in range(2):
        assert {scan.relative: scan.path.stat().st_mtime for scan in find_scans(archive).scans} == expected


def test_what_was_unpacked_knows_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series(tmp_path / "packed/deep/series")
    archive = zipped(tmp_path / "a.zip", tmp_path / "packed")
    monkeypatch.chdir(tmp_path)
    (scan,) = find_scans(Path("a.zip")).scans
    assert archive_of(scan.path) == (archive, "deep/series")
    assert archive_of(scan.path / "1.2.3.4-0") == (archive, "deep/series/1.2.3.4-0")
    assert archive_of(archive) is None
    remove_unpacked()
    assert archive_of(scan.path) is None


def test_a_zip_without_scans_is_no_scan(tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed/notes.txt").write_text("nothing")
    assert reason_of(zipped(tmp_path / "a.zip", tmp_path / "packed")) == "no-images"


# Names, wrong paths, many files, reading.


def test_name_that_is_no_text_can_be_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"scan-\xff\n.nii.gz")
    try:
        nifti(tmp_path / "in" / "x.nii.gz").rename(tmp_path / "in" / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert found(tmp_path / "in") == [("scan-\ufffd\ufffd", "scan-\ufffd\ufffd.nii.gz")]


def test_wrong_paths_are_refused(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "missing") == "missing-file"
    assert reason_of(tmp_path / ("x" * 300)) == "unreadable-file"
    (tmp_path / "empty").mkdir()
    assert reason_of(tmp_path / "empty") == "no-images"
    (tmp_path / "notes.txt").write_text("nothing")
    error = refusal(tmp_path / "notes.txt")
    assert (error.reason, "NIfTI" in error.wanted, "DICOM" in error.wanted) == ("not-an-image", True, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    nifti(tmp_path / "in/a.nii")
    (tmp_path / "in/closed").mkdir(mode=0)
    assert refusals(find_scans(tmp_path / "in")) == [("closed", "unreadable-folder")]


def test_deep_folders_and_many_files_are_quick(tmp_path: Path) -> None:
    deep = tmp_path.joinpath("in", *["d"] * 300)
    nifti(deep / "a.nii")
    for number in range(3000):
        (tmp_path / f"in/{number}.txt").touch()
    start = perf_counter()
    assert len(find_scans(tmp_path / "in").scans) == 1
    # 0.1 ms a file, and as much again for a busy machine.
    assert perf_counter() - start < 3300 * 2e-4


def test_all_kinds_are_read(tmp_path: Path) -> None:
    assert read_scan(nifti(tmp_path / "a.nii.gz")).affine == pytest.approx(AFFINE)
    assert read_scan(series(tmp_path / "series")).modality == "CT"
    assert read_scan(find_scans(tmp_path / "series").scans[0]).modality == "CT"


def test_a_path_with_several_scans_is_not_read(tmp_path: Path) -> None:
    nifti(tmp_path / "in/a.nii")
    nifti(tmp_path / "in/b.nii")
    for path, reason in ((tmp_path / "in", "several-scans"), (two_series(tmp_path / "two"), "several-series"),
                         (tmp_path / "missing.nii", "missing-file"), (tmp_path / "missing", "missing-file")):
        with pytest.raises(InputError) as caught:
            read_scan(path)
        assert caught.value.reason == reason


def test_same_input_gives_the_same_order_whatever_the_names(tmp_path: Path) -> None:
    for number in (3, 1, 2):
        series(tmp_path / "in" / generate_uid(), f"1.{number}", SeriesNumber=str(number))
    first, second = find_scans(tmp_path / "in"), find_scans(tmp_path / "in")
    assert first == second
    assert places(first) == sorted(places(first))


def test_slices_without_suffix_are_found(tmp_path: Path) -> None:
    assert len(find_scans(write_slices(tmp_path / "s", [slice_dataset(i) for i in range(3)])).scans) == 1


def test_real_series_are_found_whole_and_objects_set_aside() -> None:
    data = os.environ.get("SEGLINE_TEST_DATA")
    if not data:
        pytest.skip("real data: set SEGLINE_TEST_DATA")
    result = find_scans(Path(data) / "dicom")
    slices = {scan.relative: len(scan.series.slices) for scan in result.scans if scan.series}
    # As the folders' README lists them; the four encodings are one series in four folders.
    assert slices == {
        "ct_rtstruct/STS_002/image": 48, "encodings": 16, "encodings/rgb/001": 4, "hippocampus_study1": 32,
        "irregular/gantrytilting/001": 4, "irregular/notavolume/001": 4, "irregular/sliceincrement/002": 4,
        "irregular/sliceorientation/001": 4, "mr_t1_oblique": 12, "multiframe/001": 8, "regular/siemens_001": 4,
        "seg/ct-3slice": 3,
    }
    assert (result.set_aside, result.refused) == ({"structure set": 1, "segmentation": 2}, ())
