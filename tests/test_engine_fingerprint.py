from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.engine.fingerprint import take_fingerprint
from pipeline.imaging.nifti import write_nifti
from pipeline.records.index import Index, IndexedCase

CASE = IndexedCase(
    "a", "a", "train", "a.nii.gz", "l.nii.gz", (10, 20, 30), (1.0, 2.0, 3.0), "RAS", {"one": 9, "two": 0}, "", ""
)
INDEX = Index("d", ".", "MR", "CC0", {"one": 1, "two": 2}, (CASE,))


def test_geometry_is_reordered_to_ras_axes() -> None:
    # Stored as superior-inferior first, then left-right, then front-back.
    index = replace(INDEX, cases=(replace(CASE, orientation="SLP"),))
    fingerprint = take_fingerprint(index)
    assert fingerprint.shapes == ((20, 30, 10),)
    assert fingerprint.spacings_mm == ((2.0, 3.0, 1.0),)


def test_only_training_cases_count() -> None:
    other = replace(CASE, case_id="b", split="test", shape=(99, 99, 99))
    assert take_fingerprint(replace(INDEX, cases=(CASE, other))).shapes == ((10, 20, 30),)


def test_ct_statistics_are_of_voxels_inside_labels(tmp_path: Path) -> None:
    image = np.full((10, 10, 10), -1000, dtype=np.int16)
    image[2:6] = np.arange(400).reshape(4, 10, 10)
    label = np.zeros_like(image, dtype=np.uint8)
    label[2:6] = 1
    for name, array in (("a.nii.gz", image), ("l.nii.gz", label)):
        write_nifti(tmp_path / name, array, affine=np.eye(4))
    fingerprint = take_fingerprint(replace(INDEX, root=str(tmp_path), modality="CT"))
    foreground = fingerprint.foreground
    assert foreground is not None
    # Of the 1000 voxels the lowest 600 are air and the highest five 395 to 399: percentile 99.5 lies between two.
    assert fingerprint.intensity_range == pytest.approx((-1000, 394.005))
    # 0.5 and 99.5 percent of 0..399 by linear interpolation: 0.005 * 399 and 0.995 * 399.
    assert foreground["low"] == pytest.approx(1.995)
    assert foreground["high"] == pytest.approx(397.005)
    assert foreground["mean"] == pytest.approx(199.5)
