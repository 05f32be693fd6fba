"""Splits: by patient, with a seed, independent of order, never empty."""

from collections import Counter
from pathlib import Path

import pytest

from pipeline.records.errors import InputError
from pipeline.records.settings import SplitSettings
from pipeline.records.splits import (
    fold_by_patient,
    patients_by_case,
    refuse_impossible_folds,
    refuse_impossible_fractions,
    split_by_patient,
)

WHERE = Path("configs/x/data.yaml")
HUNDRED = [f"p{number:03d}" for number in range(100)]


def test_fractions_of_patients() -> None:
    splits = split_by_patient(HUNDRED, SplitSettings(0.1, 0.2, 0), where=WHERE)
    assert Counter(splits.values()) == {"train": 70, "validation": 10, "test": 20}


def test_scans_of_one_patient_count_once() -> None:
    assert split_by_patient(HUNDRED * 3, SplitSettings(), where=WHERE) == \
        split_by_patient(HUNDRED, SplitSettings(), where=WHERE)


def test_order_does_not_matter_and_the_seed_does() -> None:
    first = split_by_patient(HUNDRED, SplitSettings(seed=0), where=WHERE)
    assert split_by_patient(reversed(HUNDRED), SplitSettings(seed=0), where=WHERE) == first
    assert split_by_patient(HUNDRED, SplitSettings(seed=1), where=WHERE) != first


def test_a_known_seed_gives_known_patients() -> None:
    # `for p in p1 p2 p3 p4 p5; do echo $(printf "0 $p" | sha256sum) $p; done | sort` gives p5, p2, p3, p1, p4.
    splits = split_by_patient(["p1", "p2", "p3", "p4", "p5"], SplitSettings(0.2, 0.2, 0), where=WHERE)
    assert splits == {"p5": "test", "p2": "validation", "p3": "train", "p1": "train", "p4": "train"}


def test_a_new_patient_moves_few_others() -> None:
    before = split_by_patient(HUNDRED, SplitSettings(), where=WHERE)
    after = split_by_patient([*HUNDRED, "new"], SplitSettings(), where=WHERE)
    # Test and validation are ranks of one order: a newcomer pushes at most one patient over each of two borders.
    assert sum(before[patient] != after[patient] for patient in HUNDRED) <= 2


@pytest.mark.parametrize("count", [3, 4, 7])
def test_small_fractions_still_give_one_patient_each(count: int) -> None:
    splits = split_by_patient(HUNDRED[:count], SplitSettings(0.01, 0.01, 0), where=WHERE)
    assert Counter(splits.values()) == {"train": count - 2, "validation": 1, "test": 1}


@pytest.mark.parametrize(("count", "settings"), [
    (0, SplitSettings()), (1, SplitSettings()), (2, SplitSettings()), (3, SplitSettings(0.4, 0.55, 0)),
])
def test_too_few_patients(count: int, settings: SplitSettings) -> None:
    with pytest.raises(InputError, match=rf"^configs/x/data.yaml: {count} patient\(s\), too few") as caught:
        split_by_patient(HUNDRED[:count], settings, where=WHERE)
    assert caught.value.reason == "empty-split"


@pytest.mark.parametrize("settings", [
    SplitSettings(0, 0.2, 0), SplitSettings(0.1, 1, 0), SplitSettings(-0.1, 0.2, 0),
    SplitSettings(0.1, float("nan"), 0),
    SplitSettings(True, 0.2, 0), SplitSettings("0.1", 0.2, 0), SplitSettings(None, 0.2, 0),  # type: ignore[arg-type]
    SplitSettings(0.6, 0.4, 0),
])
def test_fractions_that_cannot_be_meant(settings: SplitSettings) -> None:
    with pytest.raises(InputError) as caught:
        refuse_impossible_fractions(settings, where=WHERE)
    assert caught.value.reason == "invalid-fraction"


def test_folds_of_known_patients() -> None:
    # The order is p5, p2, p3, p1, p4 as above; p5 is tested on. p1 with its three cases comes first, the others follow.
    patients = ["p1", "p1", "p1", "p2", "p3", "p4", "p5"]
    folds = fold_by_patient(patients, SplitSettings(0.9, 0.2, 0), folds=2, where=WHERE)
    assert folds == {"p5": None, "p1": 0, "p2": 1, "p3": 1, "p4": 1}


def test_those_tested_on_are_the_same_with_and_without_folds() -> None:
    splits = split_by_patient(HUNDRED, SplitSettings(), where=WHERE)
    folds = fold_by_patient(HUNDRED, SplitSettings(), folds=5, where=WHERE)
    assert {patient for patient, fold in folds.items() if fold is None} == \
        {patient for patient, split in splits.items() if split == "test"}
    assert Counter(folds.values()) == {None: 20, **dict.fromkeys(range(5), 16)}


def test_folds_depend_on_the_seed_and_not_on_the_order() -> None:
    first = fold_by_patient(HUNDRED, SplitSettings(), folds=5, where=WHERE)
    assert fold_by_patient(reversed(HUNDRED), SplitSettings(), folds=5, where=WHERE) == first
    assert fold_by_patient(HUNDRED, SplitSettings(seed=1), folds=5, where=WHERE) != first


def test_folds_differ_by_no_more_cases_than_a_patient_has() -> None:
    patients = [patient for number, patient in enumerate(HUNDRED) for _ in range(1 + number % 4)]
    folds = fold_by_patient(patients, SplitSettings(test=0), folds=7, where=WHERE)
    sizes = Counter(folds[patient] for patient in patients)
    assert set(sizes) == set(range(7))
    assert max(sizes.values()) - min(sizes.values()) <= 4


def test_too_few_patients_for_folds() -> None:
    with pytest.raises(InputError, match=r"4 patient\(s\) beside 1 to test on; expected one or more in each of 5"):
        fold_by_patient(HUNDRED[:5], SplitSettings(), folds=5, where=WHERE)
    assert len(fold_by_patient(HUNDRED[:5], SplitSettings(test=0), folds=5, where=WHERE)) == 5


@pytest.mark.parametrize("folds", [1, 0, -5, True, 2.5, "5", [5]])
def test_folds_that_cannot_be_meant(folds: object) -> None:
    with pytest.raises(InputError, match="2 or more") as caught:
        refuse_impossible_folds(folds, where=WHERE)
    assert caught.value.reason == "invalid-folds"


def test_with_folds_nobody_need_be_tested_on_and_validation_counts_for_nothing() -> None:
    refuse_impossible_fractions(SplitSettings(validation=3.0, test=0, seed=0), where=WHERE, folds=5)
    with pytest.raises(InputError, match="0 or more and below 1"):
        refuse_impossible_fractions(SplitSettings(test=1.0), where=WHERE, folds=5)


def test_the_first_group_is_the_patient() -> None:
    patients = patients_by_case(["p007_a", "p007_b", "p012_a"], r"^(p\d+)_([ab])", where=WHERE)
    assert patients == {"p007_a": "p007", "p007_b": "p007", "p012_a": "p012"}


def test_no_cases_have_no_patients() -> None:
    assert patients_by_case([], "(.+)", where=WHERE) == {}


@pytest.mark.parametrize(("pattern", "reason"), [
    ("p", "invalid-pattern"), ("(", "invalid-pattern"), ("(q)", "no-patient"), ("(x?)p", "no-patient"),
    ("(q)|p", "no-patient"),
])
def test_patterns_that_name_no_patient(pattern: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        patients_by_case(["p1", "p2"], pattern, where=WHERE)
    assert caught.value.reason == reason
    assert caught.value.where == str(WHERE)
