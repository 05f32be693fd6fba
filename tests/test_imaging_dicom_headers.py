"""The survey of DICOM files: series by header, the rest counted by kind, damage named, hostile headers survived."""

import zlib
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    MRSpectroscopyStorage,
    RawDataStorage,
    RTDoseStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
    XRayRadiationDoseSRStorage,
)
from tiny_dicom import item, read_folder, slice_dataset, survey_folder, write_slices

from pipeline.imaging.dicom_headers import is_dicom, survey_files


def save(content: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content.save_as(path, enforce_file_format=True)
    return path


def two(folder: Path) -> Path:
    return write_slices(folder, [slice_dataset(0), slice_dataset(1)])


def test_series_are_found_by_their_uid_and_described(tmp_path: Path) -> None:
    folder = two(tmp_path / "series")
    for number in range(3):
        other = slice_dataset(number, series_uid="1.2.3.5")
        other.SeriesNumber, other.SeriesDescription, other.Modality = "8", "bone kernel", "MR"
        save(other, folder / f"other{number}")
    (folder / "notes.txt").write_text("no DICOM")
    (folder / "empty").touch()
    survey = survey_folder(folder)
    assert [(one.uid, one.number, one.description, one.modality, one.study_uid, len(one.slices))
            for one in survey.series] == [("1.2.3.4", "7", "Smith John liver", "CT", "1.2.3", 2),
                                          ("1.2.3.5", "8", "bone kernel", "MR", "1.2.3", 3)]
    assert (survey.set_aside, survey.damaged) == ({}, ())


@pytest.mark.parametrize(("sop_class", "modality", "kind"), [
    (SecondaryCaptureImageStorage, "OT", "screen capture"),
    (XRayRadiationDoseSRStorage, "SR", "report"),
    (SegmentationStorage, "SEG", "segmentation"),
    (RTStructureSetStorage, "RTSTRUCT", "structure set"),
    (GrayscaleSoftcopyPresentationStateStorage, "PR", "presentation state"),
    (RTDoseStorage, "RTDOSE", "dose"),
    (RawDataStorage, "MR", "other object"),
    (MRSpectroscopyStorage, "MR", "other object"),
    (MediaStorageDirectoryStorage, "", "other object"),
    # A private class: its modality decides.
    (UID("1.3.46.670589.11.0.0.12.1"), "SR", "report"),
])
def test_what_is_no_scan_is_counted_by_kind(tmp_path: Path, sop_class: UID, modality: str, kind: str) -> None:
    other = slice_dataset(9)
    other.SOPClassUID = other.file_meta.MediaStorageSOPClassUID = sop_class
    other.Modality = modality
    del other.ImagePositionPatient
    save(other, two(tmp_path / "series") / "IM5")
    survey = survey_folder(tmp_path / "series")
    assert survey.set_aside == {kind: 1}
    assert [len(one.slices) for one in survey.series] == [2]


def test_localizers_and_screen_saves_are_known_by_image_type(tmp_path: Path) -> None:
    folder = two(tmp_path / "series")
    scout, screen = slice_dataset(8), slice_dataset(9)
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    screen.ImageType = ["DERIVED", "SECONDARY", "SCREEN SAVE"]
    del screen.ImagePositionPatient
    save(scout, folder / "a_plain_name")
    save(screen, folder / "another")
    assert survey_folder(folder).set_aside == {"localizer": 1, "screen capture": 1}


def test_a_capture_that_says_where_it_lies_is_an_image(tmp_path: Path) -> None:
    slices = [slice_dataset(number) for number in range(3)]
    for content in slices:
        content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    survey = survey_folder(write_slices(tmp_path / "series", slices))
    assert survey.set_aside == {}
    assert len(survey.series[0].slices) == 3


def test_the_same_object_twice_counts_once(tmp_path: Path) -> None:
    folder = two(tmp_path / "series")
    (folder / "copy").write_bytes((folder / "IM3").read_bytes())
    survey = survey_folder(folder)
    assert survey.set_aside == {"repeated image": 1}
    assert read_folder(folder).array.shape == (5, 4, 2)
    # The same UID with other content is another object, and two slices at one place.
    other = slice_dataset(0)
    other.PatientComments = "edited"
    save(other, folder / "edited")
    assert len(survey_folder(folder).series[0].slices) == 3


def test_slices_that_share_a_uid_are_no_copies(tmp_path: Path) -> None:
    slices = [slice_dataset(number) for number in range(4)]
    for content in slices:
        content.SOPInstanceUID = content.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        content.InstanceNumber = "1"
        content.ImagePositionPatient[2] = f"{float(content.ImagePositionPatient[2]):+08.3f}"
    folder = write_slices(tmp_path / "series", slices)
    assert len({path.stat().st_size for path in folder.iterdir()}) == 1
    survey = survey_folder(folder)
    assert (survey.set_aside, len(survey.series[0].slices)) == ({}, 4)
    assert read_folder(folder).array.shape[2] == 4


def test_files_without_preamble_are_read(tmp_path: Path) -> None:
    folder = two(tmp_path / "series")
    for path in folder.iterdir():
        content = pydicom.dcmread(path)
        del content.file_meta
        content.preamble = None
        content.save_as(path, implicit_vr=True, little_endian=True)
        assert path.read_bytes()[128:132] != b"DICM"
        assert is_dicom(path)
    assert read_folder(folder).array.shape == (5, 4, 2)


def test_each_cut_through_a_file_is_survived_and_named(tmp_path: Path) -> None:
    whole = two(tmp_path / "series").joinpath("IM3").read_bytes()
    pixels_start = whole.index(b"\xe0\x7f\x10\x00")
    path = tmp_path / "cut"
    for length in range(132, len(whole)):
        path.write_bytes(whole[:length])
        survey = survey_files([path])
        if length < pixels_start + 8:
            assert [error.where for error in survey.damaged] == [str(path)], length
            assert survey.damaged[0].reason == "damaged-header"
        elif not survey.damaged:
            assert survey.series[0].slices[0].is_truncated, length


def test_values_of_any_length_are_stepped_over(tmp_path: Path) -> None:
    content = slice_dataset(0)
    block = content.private_block(0x0009, "ACME", create=True)
    block.add_new(1, "OB", bytes(3_000_000))
    block.add_new(2, "SQ", item(PatientComments="in a private sequence", ReferencedImageSequence=item(StudyID="1")))
    content[0x00091002].is_undefined_length = True
    content[0x00091002].value[0].is_undefined_length_sequence_item = True
    content.ImageComments = "x" * 9000
    survey = survey_files([save(content, tmp_path / "a")])
    assert survey.damaged == ()
    assert survey.series[0].slices[0].instance_number is None
    assert survey.series[0].slices[0].pixel_spacing_mm == (0.7, 0.9)


def test_sequences_nested_without_end_are_damage(tmp_path: Path) -> None:
    path = two(tmp_path / "series") / "IM3"
    whole = path.read_bytes()
    start = whole.index(b"\x20\x00\x0d\x00")
    opening = b"\x09\x00\x10\x10SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(whole[:start] + opening * 5000)
    survey = survey_files([path])
    assert len(survey.damaged) == 1
    assert "nested too deeply" in survey.damaged[0].found


def test_a_deflated_bomb_costs_no_memory(tmp_path: Path) -> None:
    path = two(tmp_path / "series") / "IM3"
    content = pydicom.dcmread(path)
    content.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save(content, path)
    # 40 MB of zeros: elements of group 0 without end.
    engine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(engine.compress(bytes(2**20)) for _ in range(40)) + engine.flush()
    whole = path.read_bytes()
    # The meta information begins at byte 132 with its own length, 12 bytes that do not count themselves.
    meta = whole[: 144 + int.from_bytes(whole[140:144], "little")]
    path.write_bytes(meta + bomb)
    assert len(bomb) < 2**16
    assert [error.reason for error in survey_files([path]).damaged] == ["damaged-header"]


def test_a_transfer_syntax_that_is_not_the_files_own_is_seen_through(tmp_path: Path) -> None:
    folder = two(tmp_path / "series")
    for path in folder.iterdir():
        content = path.read_bytes()
        # Says implicit, is explicit; UIDs are padded to even length.
        said = content.replace(b"1.2.840.10008.1.2.1\x00", ImplicitVRLittleEndian.encode() + b"\x00\x00\x00", 1)
        path.write_bytes(said)
    assert read_folder(folder).array.shape == (5, 4, 2)


def test_descriptions_are_decoded_by_their_character_set(tmp_path: Path) -> None:
    content = slice_dataset(0)
    content.SpecificCharacterSet, content.SeriesDescription = "ISO_IR 144", "Печень"
    assert survey_files([save(content, tmp_path / "a")]).series[0].description == "Печень"


def test_headers_are_read_without_error_text_of_the_patient(tmp_path: Path) -> None:
    content = slice_dataset(0)
    content.PatientName = "Smith^John"
    path = save(content, tmp_path / "a")
    path.write_bytes(path.read_bytes().replace(b"\x28\x00\x10\x00US", b"\x28\x00\x12\x00US"))
    (error,) = survey_files([path]).damaged
    assert "no rows" in error.found
    assert "Smith" not in str(error)
