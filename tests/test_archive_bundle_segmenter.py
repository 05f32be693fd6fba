"""A study's folder segmented by a trained bundle in miniature, whose answer is the intensities themselves."""

import errno
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom.dataset import Dataset
from tiny_archive import PATIENT, ct_study
from tiny_bundle import write_bundle

from pipeline.archive.bundle_segmenter import open_bundle
from pipeline.archive.outcomes import SegmentStudy, StudyOutcome
from pipeline.engine import scan_run
from pipeline.engine.outputs import write_images
from pipeline.records.errors import InputError


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> SegmentStudy:
    root = tmp_path_factory.mktemp("bundle") / "bundle"
    return open_bundle(write_bundle(root, labels={"organ": 1, "lesion": 2}))


def series(number: int, slices: int = 4, modality: str = "CT") -> list[Dataset]:
    """Returns a series of study 1.2.1 whose values are the column's number modulo 3."""
    datasets = ct_study("1.2.1", slices)
    for content in datasets:
        content.SeriesInstanceUID = f"1.2.1.{number}"
        content.SOPInstanceUID = f"{content.SOPInstanceUID[:50]}.{number}"
        content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID
        content.Modality, content.SeriesNumber = modality, str(number)
        content.RescaleIntercept = "0"
        values = np.arange(content.Columns, dtype=np.int16) % 3 + np.zeros((content.Rows, 1), np.int16)
        content.PixelData = values.astype(np.int16).tobytes()
    return datasets


def outcome_of(segment: SegmentStudy, folder: Path, datasets: list[Dataset]) -> StudyOutcome:
    (folder / "images").mkdir()
    (folder / "output").mkdir()
    for number, content in enumerate(datasets):
        content.save_as(folder / "images" / f"{number}.dcm", enforce_file_format=True)
    return segment(folder / "images", folder / "output")


def test_every_series_of_the_bundles_modality(segment: SegmentStudy, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    study = [*series(1), *series(2, slices=5), *series(3, modality="MR"), *series(4, slices=1)]
    outcome = outcome_of(segment, tmp_path, study)
    assert outcome.failures == ()
    found = {}
    for file in outcome.seg_files:
        assert file.relative_to(tmp_path / "output").parts[1] == "segmentation.dcm"
        result = highdicom.seg.segread(file)
        found[str(result.ReferencedSeriesSequence[0].SeriesInstanceUID)] = result
        assert (result.StudyInstanceUID, result.PatientName) == ("1.2.1", PATIENT)
    assert sorted(found) == ["1.2.1.1", "1.2.1.2"]
    uids = [one.SOPInstanceUID for one in study[:4]]
    masks = found["1.2.1.1"].get_pixels_by_source_instance(uids, combine_segments=True)
    assert masks[0].tolist() == [[0, 1, 2, 0, 1]] * 4
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Smith" not in printed.err


@pytest.mark.parametrize("study", [[], series(1, modality="MR"), series(1, slices=1)])
def test_a_study_with_nothing_for_the_bundle(segment: SegmentStudy, tmp_path: Path, study: list[Dataset]) -> None:
    assert outcome_of(segment, tmp_path, study) == StudyOutcome(())
    assert list((tmp_path / "output").iterdir()) == []


def test_a_series_that_is_refused_among_others(segment: SegmentStudy, tmp_path: Path) -> None:
    missing = series(2, slices=6)
    del missing[2]
    outcome = outcome_of(segment, tmp_path, [*series(1), *missing])
    assert len(outcome.seg_files) == 1
    [(reason, message)] = outcome.failures
    assert reason == "missing-slice"
    assert "Smith" not in message
    assert str(tmp_path) not in message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_while_one_series_is_written_is_raised(segment: SegmentStudy, tmp_path: Path, number: int,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def fill_up(*arguments: object, **options: object) -> None:
        written.append(arguments)
        if len(written) == 2:
            raise OSError(number, "full")
        write_images(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(scan_run, "write_images", fill_up)
    with pytest.raises(OSError, match="No space left") as caught:
        outcome_of(segment, tmp_path, [*series(1), *series(2)])
    assert (caught.value.errno, len(written)) == (errno.ENOSPC, 2)


@pytest.mark.parametrize(("error", "expected"), [
    (ValueError(f"PatientName {PATIENT} in /data/Smith"), ("unexpected-error", f"ValueError in {Path(__file__).name}")),
    (InputError("Smith", found="no file /data/Smith", wanted="one", remedy="copy it", reason="missing-file"),
     ("missing-file", "no file (path); expected one; copy it")),
])
def test_what_goes_wrong_inside_names_neither_patient_nor_folder(
    segment: SegmentStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: tuple[str, str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(scan_run, "write_images", fail)
    [(reason, message)] = outcome_of(segment, tmp_path, series(1)).failures
    assert (reason, message.split(", line ")[0]) == expected
    texts = [message, *(path.read_text() for path in (tmp_path / "output").glob("summary.*"))]
    assert len(texts) == 3
    assert not any("Smith" in text or str(tmp_path) in text for text in texts)
