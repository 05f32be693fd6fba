"""bundle, index -> predictions/, cases.csv, lesions.csv, metrics.json, plots/: scores in each scan's native space."""

import csv
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import bundle
from pipeline.calibration import MARGIN_VOXELS, Reliability
from pipeline.engine.results import RunFacts, write_summary
from pipeline.imaging.grids import AFFINE_ROUNDING_MM
from pipeline.imaging.image_files import read_label_map
from pipeline.imaging.scans import Scan
from pipeline.metrics import find_lesions, score_label
from pipeline.records.bundles import joint_digest, recorded_digests
from pipeline.records.errors import InputError
from pipeline.records.evaluation_checks import check_evaluation_settings
from pipeline.records.files import folder_written_aside, write_json
from pipeline.records.folders import ExperimentFolders, segmentation_in
from pipeline.records.index import Index, IndexedCase, main_split, read_index
from pipeline.records.settings import CONFIGS, EvaluationSettings, read_evaluation_settings
from pipeline.records.split_metrics import SCORED_SPLITS, summarise
from pipeline.records.summaries import rank_cases
from pipeline.records.tables import CalibrationStep, CaseScore, LesionScore, write_metrics, write_table
from pipeline.surfaces import bounding_box


def run(experiment: str) -> None:
    """Segments validation and test scans through the shipped inference path, and scores them.

    With folds every case that is not tested on is a validation case: of the network that did not see it.

    Raises:
        InputError: no case to score, a setting that does not fit the data, a prediction on another grid.
    """
    folders = ExperimentFolders(experiment)
    index = read_index(folders.index)
    settings = read_evaluation_settings(experiment)
    check_evaluation_settings(settings, index, CONFIGS / experiment / "evaluation.yaml")
    cases = cases_to_score(index)
    if not cases:
        raise InputError(folders.index, found="no validation or test case", wanted="at least one", reason="no-cases",
                         remedy="raise `split` in data.yaml or add patients")
    calibration = CalibrationCheck(index, {case.case_id: case for case in cases})
    with folder_written_aside(folders.predictions) as output_dir:
        segment = segment_out_of_fold if index.folds else _segment
        segment(folders.bundle, cases, output_dir=output_dir, index=index, observer=calibration)
        if not any(segmentation_in(folder).is_file() for folder in output_dir.iterdir()):
            raise InputError(folders.bundle, found=f"all {len(cases)} scans failed", wanted="a bundle that segments",
                             remedy="the lines above say why; nothing was scored", reason="all-scans-lost")
        _leave_out_circumstances(output_dir)
    scores, lesions = score_cases(cases, folders.predictions, index=index, settings=settings)
    write_table(folders.case_table, CaseScore, scores)
    write_table(folders.lesion_table, LesionScore, lesions)
    write_table(folders.calibration_table, CalibrationStep, calibration.steps)
    metrics = summarise(scores, lesions, index=index, settings=settings)
    for split in metrics:
        metrics[split]["calibration"] = {"ece": calibration.by_split[split].ece}
    write_metrics(folders.metrics, metrics)
    main = main_split(index)
    with folder_written_aside(folders.plots) as plots:
        _write_plots(plots, [row for row in scores if row.split == main], metrics[main]["lesion_recall"])
        _write_plot(plots / "reliability.csv", ("confidence", "right"),
                    [(f"{sure:.6f}", f"{right:.6f}") for sure, right, _ in calibration.by_split[main].curve])
    dice, count, lost = (metrics[main][key] for key in ("dice", "cases", "failed"))
    print(f"evaluate: mean {'test' if main == 'test' else 'out-of-fold'} Dice {dice['mean']:.3f} over {count} cases, "
          f"{lost} lost; details in {folders.metrics}")


def cases_to_score(index: Index) -> list[IndexedCase]:
    """Returns validation and test cases; with folds all, those of the folds as validation cases."""
    if not index.folds:
        return [case for split in SCORED_SPLITS for case in index.in_split(split)]
    return [*(replace(case, split="validation") for case in index.in_split("train")), *index.in_split("test")]


def _segment(bundle_root: Path, cases: Iterable[IndexedCase], *, output_dir: Path, index: Index,
             **overrides: Any) -> list[Any]:
    scans = {case.case_id: Path(index.root) / case.image for case in cases}
    return bundle.segment(bundle_root, scans, output_dir=output_dir, **overrides)


def segment_out_of_fold(bundle_root: Path, cases: Sequence[IndexedCase], *, output_dir: Path, index: Index,
                        **overrides: Any) -> None:
    """Segments each case of a fold by the ensemble's member that did not see it, test cases by all members.

    The summaries are of all of them.
    """
    results = []
    for fold in range(index.folds):
        of_fold = [case for case in cases if case.fold == fold]
        results += _segment(bundle_root, of_fold, output_dir=output_dir, index=index, members=[fold], **overrides)
    tested = [case for case in cases if case.fold is None]
    if tested:
        results += _segment(bundle_root, tested, output_dir=output_dir, index=index, **overrides)
    digest = joint_digest(list(recorded_digests(bundle_root).values()))
    labels = sorted(index.labels, key=index.labels.__getitem__)
    write_summary(output_dir, results, RunFacts(digest, len(cases), {}, labels))


@dataclass
class CalibrationCheck:
    """Compares, scan by scan as they are segmented, how sure the model is of each voxel's label with the truth.

    In a box around both, `MARGIN_VOXELS` wider.
    """

    index: Index
    cases: Mapping[str, IndexedCase]
    by_split: dict[str, Reliability] = field(default_factory=lambda: {split: Reliability() for split in SCORED_SPLITS})

    def __call__(self, name: str, labelmap: NDArray[np.integer[Any]],
                 probabilities: Sequence[NDArray[np.float32]]) -> None:
        """Takes one scan: `Segmented` explains the arguments."""
        case, values = self.cases[name], sorted(self.index.labels.values())
        truth = read_label_map(Path(self.index.root) / case.label).array
        true = (truth > 0) * values[0] if self.index.are_instances else np.rint(truth)
        tight = bounding_box((true > 0) | (labelmap > 0))
        if tight is None:
            return
        box = tuple(slice(max(0, part.start - MARGIN_VOXELS), part.stop + MARGIN_VOXELS) for part in tight)
        given = labelmap[box]
        of_class = np.stack([probability[box] for probability in probabilities])
        sure = np.take_along_axis(of_class, np.searchsorted([0, *values], given)[None], axis=0)[0]
        self.by_split[case.split].add(sure, given == true[box])

    @property
    def steps(self) -> list[CalibrationStep]:
        """The rows of calibration.csv."""
        return [CalibrationStep(split, *step) for split in SCORED_SPLITS for step in self.by_split[split].curve]


def score_cases(cases: Iterable[IndexedCase], predictions: Path, *, index: Index,
                settings: EvaluationSettings) -> tuple[list[CaseScore], list[LesionScore]]:
    """Returns the scores of all cases by label and region, and their lesions; one without prediction counts as missed.

    Raises:
        InputError: ``other-grid``: a prediction is not on the grid of its truth.
    """
    scores: list[CaseScore] = []
    lesions: list[LesionScore] = []
    for case in cases:
        truth = read_label_map(Path(index.root) / case.label)
        # Of pictures the index alone knows the spacing.
        spacing_mm = truth.spacing_mm if truth.picture is None else case.spacing_mm
        path = segmentation_in(predictions / case.case_id)
        prediction = read_label_map(path) if path.is_file() else None
        expected, is_unsure = _said_by_inference(predictions / case.case_id)
        if prediction is not None:
            _check_same_grid(path, prediction, truth)
        for label, values in _values(index, settings).items():
            true_mask = truth.array > 0 if index.are_instances else _mask(truth, values)
            predicted_mask = np.zeros_like(true_mask) if prediction is None else _mask(prediction, values)
            score = score_label(true_mask, predicted_mask, spacing_mm=spacing_mm,
                                tolerance_mm=settings.tolerance_mm(label))
            row = CaseScore(case.case_id, case.patient, case.split, label, label in settings.regions,
                            expected_dice=expected.get(label, math.nan), low_confidence=is_unsure, **asdict(score))
            scores.append(row if prediction is not None else _as_failed(row))
            if label in settings.lesion_labels:
                found = find_lesions(true_mask, predicted_mask, spacing_mm=spacing_mm)
                lesions += [LesionScore(case.case_id, case.split, label, lesion.volume_ml, lesion.diameter_mm,
                                        *lesion.position, found=lesion.is_found) for lesion in found]
    return scores, lesions


def _said_by_inference(folder: Path) -> tuple[dict[str, float], bool]:
    """Returns the expected Dice by label, and whether the result is to be looked at; nothing where there is none."""
    path = folder / "report.json"
    if not path.is_file():
        return {}, False
    report = json.loads(path.read_text(encoding="utf-8"))
    expected = {name: numbers.get("expected_dice") for name, numbers in report["labels"].items()}
    return {name: value for name, value in expected.items() if value is not None}, bool(report["low_confidence"])


def _as_failed(row: CaseScore) -> CaseScore:
    """A lost scan is never an advantage: all shares are 0, recall only where there was something to find."""
    return replace(row, dice=0.0, iou=0.0, precision=0.0, specificity=0.0, nsd=0.0,
                   recall=0.0 if row.truth_ml > 0 else math.nan, status="failed")


def _leave_out_circumstances(predictions: Path) -> None:
    """Removes what differs from run to run or folder to folder: how long each scan took, and where and when it lay."""
    (predictions / "summary.csv").unlink(missing_ok=True)
    summary = predictions / "summary.json"
    content = json.loads(summary.read_text(encoding="utf-8"))
    scans = [{key: value for key, value in scan.items() if key != "seconds"} for scan in content["scans"]]
    write_json(summary, {**content, "scans": scans})
    for path in predictions.glob("*/report.json"):
        report = json.loads(path.read_text(encoding="utf-8"))
        write_json(path, {key: value for key, value in report.items() if key not in ("seconds", "input_state")})


def _values(index: Index, settings: EvaluationSettings) -> dict[str, list[int]]:
    """Returns the values in a label map of each label, then of each region, which is a union of labels."""
    labels = {label: [value] for label, value in index.labels.items()}
    return labels | {name: [index.labels[part] for part in parts] for name, parts in settings.regions.items()}


def _mask(label_map: Scan, values: Collection[int]) -> NDArray[np.bool_]:
    # Label maps come as float32, and other software writes 1.0000001 for 1.
    is_any: NDArray[np.bool_] = np.any([np.abs(label_map.array - value) < 0.5 for value in values], axis=0)
    return is_any


def _check_same_grid(path: Path, prediction: Scan, truth: Scan) -> None:
    same_shape = prediction.array.shape == truth.array.shape
    is_placed = truth.picture is None
    if not same_shape or (is_placed and not np.allclose(prediction.affine, truth.affine, atol=AFFINE_ROUNDING_MM)):
        found = f"shape {prediction.array.shape}, affine {prediction.affine[:3].round(3).tolist()}"
        wanted = f"the truth's shape {truth.array.shape}, affine {truth.affine[:3].round(3).tolist()}"
        raise InputError(path, found=found, wanted=wanted, reason="other-grid",
                         remedy="report it: inference must return the scan's own grid")


def _write_plots(folder: Path, scores: list[CaseScore], lesion_recall: dict[str, dict[str, float]]) -> None:
    """Writes the CSV files behind `dvc plots show`; undefined scores are left out."""
    ranked = [case for case in rank_cases(scores) if not math.isnan(case.dice)]
    _write_plot(folder / "dice_by_case.csv", ("rank", "case_id", "dice"),
                [(rank, case.case_id, f"{case.dice:.6f}") for rank, case in enumerate(ranked, start=1)])
    _write_plot(folder / "volumes.csv", ("case_id", "label", "truth_ml", "prediction_ml"),
                [(row.case_id, row.label, f"{row.truth_ml:.6f}", f"{row.prediction_ml:.6f}") for row in scores])
    for label, recalls in lesion_recall.items():
        _write_plot(folder / f"lesion_recall_{label}.csv", ("size", "recall"),
                    [(size, f"{recall:.6f}") for size, recall in recalls.items() if not math.isnan(recall)])


def _write_plot(path: Path, columns: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([columns, *rows])
