"""Expected Dice by hand, and temperatures of networks that are as sure as they should be or several times too sure."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.engine.cache import CachedCase
from pipeline.engine.confidence import Confidence, expected_dice, quality_of, thinned
from pipeline.engine.confidence_choice import ConfidenceChoice


def logits_of(probability: torch.Tensor) -> torch.Tensor:
    """Returns logits of background and one label with this probability."""
    return torch.stack([torch.zeros_like(probability), torch.logit(probability)])


def test_expected_dice_by_hand() -> None:
    # Predicted are 10 voxels at 0.9 and 4 at 0.6; 5 more have 0.2: 2 * 11.4 / (14 + 11.4 + 1).
    probability = torch.full((8, 6, 4), 1e-12)
    probability[:5, :2, 0], probability[:4, 2, 0], probability[:5, 3, 0] = 0.9, 0.6, 0.2
    assert expected_dice(logits_of(probability)) == pytest.approx([2 * 11.4 / 26.4], rel=1e-5)


def test_it_is_the_mean_dice_over_truths_drawn_from_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand((12, 12, 12), generator=generator) ** 2
    prediction = probability > 0.5
    truths = torch.rand((400, 12, 12, 12), generator=generator) < probability
    dice = 2 * (truths & prediction).sum((1, 2, 3)) / (truths.sum((1, 2, 3)) + prediction.sum())
    assert expected_dice(logits_of(probability)) == pytest.approx([float(dice.mean())], abs=0.003)


def test_a_label_that_is_not_predicted_has_none() -> None:
    logits = torch.zeros((3, 4, 4, 1))
    assert all(map(math.isnan, expected_dice(logits)))
    logits[1, 0, 0, 0] = 5.0
    found = expected_dice(logits, temperature=0.1)
    assert (math.isnan(found[0]), math.isnan(found[1])) == (False, True)
    assert quality_of(found) == found[0]
    assert math.isnan(quality_of([math.nan]))


def test_of_a_large_structure_some_voxels_stand_for_all() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn((2, 160, 160, 160), generator=generator)
    logits[1, 30:130, 30:130, 30:130] += 4
    assert thinned(logits).shape == (2, 80, 80, 80)
    whole = logits.softmax(0)[1]
    mask = logits[1] > logits[0]
    exact = 2 * float(whole[mask].sum()) / float(mask.sum() + whole.sum())
    assert expected_dice(logits) == pytest.approx([exact], abs=0.002)


@pytest.mark.parametrize(("times", "wanted"), [(1.0, 1.0), (2.0, 2.0), (0.7, 2**-0.5)])
def test_a_network_that_is_so_many_times_too_sure_gets_that_temperature(times: float, wanted: float) -> None:
    choice = ConfidenceChoice({"organ": 7}, [])
    generator = torch.Generator().manual_seed(2)
    for _ in range(6):
        logit = 2 * torch.randn((24, 24, 24), generator=generator)
        truth = torch.rand(logit.shape, generator=generator) < logit.sigmoid()
        choice.see(truth.numpy().astype(np.uint8), times * torch.stack([torch.zeros_like(logit), logit]))
    made = choice.made()
    assert made["temperature"] == pytest.approx(wanted, rel=1e-5)
    assert made["ece_after"] < 0.01
    if times == 2.0:
        assert made["ece_before"] > 0.04
    # Of probabilities that mean what they say, the expected Dice is the Dice.
    for case in made["cases"]:
        assert case["quality"] == pytest.approx(case["dice"], abs=0.01)
    assert made["least_quality"] == min(case["quality"] for case in made["cases"])
    assert made["always_there"] == []


def test_few_cases_make_nothing_usual_and_none_leave_all_as_it_is() -> None:
    choice = ConfidenceChoice({"organ": 1}, [])
    empty = np.zeros((4, 4, 4), dtype=np.uint8)
    silent = torch.stack([torch.ones(4, 4, 4), torch.zeros(4, 4, 4)])
    choice.see(empty, silent)
    assert choice.made() == choice.undecided()
    choice.see(np.ones_like(empty), silent)
    made = choice.made()
    assert (made["least_quality"], made["always_there"], made["cases"]) == (None, [], [{"quality": None, "dice": 0.0}])


def test_a_label_is_always_there_if_no_case_of_training_or_validation_lacks_it(tmp_path: Path) -> None:
    everything, organ = np.array([[[0, 1, 2]]], dtype=np.uint8), np.array([[[0, 1, 0]]], dtype=np.uint8)
    cases = [CachedCase(f"c{number}", "train", tmp_path, "", "") for number in range(19)]
    for case in cases:
        np.save(tmp_path / f"{case.case_id}.label.npy", everything)

    def always_there(training: list[CachedCase], seen: np.ndarray = everything) -> list[str]:
        choice = ConfidenceChoice({"organ": 1, "lesion": 2}, training)
        choice.see(seen, torch.rand(3, 1, 1, 3))
        found: list[str] = choice.made()["always_there"]
        return found

    assert always_there(cases) == ["organ", "lesion"]
    assert always_there(cases, seen=organ) == ["organ"]
    assert always_there(cases[1:]) == []  # too few to say
    np.save(tmp_path / "c7.label.npy", organ)
    assert always_there(cases) == ["organ"]


def test_what_is_not_sure_is_said() -> None:
    confidence = Confidence(1.0, least_quality=0.8, always_there=("organ",))
    assert list(confidence.doubts({"organ": 0.9, "lesion": math.nan}, 0.9)) == []
    assert list(confidence.doubts({"organ": 0.7}, 0.7)) == [
        "expected Dice 0.70: 95% of the validation scans have 0.80 or more"]
    assert list(confidence.doubts({"organ": math.nan}, math.nan)) == [
        "no organ found: it is in every scan of training and validation"]
