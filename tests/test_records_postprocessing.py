"""What report and model card say about largest components."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.records.postprocessing import LARGEST_COMPONENT, UNDECIDED, joint_choice, postprocessing_of

BETTER = {"dice_before": 0.934, "dice_after": 0.9412}


@pytest.mark.parametrize(("choice", "sentence"), [
    ({"chosen": [], "why": "set in bundle.yaml"}, "All components of all labels are kept, as bundle.yaml says."),
    ({"chosen": [], "why": UNDECIDED},
     "All components of all labels are kept: no memory to segment a validation case as a whole."),
    ({"chosen": ["organ"], "why": "set in bundle.yaml"},
     "Only the largest component of organ is kept, as bundle.yaml says."),
    ({"chosen": [], "cases": 7, "candidates": {}},
     "All components of all labels are kept: to drop any was not worth it on 7 validation cases."),
    ({"chosen": ["organ", "cyst"], "cases": 7, "candidates": {"organ": BETTER, "cyst": BETTER}},
     "Only the largest component of organ and of cyst is kept: on 7 validation cases, which chose it, the mean Dice "
     "rose from 0.9340 to 0.9412, 0.9340 to 0.9412."),
    ({"chosen": ["*"], "cases": 7, "candidates": {"*": BETTER}},
     "Only the largest component of all labels together is kept: on 7 validation cases, which chose it, the mean Dice "
     "rose from 0.9340 to 0.9412."),
])
def test_the_sentence(choice: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / LARGEST_COMPONENT).write_text(json.dumps(choice))
    assert postprocessing_of(tmp_path) == sentence


def test_a_bundle_without_the_file_says_nothing(tmp_path: Path) -> None:
    assert postprocessing_of(tmp_path) == ""


def of_fold(cases: int, before: float, after: float, error: float, lost: int = 0) -> dict[str, Any]:
    return {"cases": cases, "dice_before": before, "dice_after": after, "standard_error_of_gain": error,
            "truth_components": cases, "truth_components_lost": lost, "worth_it": False, "why": ""}


@pytest.mark.parametrize(("organ", "everything", "chosen"), [
    # Gains of 0.03 in 10 cases and 0.01 in 30 are 0.015 in all, with a standard error of 0.0129.
    ([of_fold(10, 0.80, 0.83, 0.05), of_fold(30, 0.90, 0.91, 0.004)], [of_fold(20, 0.9, 0.9, 0.01)] * 2, ["organ"]),
    # With one of 0.65 over 40 it is 0.0165.
    ([of_fold(10, 0.80, 0.83, 0.065), of_fold(30, 0.90, 0.91, 0.004)], [of_fold(20, 0.9, 0.9, 0.01)] * 2, []),
    ([of_fold(10, 0.80, 0.83, 0.001), of_fold(30, 0.90, 0.91, 0.001, lost=1)], [of_fold(20, 0.9, 0.9, 0.01)] * 2, []),
    # All labels as one gain 0.02, the organ 0.03, half of that in the mean over both labels.
    ([of_fold(20, 0.80, 0.83, 0.001)] * 2, [of_fold(20, 0.90, 0.92, 0.001)] * 2, ["*"]),
    ([of_fold(20, 0.80, 0.83, 0.001)] * 2, [of_fold(20, 0.90, 0.91, 0.001)] * 2, ["organ"]),
    # One case of one fold, changed by 0.013: its gain is its error, but for what rounding to six decimals adds.
    ([of_fold(9, 0.912345, 0.91379, 0.001444), of_fold(10, 0.9, 0.9, 0)], [of_fold(20, 0.9, 0.9, 0)] * 2, []),
], ids=["clear together", "not clear", "a component lost", "everything is better", "everything is worse", "a tie"])
def test_folds_choose_together(organ: list[Any], everything: list[Any], chosen: list[str]) -> None:
    choices = [{"chosen": [], "why": "validation cases", "cases": one["cases"],
                "candidates": {"organ": one, "cyst": of_fold(20, 0.5, 0.5, 0.0), "*": of_all}}
               for one, of_all in zip(organ, everything, strict=True)]
    joint = joint_choice(choices)
    assert joint["chosen"] == chosen
    assert joint["cases"] == sum(one["cases"] for one in organ)


def test_a_fold_with_too_few_cases_counts_by_what_it_would_lose() -> None:
    few = {"cases": 2, "truth_components": 2, "truth_components_lost": 1, "worth_it": False, "why": "fewer"}
    clear = of_fold(20, 0.8, 0.9, 0.001)
    for lost, chosen in ((0, ["organ"]), (1, [])):
        choices = [{"chosen": [], "cases": 20, "candidates": {"organ": one}}
                   for one in (clear, few | {"truth_components_lost": lost})]
        assert joint_choice(choices)["chosen"] == chosen


def test_one_fold_without_a_choice_leaves_all_without() -> None:
    chose = {"chosen": ["organ"], "cases": 20, "candidates": {"organ": of_fold(20, 0.8, 0.9, 0.001)}}
    undecided = {"chosen": [], "why": UNDECIDED}
    assert joint_choice([chose, undecided]) == undecided


def test_what_a_person_chose_holds_for_all_folds() -> None:
    given = {"chosen": ["organ"], "why": "set in bundle.yaml"}
    assert joint_choice([given, given]) == given
