from dataclasses import replace

from tiny_scores import score

from pipeline.records.index import Index, IndexedCase
from pipeline.stages.track import datasets_of, out_of_fold


def case(case_id: str, split: str = "train", fold: int | None = None) -> IndexedCase:
    return IndexedCase(case_id, f"patient-{case_id[0]}", split, "i", "l", (1, 1, 1), (1.0, 1.0, 1.0), "RAS",  # type: ignore[arg-type]
                       {"organ": 5 if case_id[0] == "a" else 0}, f"image {case_id}", f"label {case_id}", fold)


def index_of(*cases: IndexedCase) -> Index:
    return Index("liver", "data/raw/liver", "CT", "CC0", {"organ": 1}, cases)


FOLDS = index_of(case("a1", fold=0), case("a2", fold=0), case("b1", fold=1), case("c1", "test"))


def test_each_purpose_has_its_cases_patients_and_digest() -> None:
    index = index_of(case("a1"), case("a2"), case("b1", "validation"), case("c1", "test"))
    found = {one.context: one for one in datasets_of(index)}
    assert {context: one.counts["cases"] for context, one in found.items()} == {
        "training": 2, "validation": 1, "evaluation": 1}
    assert found["training"].counts == {"cases": 2, "patients": 1, "cases_with_label": {"organ": 2}}
    assert len({one.digest for one in found.values()}) == 3
    assert (found["training"].name, found["training"].root) == ("liver", "data/raw/liver")
    # No name of a case or patient.
    assert "a1" not in str(found) and "patient-" not in str(found)  # noqa: PT018
    changed = index_of(replace(index.cases[0], label_sha256="other"), *index.cases[1:])
    assert {one.context for one in datasets_of(changed) if one.digest != found[one.context].digest} == {"training"}


def test_a_fold_trains_on_the_others() -> None:
    assert {one.context: one.counts["cases"] for one in datasets_of(FOLDS)} == {"training": 3, "evaluation": 1}
    assert {one.context: one.counts["cases"] for one in datasets_of(FOLDS, 0)} == {"training": 1, "validation": 2}
    own, = (one for one in datasets_of(FOLDS, 1) if one.context == "validation")
    assert own.counts["patients"] == 1


def test_out_of_fold_scores_are_means_over_the_cases_that_the_fold_did_not_see() -> None:
    rows = [score("a1", 0.5), score("a2", 0.75, recall=1.0), score("b1", 0.25), score("c1", 0.0),
            score("a1", 0.0, label="whole", is_region=True)]
    assert out_of_fold(rows, FOLDS, 0) == {"out_of_fold.dice": 0.625, "out_of_fold.recall": 0.75}
    assert out_of_fold(rows[1:], FOLDS, 1) == {"out_of_fold.dice": 0.25, "out_of_fold.recall": 0.25}
    assert out_of_fold([], FOLDS, 1) == {}
