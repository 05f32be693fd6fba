"""Foretelling low Dice, against scipy's test of ranks."""

import math

import numpy as np
import pytest
from scipy import stats
from tiny_scores import absent, score

from pipeline.records.confidence import least_quality
from pipeline.records.quality import foresight, foretold_cases, roc_curve


def test_the_area_under_the_curve_is_that_of_the_rank_test() -> None:
    random = np.random.default_rng(6)
    dice = random.uniform(0.4, 1.0, 60)
    expected = np.clip(dice + random.normal(0, 0.1, 60), 0, 1).round(2)
    rows = [score(f"c{i}", float(dice[i]), expected_dice=float(expected[i])) for i in range(60)]
    found = foresight(rows, low_dice=0.6)
    low = dice <= 0.6
    wanted = stats.mannwhitneyu(expected[~low], expected[low]).statistic / (low.sum() * (~low).sum())
    assert found.auc == pytest.approx(wanted)
    assert found.low == low.sum()
    assert found.rank_correlation == pytest.approx(stats.spearmanr(dice, expected).statistic)
    curve = np.array(roc_curve(rows, low_dice=0.6))
    assert np.trapezoid(curve[:, 1], curve[:, 0]) == pytest.approx(wanted)
    assert (tuple(curve[0]), tuple(curve[-1])) == ((0.0, 0.0), (1.0, 1.0))


def test_four_cases_by_hand() -> None:
    rows = [score("a", 0.2, expected_dice=0.5, low_confidence=True), score("b", 0.8, expected_dice=0.9),
            score("c", 0.9, expected_dice=0.4, low_confidence=True), score("d", 1.0, expected_dice=0.95)]
    found = foresight(rows, low_dice=0.5)
    # a is below b and d, and not below c.
    assert (found.cases, found.low, found.auc, found.flagged, found.flagged_low) == (4, 1, pytest.approx(2 / 3), 2, 1)
    assert found.bias == pytest.approx((0.3 + 0.1 - 0.5 - 0.05) / 4)
    assert found.absolute_error == pytest.approx((0.3 + 0.1 + 0.5 + 0.05) / 4)
    # The lower quartile lies between 0.2 and 0.8, three quarters of the way.
    assert foresight(rows).low_dice == pytest.approx(0.65)


def test_a_case_is_the_mean_of_its_labels_and_regions_and_lost_scans_have_no_part() -> None:
    rows = [score("a", 0.5, expected_dice=0.6), score("a", 0.9, label="lesion", expected_dice=0.8), absent("b"),
            score("a", 0.1, label="whole", is_region=True), score("lost", 0.0, status="failed")]
    (case,) = foretold_cases(rows)
    assert (case.case_id, case.dice, case.expected) == ("a", pytest.approx(0.7), pytest.approx(0.7))


def test_nothing_is_told_of_nothing() -> None:
    assert foresight([]).cases == 0
    assert math.isnan(foresight([]).auc)
    alike = [score(name, 0.5, expected_dice=0.5) for name in "ab"]
    assert math.isnan(foresight(alike).auc)
    assert roc_curve(alike) == roc_curve([]) == []


def test_least_quality_is_reached_by_nineteen_of_twenty() -> None:
    assert least_quality([0.9] * 4) is None
    assert least_quality([0.9, 0.7, 0.8, 0.95, 0.6]) == 0.6
    assert least_quality([number / 100 for number in range(100)]) == 0.05
