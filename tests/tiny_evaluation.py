"""An experiment of labelled scans and predictions whose scores are known by hand, for tests of evaluate and report.

Scans are 12 x 10 x 6 voxels of 1 x 1 x 2 mm (0.002 mL each), written by nibabel. The organ has 32 voxels, lesion A 8
(16 mm3: 3.126 mm), lesion B one (2 mm3: 1.563 mm).

| case | truth | prediction |
|---|---|---|
| t1 | organ, A, B | organ one voxel off (24 of 32 overlap), A exactly, B not |
| t2 | organ | the same |
| t3 | organ, A | none: the scan is lost |
| v1 (validation) | organ | organ exactly, and a lesion at A |
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from tiny_msd import write_scan

from pipeline.records.index import Index, IndexedCase, Split, write_index

SHAPE = (12, 10, 6)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
ORGAN, LESION = 1, 2
LABELS = {"organ": ORGAN, "lesion": LESION}
ROOT = Path("data/raw/tiny")
WORK = Path("work/tiny")
SPLITS: dict[str, Split] = {"t1": "test", "t2": "test", "t3": "test", "v1": "validation", "a1": "train"}
EVALUATION = "lesion_labels: [lesion]\nlesion_diameters_mm: [1, 3, 6]\npictures: 2\n"


def label_map(*parts: str) -> np.ndarray:
    """Returns a label map with the named parts: organ, shifted organ, A, B."""
    array = np.zeros(SHAPE, dtype=np.uint8)
    for part in parts:
        if part == "organ":
            array[1:5, 1:5, 1:3] = ORGAN
        elif part == "shifted organ":
            array[2:6, 1:5, 1:3] = ORGAN
        elif part == "A":
            array[7:9, 1:3, 1:3] = LESION
        elif part == "B":
            array[7, 7, 4] = LESION
    return array


TRUTHS = {"t1": label_map("organ", "A", "B"), "t2": label_map("organ"), "t3": label_map("organ", "A"),
          "v1": label_map("organ"), "a1": label_map("organ", "A")}
EXPECTED = {("t1", "organ"): 0.7, ("t1", "lesion"): 0.9, ("t2", "organ"): 0.95, ("v1", "organ"): 0.9}
PREDICTIONS = {"t1": label_map("shifted organ", "A"), "t2": label_map("organ"), "v1": label_map("organ", "A")}


def enter_experiment(folder: Path, monkeypatch: pytest.MonkeyPatch, *, depth: int = SHAPE[2]) -> None:
    """Makes the experiment `tiny` in `folder`, up to its index, and makes `folder` the working folder.

    `depth` 1 keeps slice 1 alone, which all parts but B cross.
    """
    monkeypatch.chdir(folder)
    (folder / "configs/tiny").mkdir(parents=True)
    (folder / "configs/tiny/evaluation.yaml").write_text(EVALUATION)
    cases = []
    for number, (case_id, split) in enumerate(SPLITS.items()):
        truth = _cut(TRUTHS[case_id], depth)
        noise = np.random.default_rng(number).normal(100.0, 5.0, truth.shape)
        write_scan(ROOT / f"imagesTr/{case_id}.nii.gz", (noise + 40.0 * truth).astype(np.float32), AFFINE)
        write_scan(ROOT / f"labelsTr/{case_id}.nii.gz", truth, AFFINE)
        voxels = {label: int(np.count_nonzero(truth == value)) for label, value in LABELS.items()}
        cases.append(IndexedCase(case_id, f"patient-{case_id}", split, f"imagesTr/{case_id}.nii.gz",
                                 f"labelsTr/{case_id}.nii.gz", truth.shape, (1.0, 1.0, 2.0), "RAS", voxels,
                                 f"{number}a", f"{number}b"))
    write_index(WORK / "index.json", Index("tiny", ROOT.as_posix(), "CT", "CC0-1.0", LABELS, tuple(cases)))


def write_predictions(bundle_root: Path, scans: Mapping[str, Path], *, output_dir: Path,
                      observer: Callable[..., None]) -> list[object]:
    """Stands in for `pipeline.bundle.segment`: writes what is known by hand, and loses t3.

    Every voxel's label has the probability 0.8. Of t1 it says that it is not sure.
    """
    assert bundle_root == WORK / "bundle"
    lines = []
    for name, path in scans.items():
        assert path.is_file()
        if name in PREDICTIONS:
            depth = 1 if _is_flat(path) else SHAPE[2]
            labelmap = _cut(PREDICTIONS[name], depth)
            write_scan(output_dir / name / "segmentation.nii.gz", labelmap, AFFINE)
            observer(name, labelmap, [np.where(labelmap == value, 0.8, 0.1) for value in (0, ORGAN, LESION)])
            report = {"input": path.name, "input_state": str(path.stat().st_mtime_ns), "seconds": {"read": 0.1},
                      "low_confidence": name == "t1",
                      "labels": {label: {"expected_dice": EXPECTED.get((name, label))} for label in LABELS}}
            (output_dir / name / "report.json").write_text(json.dumps(report))
        lines.append({"input": path.name, "status": "ok" if name in PREDICTIONS else "failed",
                      "message": None if name in PREDICTIONS else "its gzip ends early",
                      "seconds": 0.1})
    (output_dir / "summary.json").write_text(json.dumps({"scans": lines}))
    (output_dir / "summary.csv").write_text("input,seconds\n")
    return lines


def _cut(array: np.ndarray, depth: int) -> np.ndarray:
    return array if depth == SHAPE[2] else array[:, :, 1 : 1 + depth]


def _is_flat(path: Path) -> bool:
    import nibabel as nib

    return nib.load(path).shape[2] == 1
