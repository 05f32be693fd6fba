"""bundle, index -> predictions/, cases.csv, lesions.csv, metrics.json, plots/: scores in each scan's native space."""

import csv
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import bundle
from pipeline.engine.results import RunFacts, write_summary
from pipeline.imaging.grids import AFFINE_ROUNDING_MM
from pipeline.imaging.image_files import read_label_map
from pipeline.imaging.scans import Scan
from pipeline.metrics import find_lesions, score_label, size_class, size_classes
from pipeline.records.bundles import joint_digest, recorded_digests
from pipeline.records.errors import InputError
from pipeline.records.files import folder_written_aside, write_json
from pipeline.records.folders import ExperimentFolders, segmentation_in
from pipeline.records.index import Index, IndexedCase, Split, main_split, read_index
from pipeline.records.settings import CONFIGS, EvaluationSettings, read_evaluation_settings
from pipeline.records.summaries import mean_of_defined, rank_cases
from pipeline.records.tables import CaseScore, LesionScore, write_metrics, write_table

SCORED_SPLITS: tuple[Split, ...] = ("validation", "test")


def run(experiment: str) -> None:
    """Segments validation and test scans through the shipped inference path, and scores them.

    With folds every case that is not tested on is a validation case: of the network that did not see it.

    Raises:
        InputError: no case to score, a setting that does not fit the data, a prediction on another grid.
    """
    folders = ExperimentFolders(experiment)
    index = read_index(folders.index)
    settings = read_evaluation_settings(experiment)
    _check_settings(settings, index, CONFIGS / experiment / "evaluation.yaml")
    cases = cases_to_score(index)
    if not cases:
        raise InputError(folders.index, found="no validation or test case", wanted="at least one", reason="no-cases",
                         remedy="raise `split` in data.yaml or add patients")
    with folder_written_aside(folders.predictions) as output_dir:
        segment = segment_out_of_fold if index.folds else _segment
        segment(folders.bundle, cases, output_dir=output_dir, index=index)
        if not any(segmentation_in(folder).is_file() for folder in output_dir.iterdir()):
            raise InputError(folders.bundle, found=f"all {len(cases)} scans failed", wanted="a bundle that segments",
                             remedy="the lines above say why; nothing was scored", reason="all-scans-lost")
        _leave_out_circumstances(output_dir)
    scores, lesions = score_cases(cases, folders.predictions, index=index, lesion_labels=settings.lesion_labels)
    write_table(folders.case_table, CaseScore, scores)
    write_table(folders.lesion_table, LesionScore, lesions)
    metrics = summarise(scores, lesions, labels=tuple(index.labels), settings=settings)
    write_metrics(folders.metrics, metrics)
    main = main_split(index)
    with folder_written_aside(folders.plots) as plots:
        _write_plots(plots, [row for row in scores if row.split == main], metrics[main]["lesion_recall"])
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


def segment_out_of_fold(bundle_root: Path, cases: Sequence[IndexedCase], *, output_dir: Path, index: Index) -> None:
    """Segments each case of a fold by the ensemble's member that did not see it, test cases by all members.

    The summaries are of all of them.
    """
    results = []
    for fold in range(index.folds):
        of_fold = [case for case in cases if case.fold == fold]
        results += _segment(bundle_root, of_fold, output_dir=output_dir, index=index, members=[fold])
    tested = [case for case in cases if case.fold is None]
    if tested:
        results += _segment(bundle_root, tested, output_dir=output_dir, index=index)
    digest = joint_digest(list(recorded_digests(bundle_root).values()))
    labels = sorted(index.labels, key=index.labels.__getitem__)
    write_summary(output_dir, results, RunFacts(digest, len(cases), {}, labels))


def score_cases(cases: Iterable[IndexedCase], predictions: Path, *, index: Index,
                lesion_labels: tuple[str, ...]) -> tuple[list[CaseScore], list[LesionScore]]:
    """Returns the scores of all cases, label by label, and their lesions; a case without prediction counts as missed.

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
        if prediction is not None:
            _check_same_grid(path, prediction, truth)
        for label, value in index.labels.items():
            true_mask = truth.array > 0 if index.are_instances else _mask(truth, value)
            predicted_mask = np.zeros_like(true_mask) if prediction is None else _mask(prediction, value)
            score = score_label(true_mask, predicted_mask, spacing_mm=spacing_mm)
            row = CaseScore(case.case_id, case.patient, case.split, label, **asdict(score))
            scores.append(row if prediction is not None else _as_failed(row))
            if label in lesion_labels:
                found = find_lesions(true_mask, predicted_mask, spacing_mm=spacing_mm)
                lesions += [LesionScore(case.case_id, case.split, label, lesion.volume_ml, lesion.diameter_mm,
                                        *lesion.position, found=lesion.is_found) for lesion in found]
    return scores, lesions


def summarise(scores: list[CaseScore], lesions: list[LesionScore], *, labels: tuple[str, ...],
              settings: EvaluationSettings) -> dict[str, Any]:
    """Returns metrics.json's content: per split, nested by metric and label; what is undefined is NaN.

    ``mean`` is the mean over labels of the mean over cases whose score is defined. ``dice_where_present`` leaves out
    the cases whose truth lacks the label, which ``dice`` counts as 0 where the prediction has it.
    """
    return {split: _summarise_split([row for row in scores if row.split == split],
                                    [lesion for lesion in lesions if lesion.split == split], labels, settings)
            for split in reversed(SCORED_SPLITS)}


def _summarise_split(scores: list[CaseScore], lesions: list[LesionScore], labels: tuple[str, ...],
                     settings: EvaluationSettings) -> dict[str, Any]:
    def counts(claim: Callable[[CaseScore], bool]) -> dict[str, int]:
        return {label: sum(claim(row) for row in scores if row.label == label) for label in labels}

    present = [row for row in scores if row.truth_ml > 0]
    return {
        "cases": len({row.case_id for row in scores}),
        "failed": len({row.case_id for row in scores if row.status == "failed"}),
        **{name: _means(scores, name, labels) for name in ("dice", "recall", "precision", "hd95_mm")},
        "dice_where_present": _means(present, "dice", labels),
        "present": counts(lambda row: row.truth_ml > 0),
        "empty": counts(lambda row: row.status == "both empty"),
        "truth_empty": counts(lambda row: row.status == "truth empty"),
        "prediction_empty": counts(lambda row: row.status == "prediction empty"),
        "hd95_undefined": counts(lambda row: row.status != "both empty" and math.isnan(row.hd95_mm)),
        "false_positive_ml": {label: math.fsum(row.prediction_ml for row in scores
                                               if row.label == label and row.status == "truth empty")
                              for label in labels},
        "false_positive_components": {label: sum(row.false_positive_components for row in scores if row.label == label)
                                      for label in labels},
        "lesions": {label: _by_size(lesions, label, settings.lesion_diameters_mm, len)
                    for label in settings.lesion_labels},
        "lesion_recall": {label: _by_size(lesions, label, settings.lesion_diameters_mm, _share_found)
                          for label in settings.lesion_labels},
    }


def _means(scores: list[CaseScore], metric: str, labels: tuple[str, ...]) -> dict[str, float]:
    by_label = {label: mean_of_defined(getattr(row, metric) for row in scores if row.label == label)
                for label in labels}
    return {"mean": mean_of_defined(by_label.values()), **by_label}


def _by_size(lesions: list[LesionScore], label: str, edges_mm: tuple[float, ...],
             measure: Callable[[list[LesionScore]], float]) -> dict[str, float]:
    """Returns `measure` of all lesions of a label and of each size class; open classes only where they have lesions."""
    of_label = [lesion for lesion in lesions if lesion.label == label]
    classes = size_classes(edges_mm)
    grouped = {name: [lesion for lesion in of_label if size_class(lesion.diameter_mm, edges_mm) == name]
               for name in classes}
    shown = {name: group for name, group in grouped.items() if group or name in classes[1:-1]}
    return {"all": measure(of_label), **{name: measure(group) for name, group in shown.items()}}


def _share_found(lesions: list[LesionScore]) -> float:
    return mean_of_defined(float(lesion.found) for lesion in lesions)


def _as_failed(row: CaseScore) -> CaseScore:
    """A lost scan is never an advantage: Dice and precision 0, and recall 0 where there was something to find."""
    return replace(row, dice=0.0, precision=0.0, recall=0.0 if row.truth_ml > 0 else math.nan, status="failed")


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


def _mask(label_map: Scan, value: int) -> NDArray[np.bool_]:
    # Label maps come as float32, and other software writes 1.0000001 for 1.
    return np.abs(label_map.array - value) < 0.5


def _check_same_grid(path: Path, prediction: Scan, truth: Scan) -> None:
    same_shape = prediction.array.shape == truth.array.shape
    is_placed = truth.picture is None
    if not same_shape or (is_placed and not np.allclose(prediction.affine, truth.affine, atol=AFFINE_ROUNDING_MM)):
        found = f"shape {prediction.array.shape}, affine {prediction.affine[:3].round(3).tolist()}"
        wanted = f"the truth's shape {truth.array.shape}, affine {truth.affine[:3].round(3).tolist()}"
        raise InputError(path, found=found, wanted=wanted, reason="other-grid",
                         remedy="report it: inference must return the scan's own grid")


def _check_settings(settings: EvaluationSettings, index: Index, path: Path) -> None:
    labels, edges, pictures = settings.lesion_labels, settings.lesion_diameters_mm, settings.pictures
    if not isinstance(labels, tuple) or any(label not in index.labels for label in labels):
        raise InputError(path, found=f"lesion_labels {_shown(labels)}", wanted=f"a list of {', '.join(index.labels)}",
                         remedy="name labels as the dataset does", reason="unknown-label")
    are_numbers = isinstance(edges, tuple) and all(isinstance(edge, (int, float)) for edge in edges)
    if not are_numbers or len(edges) < 2 or any(lower >= upper for lower, upper in pairwise(edges)):
        raise InputError(path, found=f"lesion_diameters_mm {_shown(edges)}", wanted="two or more rising numbers",
                         remedy="write for instance [3, 6, 10]", reason="bad-edges")
    if not isinstance(pictures, int) or pictures < 0:
        raise InputError(path, found=f"pictures {pictures}", wanted="a whole number, 0 or more",
                         remedy="write for instance 4", reason="bad-count")


def _shown(setting: object) -> object:
    return list(setting) if isinstance(setting, tuple) else setting


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
