"""Makes tiny DICOM series for tests, classic and multi-frame, one element at a time by pydicom."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from pipeline.imaging.dicom import Irregular, read_series
from pipeline.imaging.dicom_headers import Survey, survey_files
from pipeline.imaging.scans import Scan

ROWS, COLUMNS = 4, 5
# Along a row to the patient's left and a little up; down a column to the back.
ALONG_ROW, DOWN_COLUMN = (0.8, 0.0, 0.6), (0.0, 1.0, 0.0)
NORMAL = np.cross(ALONG_ROW, DOWN_COLUMN)
FIRST_POSITION = np.array([10.0, 20.0, 30.0])
STEP_MM = 2.5


def slice_voxels(number: int) -> np.ndarray:
    """Returns stored values ``(row, column)`` that are different in each voxel and slice."""
    return (np.arange(ROWS * COLUMNS) + 100 * number).reshape(ROWS, COLUMNS).astype(np.int16)


def slice_dataset(number: int, *, series_uid: str = "1.2.3.4", at_mm: float | None = None) -> Dataset:
    """Returns slice `number` of a CT series, `at_mm` along the normal from the first one."""
    content = Dataset()
    content.file_meta = FileMetaDataset()
    content.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content.file_meta.MediaStorageSOPClassUID = content.SOPClassUID = CTImageStorage
    uid = generate_uid(entropy_srcs=[series_uid, str(number)])
    content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID = uid
    content.SeriesInstanceUID, content.StudyInstanceUID = series_uid, "1.2.3"
    content.Modality, content.SeriesNumber, content.SeriesDescription = "CT", "7", "Smith John liver"
    content.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    content.Rows, content.Columns, content.SamplesPerPixel = ROWS, COLUMNS, 1
    content.PhotometricInterpretation, content.PixelRepresentation = "MONOCHROME2", 1
    content.BitsAllocated, content.BitsStored, content.HighBit = 16, 16, 15
    content.PixelSpacing = [0.7, 0.9]
    content.ImageOrientationPatient = [*ALONG_ROW, *DOWN_COLUMN]
    position = FIRST_POSITION + NORMAL * (number * STEP_MM if at_mm is None else at_mm)
    content.ImagePositionPatient = [f"{value:.6f}" for value in position]
    content.RescaleSlope, content.RescaleIntercept = "1", "-1024"
    content.PixelData = slice_voxels(number).tobytes()
    return content


def write_slices(folder: Path, slices: Sequence[Dataset], **elements: Any) -> Path:
    """Writes the slices under names in an order that is not theirs, with `elements` set in the second one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in elements.items():
        setattr(slices[1], name, value)
    for count, content in enumerate(slices):
        # No suffix, and names that sort against the slices' order.
        content.save_as(folder / f"IM{(count * 7 + 3) % 10}", enforce_file_format=True)
    return folder


def survey_folder(folder: Path) -> Survey:
    """Returns the survey of all files directly in `folder`."""
    return survey_files(sorted(path for path in folder.iterdir() if path.is_file()))


def read_folder(folder: Path, *, irregular: Irregular = "refuse") -> Scan:
    """Returns the only series in `folder`."""
    (series,) = survey_folder(folder).series
    return read_series(series, where=folder, irregular=irregular)


def item(**elements: Any) -> list[Dataset]:
    """Returns a sequence of one item with these elements."""
    content = Dataset()
    for name, value in elements.items():
        setattr(content, name, value)
    return [content]


def enhanced_dataset(depths_mm: Sequence[float], *, frames: Sequence[dict[str, list[Dataset]]] = ()) -> Dataset:
    """Returns an enhanced CT object with a frame at each depth along the normal, frame k with `slice_voxels(k)`.

    Args:
        depths_mm: of the frames, in the file's order.
        frames: further functional groups of each frame, by keyword.
    """
    content = slice_dataset(0)
    del content.PixelSpacing, content.ImageOrientationPatient, content.ImagePositionPatient
    del content.RescaleSlope, content.RescaleIntercept
    content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    content.NumberOfFrames = len(depths_mm)
    content.SharedFunctionalGroupsSequence = item(
        PlaneOrientationSequence=item(ImageOrientationPatient=[*ALONG_ROW, *DOWN_COLUMN]),
        PixelMeasuresSequence=item(PixelSpacing=[0.7, 0.9], SliceThickness=2.5),
        PixelValueTransformationSequence=item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU"),
    )
    groups = []
    for number, depth_mm in enumerate(depths_mm):
        position = [f"{value:.6f}" for value in FIRST_POSITION + NORMAL * depth_mm]
        extra = frames[number] if frames else {}
        groups += item(**{"PlanePositionSequence": item(ImagePositionPatient=position), **extra})
    content.PerFrameFunctionalGroupsSequence = groups
    content.PixelData = b"".join(slice_voxels(number).tobytes() for number in range(len(depths_mm)))
    return content
