"""Summaries of scores, worked out by hand."""

import math
from dataclasses import replace

import pytest

from pipeline.records.index import Index, IndexedCase
from pipeline.records.summaries import (
    Spread,
    rank_cases,
    size_class,
    size_classes,
    summarise_group,
    summarise_label,
    verdict,
    worst_and_best,
)
from pipeline.records.tables import CaseScore

NAN = math.nan


def score(case_id: str, label: str, dice: float, *, truth_ml: float = 10.0, prediction_ml: float = 8.0,
          hd95_mm: float = 2.0) -> CaseScore:
    """Returns a row whose recall and precision are its Dice."""
    return CaseScore(case_id, case_id, "test", label, False, dice, dice, dice, dice, 1.0, hd95_mm, hd95_mm, dice,
                     truth_ml, prediction_ml, 0.0, 1, 0, NAN, False, "scored")


ROWS = [
    score("a", "organ", 0.9), score("a", "lesion", 0.5, hd95_mm=9.0),
    score("b", "organ", 0.8), score("b", "lesion", NAN, truth_ml=0.0, prediction_ml=0.0, hd95_mm=NAN),
    score("c", "organ", 0.4), score("c", "lesion", 0.1, hd95_mm=4.0),
]


def test_a_region_is_no_part_of_a_cases_mean() -> None:
    whole = replace(score("a", "whole", 0.1), is_region=True)
    assert rank_cases([*ROWS, whole])[1].case_id == "a"
    assert rank_cases([*ROWS, whole])[1].dice == pytest.approx(0.7)


def test_a_label_has_mean_median_and_worst_of_its_defined_scores() -> None:
    organ, lesion = summarise_label("organ", ROWS), summarise_label("lesion", ROWS)
    assert organ.dice == Spread(pytest.approx(0.7), 0.8, 0.4, 3)
    assert lesion.dice == Spread(pytest.approx(0.3), pytest.approx(0.3), 0.1, 2)
    assert lesion.hd95_mm == Spread(6.5, 6.5, 9.0, 2)
    assert (organ.present, lesion.present) == (3, 2)
    # 24 mL predicted of 30 mL.
    assert organ.volume_bias == pytest.approx(-0.2)


def test_a_label_without_cases_has_no_scores() -> None:
    none = summarise_label("nothing", ROWS)
    assert (none.dice.count, none.present) == (0, 0)
    assert math.isnan(none.dice.mean)
    assert math.isnan(none.volume_bias)


def test_cases_are_ranked_by_mean_dice_and_undefined_ones_are_last() -> None:
    ranked = rank_cases([*ROWS, score("d", "organ", NAN)])
    assert [(case.case_id, case.dice) for case in ranked[:3]] == [
        ("c", pytest.approx(0.25)), ("a", pytest.approx(0.7)), ("b", 0.8)]
    assert ranked[3].case_id == "d"


@pytest.mark.parametrize(("count", "worst", "best"), [(1, "a", "e"), (2, "ab", "ed"), (4, "abc", "ed"), (0, "", "")])
def test_worst_and_best_never_share_a_case(count: int, worst: str, best: str) -> None:
    ranked = rank_cases([score(name, "organ", (number + 1) / 10) for number, name in enumerate("abcde")])
    groups = worst_and_best(ranked, count)
    assert tuple("".join(case.case_id for case in group) for group in groups) == (worst, best)


def test_lost_and_undefined_cases_are_neither_worst_nor_best() -> None:
    rows = [replace(score("lost", "organ", 0.0), status="failed"), score("a", "organ", 0.5), score("u", "organ", NAN)]
    assert [[case.case_id for case in group] for group in worst_and_best(rank_cases(rows), 4)] == [["a"], []]


def test_a_split_counts_patients_cases_and_labels() -> None:
    def case(case_id: str, patient: str, split: str, lesion_voxels: int) -> IndexedCase:
        return IndexedCase(case_id, patient, split, "i", "l", (2, 2, 2), (1.0, 1.0, 1.0), "RAS",  # type: ignore[arg-type]
                           {"organ": 4, "lesion": lesion_voxels}, "0", "1")

    index = Index("tiny", "data", "CT", "CC0-1.0", {"organ": 1, "lesion": 2},
                  (case("a", "p1", "test", 0), case("b", "p1", "test", 3), case("c", "p2", "train", 3)))
    summary = summarise_group("test", index.in_split("test"), index)
    assert (summary.patients, summary.cases, summary.cases_with) == (1, 2, {"organ": 2, "lesion": 1})


def test_the_verdict_names_weakest_label_worst_case_lesions_and_losses() -> None:
    rows = [*ROWS, replace(score("z", "organ", 0.0), status="failed")]
    labels = [summarise_label(label, rows) for label in ("organ", "lesion")]
    # Organ (0.9 + 0.8 + 0.4 + 0) / 4 = 0.525, lesion 0.3.
    assert verdict(labels, rank_cases(rows), found=3, lesions=5) == (
        "Mean test Dice 0.412 over 4 cases. Weakest label: lesion, 0.300. Worst case: z, 0.000. 3 of 5 lesions found. "
        "1 of 4 scans lost: inference failed.")
    assert verdict([], (), found=0, lesions=0) == "No test case has a score."


@pytest.mark.parametrize(("diameter_mm", "expected"), [
    (2.9, "under 3 mm"), (3.0, "3-6 mm"), (5.99, "3-6 mm"), (6.0, "6-10.5 mm"), (10.5, "10.5 mm or more"),
])
def test_size_classes_are_closed_below(diameter_mm: float, expected: str) -> None:
    assert size_class(diameter_mm, (3.0, 6.0, 10.5)) == expected
    assert size_classes((3.0, 6.0, 10.5)) == ("under 3 mm", "3-6 mm", "6-10.5 mm", "10.5 mm or more")
