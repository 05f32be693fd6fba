import math
from dataclasses import replace

import pytest
from tiny_scores import absent, score

from pipeline.records.index import Index, IndexedCase
from pipeline.records.settings import EvaluationSettings
from pipeline.records.split_metrics import summarise
from pipeline.records.subgroups import columns_of, group_scores

CASE = IndexedCase("c0", "c0", "test", "i.nii", "l.nii", (9, 9, 9), (1.0, 1.0, 2.0), "RAS", {"organ": 1}, "0", "1")


def grouped(column: str, *cases: IndexedCase) -> dict[str, list[str]]:
    """Returns the ids of the cases in each group."""
    rows = [score(case.case_id, 0.5) for case in cases]
    groups = group_scores(rows, {case.case_id: case for case in cases}, column)
    return {name: [row.case_id for row in group] for name, group in groups.items()}


def cases_with(column: str, *values: object) -> list[IndexedCase]:
    return [replace(CASE, case_id=f"c{i}", **{column: value}) for i, value in enumerate(values)]


def test_few_values_are_groups_of_their_own_in_their_order() -> None:
    spacings = [(1.0, 1.0, z) for z in (5.0, 2.0, 5.0)]
    assert grouped("spacing_z_mm", *cases_with("spacing_mm", *spacings)) == {"2": ["c1"], "5": ["c0", "c2"]}
    assert grouped("largest_spacing_mm", *cases_with("spacing_mm", (1.0, 3.0, 2.0))) == {"3": ["c0"]}
    assert grouped("orientation", *cases_with("orientation", "RAS", "LPS")) == {"LPS": ["c1"], "RAS": ["c0"]}
    assert grouped("fold", *cases_with("fold", 1, None, 0)) == {"0": ["c2"], "1": ["c0"], "none": ["c1"]}
    assert list(grouped("fold", *cases_with("fold", *range(12)))) == [str(fold) for fold in range(12)]


def test_many_numbers_become_thirds() -> None:
    spacings = [(1.0, 1.0, float(z)) for z in (6, 1, 2, 3, 4, 5)]
    assert grouped("spacing_z_mm", *cases_with("spacing_mm", *spacings)) == {
        "1 to 2": ["c1", "c2"], "3 to 4": ["c3", "c4"], "5 to 6": ["c0", "c5"]}
    spacings = [(1.0, 1.0, float(z)) for z in (1, 2, 3, 4, 5)]
    assert list(grouped("spacing_z_mm", *cases_with("spacing_mm", *spacings))) == ["1 to 2", "3 to 4", "5"]


def test_attributes_are_columns_and_numbers_among_them_are_numbers() -> None:
    ages = cases_with("attributes", *({"age": age} for age in ("9", "10", "n/a")))
    assert grouped("age", *ages) == {"9": ["c0"], "10": ["c1"], "n/a": ["c2"]}
    assert columns_of(ages)[-1] == "age"


def test_each_label_has_its_own_thirds_by_size_of_what_is_there() -> None:
    rows = [*(score(f"c{i}", 0.5, truth_ml=float(i)) for i in (3, 1, 2)),
            *(score(f"c{i}", 0.5, label="lesion", truth_ml=i / 100) for i in (1, 2, 3)), absent("c4", label="lesion")]
    groups = group_scores(rows, {}, "truth_ml")
    assert {name: [(row.label, row.case_id) for row in group] for name, group in groups.items()} == {
        "smallest third": [("organ", "c1"), ("lesion", "c1")], "middle third": [("organ", "c2"), ("lesion", "c2")],
        "largest third": [("organ", "c3"), ("lesion", "c3")]}


def test_metrics_hold_what_differs_or_what_is_asked_for() -> None:
    cases = cases_with("attributes", {"scanner": "A"}, {"scanner": "A"}, {"scanner": "B"})
    rows = [score("c0", 0.5), score("c1", 0.7, recall=0.9), score("c2", 0.8),
            score("c2", 0.1, label="whole", is_region=True)]
    index = Index("tiny", "data/raw/tiny", "CT", "CC0-1.0", {"organ": 1}, tuple(cases))
    found = summarise(rows, [], index=index, settings=EvaluationSettings(regions={"whole": ["organ"]}))["test"]
    assert set(found["subgroups"]) == {"scanner", "truth_ml"}
    of_a = found["subgroups"]["scanner"]["A"]
    assert (of_a["cases"], of_a["patients"], of_a["dice"]["mean"], of_a["recall"]["mean"]) == (
        2, 2, pytest.approx(0.6), pytest.approx(0.7))
    assert (of_a["dice"]["low"], of_a["dice"]["high"]) == pytest.approx((0.5, 0.7))
    # The region is no label.
    assert found["subgroups"]["scanner"]["B"]["dice"]["mean"] == 0.8
    asked = summarise(rows, [], index=index, settings=EvaluationSettings(subgroups=("orientation",)))["test"]
    assert {name: group["cases"] for name, group in asked["subgroups"]["orientation"].items()} == {"RAS": 3}


def test_folds_vary_by_the_standard_deviation_of_their_means() -> None:
    cases = tuple(cases_with("fold", 0, 0, 1, 2, 3, 4, None))
    rows = [score(f"c{i}", dice) for i, dice in enumerate((0.5, 0.7, 0.7, 0.8, 0.5, 0.9, 0.1))]
    index = Index("tiny", "data/raw/tiny", "CT", "CC0-1.0", {"organ": 1}, cases)
    # 0.6, 0.7, 0.8, 0.5 and 0.9, of which the squares about 0.7 add up to 0.1; the case of no fold is none.
    found = summarise(rows, [], index=index, settings=EvaluationSettings())["test"]["between_folds"]
    assert found["dice"] == pytest.approx((0.1 / 4) ** 0.5)
    without = Index("tiny", "data/raw/tiny", "CT", "CC0-1.0", {"organ": 1}, tuple(cases_with("fold", None)))
    alone = summarise(rows[:1], [], index=without, settings=EvaluationSettings())["test"]["between_folds"]
    assert math.isnan(alone["dice"])


def test_quartiles_are_of_the_defined_scores() -> None:
    rows = [*(score(f"c{i}", i / 4) for i in range(5)), absent("c5")]
    cases = tuple(cases_with("orientation", *["RAS"] * 6))
    index = Index("tiny", "data/raw/tiny", "CT", "CC0-1.0", {"organ": 1}, cases)
    quartiles = summarise(rows, [], index=index, settings=EvaluationSettings())["test"]["quartiles"]["dice"]["organ"]
    assert quartiles == {"min": 0.0, "q1": 0.25, "median": 0.5, "q3": 0.75, "max": 1.0}
