"""How sure a mean or a share is, and whether two runs differ: numbers in, intervals out.

Scans of one patient are alike, so patients are what is drawn again, never scans. Everything is seeded: the same scores
give the same intervals.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
SEED = 0
LEVEL = 0.95
# Of the normal distribution, for `LEVEL`.
Z = 1.959964

Scored = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class Interval:
    """A 95% interval; NaN at both ends where there is too little to tell."""

    low: float
    high: float


UNKNOWN = Interval(math.nan, math.nan)


def mean_intervals(scores: Mapping[str, Scored], *, overall: Sequence[str]) -> dict[str, Interval]:
    """Returns bootstrap percentile intervals of the mean of each label's scores, and of the mean over labels.

    Each resample draws as many patients as there are, with all their scans; a label's mean is over the scores that are
    defined (not NaN). An interval needs two patients with a score.

    Args:
        scores: by label, of each scan the patient and the score.
        overall: the labels whose means the entry `mean` is over.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    patients = sorted({patient for rows in scores.values() for patient, _ in rows})
    if not patients:
        return dict.fromkeys(("mean", *scores), UNKNOWN)
    draws = np.random.default_rng(SEED).multinomial(len(patients), [1 / len(patients)] * len(patients), RESAMPLES)
    means, intervals = {}, {}
    for label, rows in scores.items():
        totals, counts = _by_patient(rows, patients)
        means[label] = _ratios(draws @ totals, draws @ counts)
        intervals[label] = _percentiles(means[label]) if np.count_nonzero(counts) > 1 else UNKNOWN
    stacked = np.stack([means[label] for label in overall]) if overall else np.full((1, RESAMPLES), np.nan)
    is_defined = np.isfinite(stacked)
    mean = _ratios(np.where(is_defined, stacked, 0.0).sum(axis=0), is_defined.sum(axis=0))
    known = any(intervals[label] != UNKNOWN for label in overall)
    return {"mean": _percentiles(mean) if known else UNKNOWN, **intervals}


def share_interval(successes: int, trials: int) -> Interval:
    """Returns Wilson's score interval of a share, which stays within 0 and 1 and has a width for 0 of n, too.

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.

    >>> interval = share_interval(8, 10)
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.49, 0.943)
    """
    if not trials:
        return UNKNOWN
    share, spread = successes / trials, Z**2 / trials
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def _by_patient(rows: Scored, patients: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns for each patient the sum of the defined scores and how many they are."""
    totals, counts = np.zeros(len(patients)), np.zeros(len(patients))
    place = {patient: i for i, patient in enumerate(patients)}
    for patient, score in rows:
        if not math.isnan(score):
            totals[place[patient]] += score
            counts[place[patient]] += 1
    return totals, counts


def _ratios(totals: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.divide(totals, counts, out=np.full(len(totals), np.nan), where=counts > 0))


def _percentiles(values: NDArray[np.float64]) -> Interval:
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return Interval(float(low), float(high))
