"""Whether the expected Dice, which needs no truth, foretells a low Dice: cases in, area under the curve out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy import stats

from pipeline.records.summaries import mean_of_defined
from pipeline.records.tables import CaseScore, of_labels


@dataclass(frozen=True)
class Foretold:
    """One case: the mean over labels of the Dice it has and of the Dice that was expected."""

    case_id: str
    dice: float
    expected: float
    is_flagged: bool


@dataclass(frozen=True)
class Foresight:
    """How well low Dice is foretold over `cases`, `low` of which are below `low_dice`; NaN where it cannot be told.

    `auc` is the probability that of a low and another case the low one has the lower expected Dice. `bias` and
    `absolute_error` are means of expected minus real Dice. `flagged` counts the cases that were called not sure,
    `flagged_low` those among them that are low.
    """

    cases: int
    low: int
    low_dice: float
    auc: float
    rank_correlation: float
    bias: float
    absolute_error: float
    flagged: int
    flagged_low: int


def foretold_cases(rows: Sequence[CaseScore]) -> list[Foretold]:
    """Returns the cases that have both, in the order of the rows; lost scans have neither a picture nor a warning."""
    by_case: dict[str, list[CaseScore]] = {}
    for row in of_labels(rows):
        by_case.setdefault(row.case_id, []).append(row)
    cases = [Foretold(case_id, mean_of_defined(row.dice for row in group),
                      mean_of_defined(row.expected_dice for row in group), any(row.low_confidence for row in group))
             for case_id, group in by_case.items()]
    return [case for case in cases if not math.isnan(case.dice + case.expected)]


def low_dice_of(cases: Sequence[Foretold], given: float | None) -> float:
    """Returns up to what a Dice counts as low: what a person gave, or the lower quartile of the cases."""
    return given if given is not None else float(np.quantile([case.dice for case in cases], 0.25))


def foresight(rows: Sequence[CaseScore], low_dice: float | None = None) -> Foresight:
    """Returns how well the expected Dice foretells which cases are low.

    Source: area under the curve, Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747.
    """
    cases = foretold_cases(rows)
    if not cases:
        return Foresight(0, 0, math.nan if low_dice is None else low_dice, *(math.nan,) * 4, 0, 0)
    limit = low_dice_of(cases, low_dice)
    low = [case.expected for case in cases if case.dice <= limit]
    others = [case.expected for case in cases if case.dice > limit]
    wins = [(a < b) + (a == b) / 2 for a in low for b in others]
    flagged = [case for case in cases if case.is_flagged]
    errors = [case.expected - case.dice for case in cases]
    return Foresight(
        len(cases), len(low), limit, auc=fmean(wins) if wins else math.nan,
        rank_correlation=_rank_correlation(cases), bias=fmean(errors), absolute_error=fmean(map(abs, errors)),
        flagged=len(flagged), flagged_low=sum(case.dice <= limit for case in flagged))


def roc_curve(rows: Sequence[CaseScore], low_dice: float | None = None) -> list[tuple[float, float]]:
    """Returns (share of other cases, share of low cases) up to each threshold; empty where one kind is missing."""
    cases = foretold_cases(rows)
    if not cases:
        return []
    limit = low_dice_of(cases, low_dice)
    low = np.array([case.expected for case in cases if case.dice <= limit])
    others = np.array([case.expected for case in cases if case.dice > limit])
    if not len(low) or not len(others):
        return []
    thresholds = sorted({case.expected for case in cases})
    return [(0.0, 0.0), *((float((others <= at).mean()), float((low <= at).mean())) for at in thresholds)]


def _rank_correlation(cases: Sequence[Foretold]) -> float:
    dice, expected = ([getattr(case, name) for case in cases] for name in ("dice", "expected"))
    if len(set(dice)) < 2 or len(set(expected)) < 2:
        return math.nan
    return float(stats.spearmanr(dice, expected).statistic)
