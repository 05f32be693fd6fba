"""Tables of scores in, what metrics.json holds out: means with intervals, counts and shares, split by split."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import stdev
from typing import Any

import numpy as np

from pipeline.records.index import Index, Split
from pipeline.records.quality import foresight
from pipeline.records.settings import EvaluationSettings
from pipeline.records.statistics import Interval, mean_intervals, share_interval
from pipeline.records.subgroups import NONE, USUAL, group_scores
from pipeline.records.summaries import mean_of_defined, size_class, size_classes
from pipeline.records.tables import CaseScore, LesionScore, of_labels

SCORED_SPLITS: tuple[Split, ...] = ("validation", "test")
# What stands beside the labels in each metric.
OVERALL = "mean"
MEANS = ("dice", "iou", "recall", "precision", "specificity", "hd95_mm", "assd_mm", "nsd", "volume_error")
WITH_INTERVALS = ("dice", "recall", "precision", "nsd")
WITH_QUARTILES = (*WITH_INTERVALS, "hd95_mm")


def summarise(scores: Sequence[CaseScore], lesions: Sequence[LesionScore], *, index: Index,
              settings: EvaluationSettings) -> dict[str, Any]:
    """Returns metrics.json's content: per split, nested by metric and label; what is undefined is NaN.

    ``mean`` is the mean over labels of the mean over cases whose score is defined; ``intervals`` are of these means.
    Regions stand beside the labels, and are no part of ``mean``.
    ``dice_where_present`` leaves out the cases whose truth lacks the label, which ``dice`` counts as 0 where the
    prediction has it.
    """
    return {split: _summarise_split([row for row in scores if row.split == split],
                                    [lesion for lesion in lesions if lesion.split == split], index, settings)
            for split in reversed(SCORED_SPLITS)}


def _summarise_split(scores: Sequence[CaseScore], lesions: Sequence[LesionScore], index: Index,
                     settings: EvaluationSettings) -> dict[str, Any]:
    labels = tuple(index.labels)
    by_label = _by_label(scores, (*labels, *settings.regions))

    def counts(claim: Callable[[CaseScore], bool]) -> dict[str, int]:
        return {label: sum(map(claim, rows)) for label, rows in by_label.items()}

    present = {label: [row for row in rows if row.truth_ml > 0] for label, rows in by_label.items()}
    return {
        "cases": len({row.case_id for row in scores}),
        "failed": len({row.case_id for row in scores if row.status == "failed"}),
        **{name: _means(by_label, name, labels) for name in MEANS},
        "dice_where_present": _means(present, "dice", labels),
        "intervals": {name: {label: asdict(interval) for label, interval in _intervals(by_label, name, labels).items()}
                      for name in WITH_INTERVALS},
        "quartiles": {name: {label: _quartiles([getattr(row, name) for row in rows])
                             for label, rows in by_label.items()} for name in WITH_QUARTILES},
        "subgroups": _subgroups(of_labels(scores), index, settings),
        "between_folds": _between_folds(of_labels(scores), index),
        "foresight": asdict(foresight(scores, settings.low_dice)),
        "present": counts(lambda row: row.truth_ml > 0),
        "empty": counts(lambda row: row.status == "both empty"),
        "truth_empty": counts(lambda row: row.status == "truth empty"),
        "prediction_empty": counts(lambda row: row.status == "prediction empty"),
        "hd95_undefined": counts(lambda row: row.status != "both empty" and math.isnan(row.hd95_mm)),
        "false_positive_ml": {label: math.fsum(row.prediction_ml for row in rows if row.status == "truth empty")
                              for label, rows in by_label.items()},
        "false_positive_components": {label: sum(row.false_positive_components for row in rows)
                                      for label, rows in by_label.items()},
        "detection": {label: _detection(rows) for label, rows in by_label.items()},
        "lesions": {label: _by_size(lesions, label, settings.lesion_diameters_mm, len)
                    for label in settings.lesion_labels},
        "lesion_recall": {label: _by_size(lesions, label, settings.lesion_diameters_mm, _share_found)
                          for label in settings.lesion_labels},
        "lesion_detection": {label: _lesion_detection([lesion for lesion in lesions if lesion.label == label],
                                                      by_label[label]) for label in settings.lesion_labels},
    }


def _means(scores: Mapping[str, Sequence[CaseScore]], metric: str, labels: tuple[str, ...]) -> dict[str, float]:
    by_label = {label: mean_of_defined(getattr(row, metric) for row in rows) for label, rows in scores.items()}
    return {OVERALL: mean_of_defined(by_label[label] for label in labels), **by_label}


def _quartiles(scores: Sequence[float]) -> dict[str, float]:
    """Returns the quartiles of the defined scores with both ends, by interpolation between neighbours."""
    defined = [score for score in scores if not math.isnan(score)]
    values = np.percentile(defined, (0, 25, 50, 75, 100)) if defined else [math.nan] * 5
    return dict(zip(("min", "q1", "median", "q3", "max"), map(float, values), strict=True))


def _subgroups(rows: Sequence[CaseScore], index: Index, settings: EvaluationSettings) -> dict[str, Any]:
    """Returns for each column and each of its groups how much it holds, and mean Dice and recall with intervals.

    A column that was not asked for is left out where it is the same in all scans.
    """
    cases = {case.case_id: case for case in index.cases}
    usual = (*USUAL, *sorted({name for case in index.cases for name in case.attributes}))
    columns = usual if settings.subgroups is None else settings.subgroups
    grouped = {column: group_scores(rows, cases, column) for column in columns}
    return {column: {name: _summarise_group(group, tuple(index.labels)) for name, group in groups.items() if group}
            for column, groups in grouped.items() if settings.subgroups is not None or len(groups) > 1}


def _between_folds(rows: Sequence[CaseScore], index: Index) -> dict[str, float]:
    """Returns the standard deviation of the folds' mean Dice and recall; NaN where there are no two folds."""
    labels = tuple(index.labels)
    groups = group_scores(rows, {case.case_id: case for case in index.cases}, "fold") if index.folds else {}
    folds = [_by_label(group, labels) for name, group in groups.items() if name != NONE]
    means = {name: [_means(fold, name, labels)[OVERALL] for fold in folds] for name in ("dice", "recall")}
    return {name: stdev(values) if len(values) > 1 else math.nan for name, values in means.items()}


def _summarise_group(rows: Sequence[CaseScore], labels: tuple[str, ...]) -> dict[str, Any]:
    by_label = _by_label(rows, labels)
    summary: dict[str, Any] = {"cases": len({row.case_id for row in rows}),
                               "patients": len({row.patient for row in rows})}
    for name in ("dice", "recall"):
        interval = _intervals(by_label, name, labels)[OVERALL]
        summary[name] = {OVERALL: _means(by_label, name, labels)[OVERALL], **asdict(interval)}
    return summary


def _by_label(rows: Sequence[CaseScore], names: Sequence[str]) -> dict[str, list[CaseScore]]:
    return {name: [row for row in rows if row.label == name] for name in names}


def _intervals(by_label: Mapping[str, Sequence[CaseScore]], metric: str,
               labels: tuple[str, ...]) -> dict[str, Interval]:
    return mean_intervals({label: [(row.patient, getattr(row, metric)) for row in rows]
                           for label, rows in by_label.items()}, overall=labels)


def _detection(rows: Sequence[CaseScore]) -> dict[str, Any]:
    """Returns how often scans with the label have a prediction of it, and scans without it have none.

    A lost scan is neither: no prediction of it counts as right.
    """
    with_label = [row.status == "scored" for row in rows if row.truth_ml > 0]
    without = [row.status == "both empty" for row in rows if row.truth_ml == 0]
    return {name: {"share": mean_of_defined(map(float, found)), **asdict(share_interval(sum(found), len(found))),
                   "scans": len(found)} for name, found in (("sensitivity", with_label), ("specificity", without))}


def _lesion_detection(lesions: Sequence[LesionScore], rows: Sequence[CaseScore]) -> dict[str, float]:
    """Returns recall, precision and F1 of lesions, and false ones a scan; a predicted part that touches one is right.

    F1 is undefined where there are neither lesions nor predicted parts. False ones are counted over the scans that were
    segmented: a lost scan has none, and must not be of use.
    """
    parts, wrong = (sum(getattr(row, name) for row in rows)
                    for name in ("prediction_components", "false_positive_components"))
    segmented = sum(row.status != "failed" for row in rows)
    recall, precision = _share_found(lesions), 1 - wrong / parts if parts else math.nan
    if recall > 0 and precision > 0:
        f1 = 2 * recall * precision / (recall + precision)
    else:
        f1 = 0.0 if lesions or parts else math.nan
    return {"recall": recall, "precision": precision, "f1": f1,
            "false_positives_per_scan": wrong / segmented if segmented else math.nan}


def _by_size(lesions: Sequence[LesionScore], label: str, edges_mm: tuple[float, ...],
             measure: Callable[[Sequence[LesionScore]], float]) -> dict[str, float]:
    """Returns `measure` of all lesions of a label and of each size class; open classes only where they have lesions."""
    of_label = [lesion for lesion in lesions if lesion.label == label]
    classes = size_classes(edges_mm)
    grouped = {name: [lesion for lesion in of_label if size_class(lesion.diameter_mm, edges_mm) == name]
               for name in classes}
    shown = {name: group for name, group in grouped.items() if group or name in classes[1:-1]}
    return {"all": measure(of_label), **{name: measure(group) for name, group in shown.items()}}


def _share_found(lesions: Sequence[LesionScore]) -> float:
    return mean_of_defined(float(lesion.found) for lesion in lesions)
