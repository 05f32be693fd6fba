"""Writes a volume as a classic CT series, one file per slice, as a scanner's archive would hold it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from pipeline.records.errors import InputError
from pipeline.records.files import folder_written_aside

RESCALE_INTERCEPT_HU = -1024
STORED_MAX = 65535
# Cosine between two axes above which they are called oblique to each other: rounding to float32 stays far below.
SHEAR_COSINE = 1e-4
# ITK is LPS; NIfTI is RAS.
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class SeriesFrame:
    """Geometry of a series in DICOM's terms, LPS+ millimetres.

    Attributes:
        along_row: unit vector of increasing column index, which is the array's x axis.
        along_column: unit vector of increasing row index, which is the array's y axis.
        slice_step: from one slice's centre to the next along the array's z axis; it may run against the normal.
        first_position: centre of voxel (0, 0, 0).
        pixel_spacing_mm: between rows, then between columns.
    """

    along_row: NDArray[np.float64]
    along_column: NDArray[np.float64]
    slice_step: NDArray[np.float64]
    first_position: NDArray[np.float64]
    pixel_spacing_mm: tuple[float, float]


def write_ct_series(folder: Path, array: NDArray[np.generic], *, affine: NDArray[np.float64], uid_seed: str,
                    patient_id: str) -> None:
    """Writes one CT Image Storage file per slice into `folder`, which is replaced as a whole.

    Files are named by a digest and instance numbers are shuffled: only ImagePositionPatient tells the order, as in many
    real archives. Same arguments, same bytes.

    Args:
        folder: where the series goes.
        array: ``(x, y, z)`` Hounsfield units; stored rounded, clipped to -1024 and up to 64511.
        affine: ``(4, 4)`` voxel index to millimetres in RAS+, with axes at right angles; left-handed ones are fine.
        uid_seed: all UIDs derive from this text and the series' content.
        patient_id: a synthetic patient such as ``p007``, written as ``PHANTOM^P007``.

    Raises:
        InputError: ``sheared-affine``, ``not-three-dimensional``.

    Source: DICOM PS3.3, A.3 CT Image IOD; C.7.6.2 Image Plane Module.
    """
    if array.ndim != 3:
        raise InputError(folder, found=f"an array of {array.ndim} dimensions", wanted="a volume (x, y, z)",
                         remedy="write volumes only", reason="not-three-dimensional")
    frame = _frame(folder, affine)
    stored = np.clip(np.rint(array.astype(np.float64)) - RESCALE_INTERCEPT_HU, 0, STORED_MAX).astype("<u2")
    digest = hashlib.sha256(f"{uid_seed} {patient_id} {array.shape}".encode())
    digest.update(np.ascontiguousarray(affine, dtype="<f8").tobytes() + stored.tobytes())
    entropy = digest.hexdigest()
    instance_numbers = np.random.default_rng(int(entropy[:16], 16)).permutation(array.shape[2]) + 1
    common = _series_attributes(frame, entropy=entropy, patient_id=patient_id, uid_seed=uid_seed)
    with folder_written_aside(folder) as aside:
        for index, number in enumerate(instance_numbers):
            # DICOM's matrix is (row, column), which is (y, x) here.
            dataset = _slice_dataset(common, stored[:, :, index].T, frame=frame, index=index)
            dataset.InstanceNumber = int(number)
            dataset.SOPInstanceUID = generate_uid(entropy_srcs=[entropy, "instance", str(index)])
            _save(dataset, aside)


def _frame(folder: Path, affine: NDArray[np.float64]) -> SeriesFrame:
    axes = LPS_FROM_RAS @ affine[:3, :3]
    spacing_mm = np.linalg.norm(axes, axis=0)
    unit = axes / spacing_mm
    cosines = np.abs(unit.T @ unit - np.eye(3))
    if not (cosines < SHEAR_COSINE).all():
        raise InputError(folder, found=f"an affine whose axes have a cosine of {cosines.max():.4f} to each other",
                         wanted="axes at right angles, as a CT series has", remedy="resample the volume first",
                         reason="sheared-affine")
    row = unit[:, 0]
    # float32 affines are off a right angle by 1e-7; the standard wants an orthonormal frame.
    column = unit[:, 1] - (unit[:, 1] @ row) * row
    return SeriesFrame(along_row=row, along_column=column / np.linalg.norm(column), slice_step=axes[:, 2],
                       first_position=LPS_FROM_RAS @ affine[:3, 3],
                       pixel_spacing_mm=(float(spacing_mm[1]), float(spacing_mm[0])))


def _series_attributes(frame: SeriesFrame, *, entropy: str, patient_id: str, uid_seed: str) -> Dataset:
    """Returns what all slices share: patient, study, series, frame of reference, equipment, geometry."""
    common = Dataset()
    common.SOPClassUID = CTImageStorage
    common.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    common.PatientName, common.PatientID = f"PHANTOM^{patient_id.upper()}", patient_id.upper()
    common.PatientBirthDate, common.PatientSex = "", ""
    common.StudyInstanceUID = generate_uid(entropy_srcs=[entropy, "study"])
    common.SeriesInstanceUID = generate_uid(entropy_srcs=[entropy, "series"])
    common.FrameOfReferenceUID = generate_uid(entropy_srcs=[entropy, "frame of reference"])
    common.StudyDate, common.StudyTime = "20200101", "120000"
    common.AccessionNumber, common.ReferringPhysicianName, common.StudyID = "", "", "1"
    common.SeriesNumber, common.AcquisitionNumber = 1, 1
    common.Modality, common.PatientPosition = "CT", "HFS"
    common.Manufacturer, common.SeriesDescription = "Segline phantom", f"Synthetic phantom, {uid_seed}"
    common.PositionReferenceIndicator, common.KVP = "", "120"
    common.ImageOrientationPatient = [format_number_as_ds(float(v)) for v in (*frame.along_row, *frame.along_column)]
    common.PixelSpacing = [format_number_as_ds(v) for v in frame.pixel_spacing_mm]
    common.SliceThickness = format_number_as_ds(float(np.linalg.norm(frame.slice_step)))
    return common


def _slice_dataset(common: Dataset, pixels: NDArray[np.uint16], *, frame: SeriesFrame, index: int) -> Dataset:
    """Returns one slice's dataset; `pixels` is ``(row, column)``."""
    dataset = Dataset()
    dataset.update(common)
    position = frame.first_position + index * frame.slice_step
    dataset.ImagePositionPatient = [format_number_as_ds(float(value)) for value in position]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = str(RESCALE_INTERCEPT_HU), "1", "HU"
    dataset.WindowCenter, dataset.WindowWidth = "40", "350"
    dataset.PixelData = pixels.tobytes()
    return dataset


def _save(dataset: Dataset, folder: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    name = hashlib.sha256(str(dataset.SOPInstanceUID).encode()).hexdigest()[:16]
    dataset.save_as(folder / f"{name}.dcm", enforce_file_format=True)
