"""Makes tiny datasets in MSD layout for tests; scans are written by nibabel, not by the code under test."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (5, 4, 3)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])


def image_array(number: int = 0) -> np.ndarray:
    """Returns voxels 0, 1, 2, ... of shape `SHAPE`, plus `number`, so that no two cases are the same."""
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) + number


def label_array() -> np.ndarray:
    """Returns 60 voxels: 2 of label 1, 3 of label 2, else background."""
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[0, 0, :2] = 1
    label[1, 0, :3] = 2
    return label


def write_scan(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    """Writes one NIfTI file with qform and sform set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scan = nib.Nifti1Image(array, affine)
    scan.set_qform(affine, code=1)
    scan.set_sform(affine, code=1)
    nib.save(scan, path)
    return path


def entry(case_id: str) -> dict[str, str]:
    """Returns how `dataset.json` lists a case."""
    return {"image": f"./imagesTr/{case_id}.nii.gz", "label": f"./labelsTr/{case_id}.nii.gz"}


def describe(root: Path, **changes: Any) -> Path:
    """Writes `dataset.json`; keys given replace the usual ones, and None leaves one out."""
    content = {"name": "Tiny", "licence": "CC0-1.0", "modality": {"0": "MRI"}, "training": [],
               "labels": {"0": "background", "1": "organ", "2": "lesion"}, **changes}
    root.mkdir(parents=True, exist_ok=True)
    path = root / "dataset.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return path


def write_msd(root: Path, case_ids: list[str]) -> Path:
    """Writes a sound dataset with these cases and returns `root`."""
    for number, case_id in enumerate(case_ids):
        write_scan(root / "imagesTr" / f"{case_id}.nii.gz", image_array(number))
        write_scan(root / "labelsTr" / f"{case_id}.nii.gz", label_array())
    describe(root, training=[entry(case_id) for case_id in case_ids])
    return root
