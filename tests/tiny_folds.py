"""The experiment of tiny_evaluation.py with two folds: v1 and a1 are segmented out of fold."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_evaluation
from tiny_evaluation import WORK, enter_experiment, write_predictions

from pipeline.engine.results import ScanResult
from pipeline.records.index import read_index, write_index

FOLDS = {"v1": 0, "a1": 1}


def enter_folds(folder: Path, monkeypatch: pytest.MonkeyPatch, *, keeps_tests: bool = True) -> None:
    """Makes the experiment `tiny` with folds; without tests those cases are of fold 0."""
    enter_experiment(folder, monkeypatch)
    index = read_index(WORK / "index.json")
    folds = FOLDS if keeps_tests else {case.case_id: FOLDS.get(case.case_id, 0) for case in index.cases}
    cases = (replace(case, split="train" if case.case_id in folds else "test", fold=folds.get(case.case_id))
             for case in index.cases)
    write_index(WORK / "index.json", replace(index, cases=tuple(cases)))


class Segmenting:
    """Stands in for `pipeline.bundle.segment`: what is known by hand, and who was asked for which case."""

    def __init__(self) -> None:
        self.asked: dict[str, Sequence[int] | None] = {}

    def __call__(self, bundle_root: Path, scans: Mapping[str, Path], *, output_dir: Path,
                 observer: Callable[..., None], members: Sequence[int] | None = None) -> list[ScanResult]:
        """Segments as `write_predictions` does."""
        assert not set(scans) & set(self.asked), "each case once"
        self.asked |= dict.fromkeys(scans, members)
        write_predictions(bundle_root, scans, output_dir=output_dir, observer=observer)
        known = tiny_evaluation.PREDICTIONS
        return [ScanResult(name, path.name, "ok", output_dir / name, None, None, {}, {}, {}) if name in known else
                ScanResult(name, path.name, "failed", None, "damaged", "its gzip ends early", {}, {}, {})
                for name, path in scans.items()]


def summary() -> list[str]:
    """Returns the scans in predictions/summary.json."""
    return [scan["input"] for scan in json.loads((WORK / "predictions/summary.json").read_text())["scans"]]
