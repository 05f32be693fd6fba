"""Intervals against those of scipy, and of so few patients that they are known by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.records.statistics import Interval, mean_intervals, share_interval


def test_an_interval_agrees_with_scipys_bootstrap() -> None:
    values = np.random.default_rng(5).beta(8, 2, 60)
    found = mean_intervals({"organ": [(f"p{i}", value) for i, value in enumerate(values)]}, overall=["organ"])
    wanted = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert (found["organ"].low, found["organ"].high) == pytest.approx((wanted.low, wanted.high), abs=0.003)
    assert found["mean"] == found["organ"]


def test_patients_are_drawn_not_scans() -> None:
    # Ten scans of one patient are worth one: the interval is that of two patients, who are drawn 0, 1 or 2 times.
    rows = [("a", 0.0)] * 10 + [("b", 1.0)]
    assert mean_intervals({"organ": rows}, overall=["organ"])["organ"] == Interval(0.0, 1.0)
    apart = mean_intervals({"organ": [(f"a{i}", 0.0) for i in range(10)] + [("b", 1.0)]}, overall=["organ"])["organ"]
    assert apart.high < 0.5


def test_undefined_scores_are_left_out_and_one_patient_has_no_interval() -> None:
    scores = {"organ": [("a", 0.5), ("b", 0.5), ("c", math.nan)], "lesion": [("a", 0.25), ("b", math.nan)]}
    found = mean_intervals(scores, overall=["organ", "lesion"])
    assert found["organ"] == Interval(0.5, 0.5)
    assert math.isnan(found["lesion"].low)
    assert all(math.isnan(end) for end in vars(mean_intervals({"organ": []}, overall=["organ"])["mean"]).values())


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (8, 10), (10, 10), (37, 120)])
def test_shares_agree_with_scipys_wilson_interval(successes: int, trials: int) -> None:
    wanted = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    found = share_interval(successes, trials)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-6)
    assert math.isnan(share_interval(0, 0).low)
