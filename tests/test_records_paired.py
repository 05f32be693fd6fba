"""Paired differences against numbers by hand and scipy's Wilcoxon test."""

import math

import numpy as np
import pytest
from scipy import stats
from tiny_scores import absent, score

from pipeline.records.paired import compare_runs, markdown_of


def test_five_patients_by_hand() -> None:
    # Gains of 1 to 5 hundredths: all signs alike are 2 of 2 ** 5 ways to give signs.
    a = [score(f"c{i}", 0.5) for i in range(1, 6)]
    b = [score(f"c{i}", 0.5 + i / 100) for i in range(1, 6)]
    mean, organ = compare_runs(a, b, "dice")
    assert (mean.label, organ.label, organ.pairs, organ.patients) == ("mean", "organ", 5, 5)
    assert (organ.mean_a, organ.mean_b, organ.change) == pytest.approx((0.5, 0.53, 0.03))
    assert (organ.p_value, organ.effect, organ.better, organ.worse) == (2 / 32, 1.0, 5, 0)
    assert organ.verdict == "no difference shown"  # not among so few
    assert organ.interval.low > 0.01
    assert mean.change == organ.change


def test_a_loss_in_a_large_sample_is_a_loss_whichever_way_it_is_read() -> None:
    noise = np.random.default_rng(3).normal(0.0, 0.02, 40)
    a = [score(f"c{i}", 0.8) for i in range(40)]
    b = [score(f"c{i}", 0.78 + noise[i]) for i in range(40)]
    worse, better = compare_runs(a, b, "dice")[0], compare_runs(b, a, "dice")[0]
    assert (worse.verdict, better.verdict) == ("worse", "better")
    assert worse.effect == -better.effect
    # Another test of the same question comes to the same answer.
    wilcoxon = stats.wilcoxon([row.dice for row in b], [row.dice for row in a]).pvalue
    assert worse.p_value == pytest.approx(wilcoxon, abs=2e-3)
    signed = stats.wilcoxon([row.dice for row in b], [row.dice for row in a]).statistic
    ranks = 40 * 41 / 2
    assert abs(worse.effect) == pytest.approx((ranks - 2 * signed) / ranks)


def test_of_distances_less_is_better() -> None:
    a = [score(f"c{i}", 0.8, hd95_mm=3.0 + i / 100) for i in range(20)]
    b = [score(f"c{i}", 0.8, hd95_mm=2.0) for i in range(20)]
    assert (compare_runs(a, b, "hd95_mm")[0].verdict, compare_runs(a, b, "dice")[0].verdict) == (
        "better", "no difference shown")


def test_scans_of_one_patient_count_as_one() -> None:
    a = [score(f"c{i}", 0.5, patient="p") for i in range(30)]
    b = [score(f"c{i}", 0.9, patient="p") for i in range(30)]
    (mean, _) = compare_runs(a, b, "dice")
    assert (mean.pairs, mean.patients, mean.p_value) == (30, 1, 1.0)
    assert math.isnan(mean.interval.low)
    assert mean.verdict == "no difference shown"


def test_a_false_find_where_nothing_is_counts_against_the_run_that_has_it() -> None:
    a = [absent("c1"), score("c2", 0.5), absent("c3")]
    b = [score("c1", 0.0, truth_ml=0.0, status="truth empty"), score("c2", 0.5), absent("c3")]
    _, organ = compare_runs(a, b, "dice")
    # c3 is silent in both and left out.
    assert (organ.pairs, organ.mean_a, organ.mean_b) == (2, 0.75, 0.25)


def test_labels_are_corrected_for_each_other_and_regions_are_no_part_of_the_mean() -> None:
    gains = {"organ": 0.02, "lesion": 0.04, "whole": 0.5}
    a, b = ([score(f"c{i}", 0.4 + way * gain, label=label, is_region=label == "whole")
             for label, gain in gains.items() for i in range(10)] for way in (0, 1))
    mean, organ, lesion, whole = compare_runs(a, b, "dice")
    assert mean.change == pytest.approx(0.03)
    assert organ.p_value == 2 / 2**10
    assert organ.p_holm == lesion.p_holm == whole.p_holm == 3 * organ.p_value


def test_runs_without_a_pair_have_no_difference() -> None:
    assert compare_runs([score("c1", 0.5)], [score("c2", 0.5)], "dice") == ()
    assert compare_runs([absent("c1")], [absent("c1")], "dice") == ()


def test_markdown_has_a_line_for_each_difference() -> None:
    a, b = ([score(case, dice) for case in ("c1", "c2")] for dice in (0.5, 0.25))
    text = markdown_of(compare_runs(a, b, "dice"))
    assert "| dice | organ | 0.5000 | 0.2500 | −0.2500 | −0.2500 to −0.2500 | 0.5000 | −1.00 | 0, 2 of 2 |" in text
