"""Stage `phantom`: writes an embedded phantom to data/raw, in MSD layout, one scan of the 3D one as DICOM too."""

from pathlib import Path

from pipeline.imaging.dicom_write import write_ct_series
from pipeline.records.errors import InputError
from pipeline.records.files import folder_written_aside
from pipeline.records.folders import RAW
from pipeline.sources.phantom_2d import DESCRIPTION_2D, make_phantom_2d
from pipeline.sources.phantom_3d import DESCRIPTION_3D, make_phantom_3d
from pipeline.sources.phantom_dataset import PhantomScan, write_phantom

SEED = 0
DICOM_CASE = "p009_a"
"""The case that is also written as a CT series below `dicom/`, so that DICOM can be tried with nothing downloaded: an
oblique scan with four lesions, which the default split puts into the test set."""


def run(dataset: str) -> None:
    """Writes `data/raw/<dataset>`; the same bytes each time. An older folder is replaced once the new one is whole.

    Raises:
        InputError: no phantom has that name.
    """
    writers = {DESCRIPTION_2D.name: _write_2d, DESCRIPTION_3D.name: _write_3d}
    if dataset not in writers:
        raise InputError(dataset, found="no phantom of that name", wanted=" or ".join(sorted(writers)),
                         remedy="choose one of these", reason="unknown-phantom")
    with folder_written_aside(RAW / dataset) as folder:
        writers[dataset](folder)


def _write_2d(folder: Path) -> None:
    write_phantom(folder, make_phantom_2d(SEED), description=DESCRIPTION_2D, seed=SEED)


def _write_3d(folder: Path) -> None:
    scans = list(make_phantom_3d(SEED))
    write_phantom(folder, scans, description=DESCRIPTION_3D, seed=SEED)
    write_dicom(folder, next(scan for scan in scans if scan.case_id == DICOM_CASE), seed=SEED)


def write_dicom(folder: Path, scan: PhantomScan, *, seed: int) -> None:
    """Writes the scan as a CT series into `dicom/<case id>`: the same voxels as `imagesTr/<case id>.nii.gz`."""
    write_ct_series(folder / "dicom" / scan.case_id, scan.image, affine=scan.affine, patient_id=scan.patient,
                    uid_seed=f"seed {seed} {scan.case_id}")
