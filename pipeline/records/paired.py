"""Whether two runs differ: their scores of the same scans in, differences with intervals and p-values out.

What is drawn, and whose sign is exchanged, are patients: scans and labels of one patient are alike. A difference is
that of the means in metrics.json: over scans, then over labels. Everything is seeded.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.records.split_metrics import OVERALL
from pipeline.records.statistics import SEED, Interval, mean_intervals
from pipeline.records.tables import CaseScore, of_labels

# Metrics in which two runs can be compared; of distances less is better.
HIGHER_IS_BETTER = {"dice": True, "recall": True, "precision": True, "iou": True, "nsd": True, "hd95_mm": False,
                    "assd_mm": False}
# What neither has is perfect where the other run has found some of it.
ONE_WHERE_ABSENT = ("dice", "iou", "nsd")
SIGNS = 9999
SIGNIFICANT = 0.05

Key = tuple[str, str]


@dataclass(frozen=True)
class Difference:
    """How the scores of run B differ from those of run A in one metric, of one label or of the mean over labels.

    `change` is the mean of B minus A over `pairs` of scores of `patients`, `interval` its 95% interval by bootstrap.
    `p_value` is that of a permutation test that exchanges the runs patient by patient; `p_holm` is corrected for the
    number of labels. `effect` is the matched-pairs rank-biserial correlation, -1 (A better in all patients) to 1 (B).
    `better` and `worse` count the patients whom B serves better and worse. NaN where it cannot be told.
    """

    metric: str
    label: str
    pairs: int
    patients: int
    mean_a: float
    mean_b: float
    change: float
    interval: Interval
    p_value: float
    p_holm: float
    effect: float
    better: int
    worse: int

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, or that no difference is shown: by interval and corrected p-value."""
        if not (self.p_holm < SIGNIFICANT and self.interval.low * self.interval.high > 0):
            return "no difference shown"
        return "better" if (self.change > 0) == HIGHER_IS_BETTER[self.metric] else "worse"


@dataclass(frozen=True)
class _Pair:
    patient: str
    a: float
    b: float


def compare_runs(run_a: Sequence[CaseScore], run_b: Sequence[CaseScore], metric: str) -> tuple[Difference, ...]:
    """Returns the difference of the mean over labels first, then those of each label and region that both runs have.

    Pairs are the scans that both tables hold. A scan in which a label is neither there nor predicted by one run counts
    as 1 for that run's Dice, IoU and surface Dice if the other predicted it; any other score that one of the runs lacks
    leaves its pair out.

    Source: Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 2005; Kerby 2014, doi:10.2466/11.IT.3.1;
    Holm 1979, Scandinavian Journal of Statistics 6.
    """
    pairs = _pairs(run_a, run_b, metric)
    labels = [label for label in pairs if label in {row.label for row in of_labels(run_a)}]
    intervals = mean_intervals({label: [(pair.patient, pair.b - pair.a) for pair in rows]
                                for label, rows in pairs.items()}, overall=labels)
    shares = {label: _shares(rows) for label, rows in pairs.items()}
    single = {label: _difference(metric, label, rows, shares[label], intervals[label]) for label, rows in pairs.items()}
    corrected = _holm({label: one.p_value for label, one in single.items()})
    by_label = tuple(replace(one, p_holm=corrected[label]) for label, one in single.items())
    if not labels:
        return by_label
    patients = {patient for label in labels for patient in shares[label]}
    of_all = {patient: sum(shares[label].get(patient, 0.0) for label in labels) / len(labels) for patient in patients}
    overall = _difference(metric, OVERALL, [pair for label in labels for pair in pairs[label]], of_all,
                          intervals[OVERALL])
    mean_a, mean_b = (float(np.mean([getattr(single[label], name) for label in labels]))
                      for name in ("mean_a", "mean_b"))
    return (replace(overall, mean_a=mean_a, mean_b=mean_b), *by_label)


def markdown_of(differences: Sequence[Difference]) -> str:
    """Returns a Markdown table, a line for each difference."""
    lines = ["| metric | label | A | B | B − A | 95% interval | p | effect | patients better, worse | B is |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for one in differences:
        interval = "–" if math.isnan(one.interval.low) else f"{one.interval.low:+.4f} to {one.interval.high:+.4f}"
        cells = [one.metric, one.label, f"{one.mean_a:.4f}", f"{one.mean_b:.4f}", f"{one.change:+.4f}", interval,
                 f"{one.p_holm:.4f}", f"{one.effect:+.2f}", f"{one.better}, {one.worse} of {one.patients}", one.verdict]
        lines.append(f"| {' | '.join(cells)} |")
    return re.sub(r"-(?=\d)", "−", "\n".join(lines)) + "\n"


def _pairs(run_a: Sequence[CaseScore], run_b: Sequence[CaseScore], metric: str) -> dict[str, list[_Pair]]:
    """Returns the pairs of scores by label, labels in A's order; labels without a pair are left out."""
    rows_b: Mapping[Key, CaseScore] = {(row.case_id, row.label): row for row in run_b}
    pairs: dict[str, list[_Pair]] = {}
    for row in run_a:
        other = rows_b.get((row.case_id, row.label))
        if other is None:
            continue
        a, b = _defined(row, other, metric), _defined(other, row, metric)
        if not (math.isnan(a) or math.isnan(b)):
            pairs.setdefault(row.label, []).append(_Pair(row.patient, a, b))
    return pairs


def _defined(row: CaseScore, other: CaseScore, metric: str) -> float:
    score: float = getattr(row, metric)
    is_rightly_silent = row.status == "both empty" and other.status != "both empty"
    return 1.0 if is_rightly_silent and metric in ONE_WHERE_ABSENT else score


def _shares(rows: Sequence[_Pair]) -> dict[str, float]:
    """Returns each patient's share of the mean difference: they add up to it."""
    shares: dict[str, float] = {}
    for pair in rows:
        shares[pair.patient] = shares.get(pair.patient, 0.0) + (pair.b - pair.a) / len(rows)
    return shares


def _difference(metric: str, label: str, rows: Sequence[_Pair], shares: Mapping[str, float],
                interval: Interval) -> Difference:
    values = np.array([shares[patient] for patient in sorted(shares)])
    gains = values if HIGHER_IS_BETTER[metric] else -values
    p_value = _sign_test(values)
    return Difference(
        metric, label, len(rows), len(values), mean_a=float(np.mean([pair.a for pair in rows])),
        mean_b=float(np.mean([pair.b for pair in rows])), change=float(values.sum()), interval=interval,
        p_value=p_value, p_holm=p_value, effect=_rank_biserial(gains), better=int((gains > 0).sum()),
        worse=int((gains < 0).sum()))


def _sign_test(values: NDArray[np.float64]) -> float:
    """Returns how often signs drawn at random make the sum as far from 0, exactly where there are few patients."""
    if len(values) < 2 or not np.any(values):
        return 1.0
    result = stats.permutation_test((values,), lambda drawn, axis: drawn.sum(axis=axis), permutation_type="samples",
                                    n_resamples=SIGNS, vectorized=True, rng=np.random.default_rng(SEED))
    return min(1.0, float(result.pvalue))


def _rank_biserial(gains: NDArray[np.float64]) -> float:
    gains = gains[gains != 0]
    if not len(gains):
        return 0.0
    ranks = stats.rankdata(np.abs(gains))
    return float((ranks[gains > 0].sum() - ranks[gains < 0].sum()) / ranks.sum())


def _holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Returns p-values corrected for how many they are.

    >>> _holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'b': 0.06, 'c': 0.06}
    """
    corrected, least = {}, 0.0
    for place, label in enumerate(sorted(p_values, key=p_values.__getitem__)):
        least = max(least, min(1.0, p_values[label] * (len(p_values) - place)))
        corrected[label] = least
    return {label: corrected[label] for label in p_values}
