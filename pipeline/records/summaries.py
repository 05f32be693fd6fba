"""What index and tables of scores say: by split, by label, by case, and in a few sentences."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from pipeline.records.index import Index, IndexedCase
from pipeline.records.tables import CaseScore, of_labels


@dataclass(frozen=True)
class Spread:
    """Mean, median and worst of the defined values, and how many they are; NaN where there are none."""

    mean: float
    median: float
    worst: float
    count: int


@dataclass(frozen=True)
class LabelSummary:
    """One label over cases. `present` counts cases whose truth has it.

    `volume_bias` is the predicted volume of all cases over their true volume, minus 1.
    """

    label: str
    present: int
    dice: Spread
    recall: Spread
    precision: Spread
    hd95_mm: Spread
    nsd: Spread
    volume_bias: float


@dataclass(frozen=True)
class CaseSummary:
    """One case: its scores by label, and `dice`, the mean of the defined ones over labels."""

    case_id: str
    dice: float
    scores: tuple[CaseScore, ...]

    @property
    def is_failed(self) -> bool:
        """Whether inference gave no segmentation."""
        return any(score.status == "failed" for score in self.scores)


@dataclass(frozen=True)
class GroupSummary:
    """How much a split or a fold holds; `cases_with` counts the cases whose truth has a label, by its name."""

    name: str
    patients: int
    cases: int
    cases_with: dict[str, int]


def mean_of_defined(values: Iterable[float]) -> float:
    """Returns the mean of the values that are not NaN; NaN where none is left.

    >>> mean_of_defined([0.5, math.nan, 1.0])
    0.75
    """
    defined = [value for value in values if not math.isnan(value)]
    return fmean(defined) if defined else math.nan


def spread_of_defined(values: Iterable[float], *, worst: Callable[[Sequence[float]], float]) -> Spread:
    """Returns mean, median and worst (`min` or `max`) of the values that are not NaN."""
    defined = [value for value in values if not math.isnan(value)]
    if not defined:
        return Spread(math.nan, math.nan, math.nan, 0)
    return Spread(fmean(defined), median(defined), worst(defined), len(defined))


def size_class(diameter_mm: float, edges_mm: tuple[float, ...]) -> str:
    """Returns the name of the size class, ``3-6 mm`` for 3 <= diameter < 6; open classes lie beyond the edges."""
    if diameter_mm < edges_mm[0]:
        return f"under {edges_mm[0]:g} mm"
    for lower, upper in pairwise(edges_mm):
        if diameter_mm < upper:
            return f"{lower:g}-{upper:g} mm"
    return f"{edges_mm[-1]:g} mm or more"


def size_classes(edges_mm: tuple[float, ...]) -> tuple[str, ...]:
    """Returns the names of all size classes, smallest first, the open ones at both ends included."""
    return tuple(size_class(diameter, edges_mm) for diameter in (-math.inf, *edges_mm))


def summarise_label(label: str, scores: Iterable[CaseScore]) -> LabelSummary:
    """Returns what the rows of one label say; rows of other labels are passed over."""
    rows = [row for row in scores if row.label == label]
    true_ml, predicted_ml = sum(row.truth_ml for row in rows), sum(row.prediction_ml for row in rows)
    return LabelSummary(
        label=label,
        present=sum(row.truth_ml > 0 for row in rows),
        dice=spread_of_defined((row.dice for row in rows), worst=min),
        recall=spread_of_defined((row.recall for row in rows), worst=min),
        precision=spread_of_defined((row.precision for row in rows), worst=min),
        hd95_mm=spread_of_defined((row.hd95_mm for row in rows), worst=max),
        nsd=spread_of_defined((row.nsd for row in rows), worst=min),
        volume_bias=predicted_ml / true_ml - 1.0 if true_ml > 0 else math.nan,
    )


def rank_cases(scores: Iterable[CaseScore]) -> tuple[CaseSummary, ...]:
    """Returns the cases, lowest mean Dice of their labels first; those without any defined Dice come last."""
    by_case: dict[str, list[CaseScore]] = {}
    for row in scores:
        by_case.setdefault(row.case_id, []).append(row)
    cases = [CaseSummary(case_id, mean_of_defined(row.dice for row in of_labels(rows)), tuple(rows))
             for case_id, rows in by_case.items()]
    return tuple(sorted(cases, key=lambda case: (math.isnan(case.dice), case.dice, case.case_id)))


def worst_and_best(ranked: Sequence[CaseSummary], count: int) -> tuple[list[CaseSummary], list[CaseSummary]]:
    """Returns at most `count` worst (worst first) and best cases (best first); no case is in both.

    Of an odd number of few cases the middle one counts as bad. Cases that failed or have no Dice have no place here.
    """
    scored = [case for case in ranked if not case.is_failed and not math.isnan(case.dice)]
    worst = scored[: min(count, (len(scored) + 1) // 2)]
    best = scored[len(worst):][::-1][:count]
    return worst, best


def summarise_group(name: str, cases: Sequence[IndexedCase], index: Index) -> GroupSummary:
    """Returns what one of the index's groups holds."""
    cases_with = {label: sum(case.label_voxels.get(label, 0) > 0 for case in cases) for label in index.labels}
    return GroupSummary(name, len({case.patient for case in cases}), len(cases), cases_with)


def verdict(labels: Sequence[LabelSummary], ranked: Sequence[CaseSummary], *, found: int, lesions: int,
            kind: str = "test") -> str:
    """Returns the result in a few sentences: mean, weakest label, worst case, lesions found, scans lost.

    Args:
        labels: from `summarise_label`.
        ranked: the same cases from `rank_cases`.
        found: how many lesions were found.
        lesions: how many there are.
        kind: of the scores, `test` or `out-of-fold`.
    """
    scored = [summary for summary in labels if summary.dice.count]
    if not scored:
        return f"No {kind} case has a score."
    mean = mean_of_defined(summary.dice.mean for summary in scored)
    sentences = [f"Mean {kind} Dice {mean:.3f} over {len(ranked)} case{'s' if len(ranked) > 1 else ''}."]
    if len(scored) > 1:
        weakest = min(scored, key=lambda summary: summary.dice.mean)
        sentences.append(f"Weakest label: {weakest.label}, {weakest.dice.mean:.3f}.")
    sentences.append(f"Worst case: {ranked[0].case_id}, {ranked[0].dice:.3f}.")
    if lesions:
        sentences.append(f"{found} of {lesions} lesions found.")
    lost = sum(case.is_failed for case in ranked)
    if lost:
        sentences.append(f"{lost} of {len(ranked)} scans lost: inference failed.")
    return " ".join(sentences)
