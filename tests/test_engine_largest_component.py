"""What is chosen on made-up validation cases: the network's answer is the image itself."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_training import make_training

from pipeline.engine.after_training import ValidationChoices
from pipeline.engine.confidence_choice import ConfidenceChoice
from pipeline.engine.largest_component import LargestComponentChoice
from pipeline.records.confidence import CONFIDENCE, OF_INFERENCE
from pipeline.records.files import sha256_of_file
from pipeline.records.postprocessing import EVERYTHING, LARGEST_COMPONENT, UNDECIDED

ORGAN, LESION = slice(2, 6), slice(8, 10)
CPU = torch.device("cpu")


def scene(*, organ: bool = True, lesions: int = 0, stray: int = 0, label: int = 1) -> torch.Tensor:
    """Returns class indices ``(1, x, y, z)``: a cube of 64 voxels, lesions of 8, and voxels far from all of label 1."""
    volume = torch.zeros((1, 12, 12, 40), dtype=torch.uint8)
    if organ:
        volume[0, ORGAN, ORGAN, ORGAN] = label
    for number in range(lesions):
        start = 8 + 8 * number
        volume[0, LESION, LESION, start : start + 2] = 2
    if stray:
        volume[0, 11, 0, 40 - stray :] = 1
    return volume


def choice_of(cases: Sequence[tuple[torch.Tensor, torch.Tensor]], *, labels: Sequence[str] = ("organ", "lesion"),
              **arguments: Any) -> dict[str, Any]:
    """Returns the choice for pairs of truth and what the network finds."""

    def inferer(image: torch.Tensor, network: torch.nn.Module) -> torch.Tensor:
        return network(torch.nn.functional.one_hot(image[:, 0].long(), len(labels) + 1).movedim(-1, 1).float())

    volumes = [{"image": found.float(), "label": truth} for truth, found in cases]
    choice = LargestComponentChoice({name: 3 * number for number, name in enumerate(labels, start=1)}, **arguments)
    return ValidationChoices(network=torch.nn.Identity(), inferer=inferer, device=CPU, volumes=volumes,
                             choices={"it": choice}).made()["it"]


def test_strays_beside_an_organ_make_it_a_choice_with_its_evidence() -> None:
    clean = (scene(lesions=1), scene(lesions=1))
    choice = choice_of([clean] * 3 + [(scene(lesions=1), scene(lesions=1, stray=4))] * 3)
    assert choice["chosen"] == ["organ"]
    organ = choice["candidates"]["organ"]
    # Dice 2 * 64 / (64 + 68) in half of the cases, 1 in the others and afterwards.
    assert organ["dice_before"] == pytest.approx((1 + 128 / 132) / 2, abs=1e-6)
    assert organ["dice_after"] == 1.0
    # Gains of 0 and 4/132, three each: their standard deviation is 2/132 * sqrt(6/5).
    assert organ["standard_error_of_gain"] == pytest.approx(2 / 132 * (6 / 5) ** 0.5 / 6**0.5, abs=1e-6)
    assert (organ["cases"], organ["truth_components"], organ["truth_components_lost"]) == (6, 6, 0)
    assert choice["candidates"]["lesion"]["worth_it"] is False
    # All together, the lesion would be lost, for it does not touch the organ.
    assert choice["candidates"][EVERYTHING]["truth_components_lost"] == 6


def test_one_lucky_case_is_not_enough_and_two_are() -> None:
    clean, dirty = (scene(), scene()), (scene(), scene(stray=4))
    one = choice_of([dirty] + [clean] * 9)
    assert one["chosen"] == []
    assert one["candidates"]["organ"]["why"] == "the gain is not more than its standard error"
    assert choice_of([dirty] * 2 + [clean] * 8)["chosen"] != []


def test_a_label_of_several_components_is_not_chosen_however_much_dice_it_would_gain() -> None:
    # In nine cases a false lesion of 5 voxels goes; in the tenth a true one of 8 beside another would go with it.
    single = (scene(organ=False, lesions=1), scene(organ=False, lesions=1))
    false = single[1].clone()
    false[0, 0, 0, :5] = 2
    choice = choice_of([(single[0], false)] * 9)
    assert choice["chosen"] == ["lesion"]
    double = scene(organ=False, lesions=2)
    lesion = choice_of([(single[0], false)] * 9 + [(double, double)])["candidates"]["lesion"]
    assert lesion["dice_after"] > lesion["dice_before"] + lesion["standard_error_of_gain"]
    assert (lesion["worth_it"], lesion["why"]) == (False, "1 components of the truth would be lost")


def test_all_labels_as_one_where_that_gains_more() -> None:
    truth = scene()
    found = scene(stray=3)
    found[0, 0, 11, 30:33] = 2
    choice = choice_of([(truth, found)] * 3 + [(truth, scene(stray=3))] * 3)
    assert choice["chosen"] == ["organ"]  # the lesion without truth keeps its Dice of 0 either way
    with_core = truth.clone()
    with_core[0, 3:5, 3:5, 3:5] = 2
    dirty = with_core.clone()
    dirty[0, 11, 11, 20:26] = 1
    dirty[0, 11, 11, 26:38] = 2  # larger than the core, so that alone the core would go
    choice = choice_of([(with_core, dirty)] * 6)
    assert choice["candidates"]["lesion"]["truth_components_lost"] == 6
    assert choice["chosen"] == [EVERYTHING]


def test_few_cases_decide_nothing_and_a_person_decides_without_any() -> None:
    few = choice_of([(scene(), scene(stray=4))] * 4, labels=["organ"])
    assert few["chosen"] == []
    assert few["candidates"]["organ"]["why"] == "fewer than 5 cases"
    assert set(few["candidates"]) == {"organ"}  # a single label is all labels
    assert choice_of([], given=("organ",)) == {"chosen": ["organ"], "why": "set in bundle.yaml"}
    assert choice_of([], given=())["chosen"] == []


def test_no_memory_for_a_case_leaves_all_components_and_the_training_whole() -> None:
    def inferer(_: torch.Tensor, __: torch.nn.Module) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    labels = {"organ": 1}
    choices = {"component": LargestComponentChoice(labels), "given": LargestComponentChoice(labels, ["organ"]),
               "confidence": ConfidenceChoice(labels, [])}
    made = ValidationChoices(network=torch.nn.Identity(), inferer=inferer, device=CPU, choices=choices,
                             volumes=[{"image": scene().float(), "label": scene()}] * 5).made()
    assert made["component"] == {"chosen": [], "why": UNDECIDED}
    assert made["given"]["chosen"] == ["organ"]
    assert made["confidence"] == {"temperature": 1.0, "least_quality": None, "always_there": [], "cases": []}


def test_a_training_ends_with_the_choice_in_its_bundle_the_same_each_time(tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        training = make_training(tmp_path / name, validation="cdefgh")
        assert training.run().exit_code == 0
        choice = json.loads((training.root / "bundle" / LARGEST_COMPONENT).read_text())
        foreground = choice["candidates"]["foreground"]
        assert (choice["cases"], foreground["cases"], foreground["truth_components"]) == (6, 6, 6)
        # A network of twelve iterations finds the block in each case, and strays in the noise.
        assert 0 < foreground["dice_before"] < 1
        inference = training.root / "bundle/configs/inference.yaml"
        config = yaml.safe_load(inference.read_text())
        assert config["largest_component"] == choice["chosen"]
        confidence = json.loads((training.root / "bundle" / CONFIDENCE).read_text())
        assert {key: config[key] for key in OF_INFERENCE} == {key: confidence[key] for key in OF_INFERENCE}
        assert (len(confidence["cases"]), confidence["always_there"]) == (6, [])
        assert confidence["least_quality"] == min(case["quality"] for case in confidence["cases"])
        assert confidence["ece_after"] <= confidence["ece_before"]
        digests.append([sha256_of_file(training.root / "bundle" / name) for name in (LARGEST_COMPONENT, CONFIDENCE)])
        digests[-1].append(sha256_of_file(inference))
        # Its curves have each label's Dice and recall, here those of the only one.
        last = list(csv.DictReader(training.history.open()))[-1]
        assert float(last["validation_dice.foreground"]) == pytest.approx(float(last["validation_dice"]))
        assert 0 < float(last["validation_recall.foreground"]) <= 1
    assert digests[0] == digests[1]


def test_what_bundle_yaml_sets_reaches_inference_untried(tmp_path: Path) -> None:
    training = make_training(tmp_path, largest_component=["foreground"])
    assert training.run().exit_code == 0
    assert "largest_component: [foreground]" in (training.root / "bundle/configs/inference.yaml").read_text()
    choice = json.loads((training.root / "bundle" / LARGEST_COMPONENT).read_text())
    assert choice == {"chosen": ["foreground"], "why": "set in bundle.yaml"}
