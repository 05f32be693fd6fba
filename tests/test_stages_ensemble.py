"""The ensemble stage: what it takes of each fold, and what it refuses."""

import json
from pathlib import Path

import pytest
import yaml
from tiny_folds import WORK, enter_folds

from pipeline.records.bundles import recorded_digests
from pipeline.records.errors import InputError
from pipeline.records.files import sha256_of_file
from pipeline.stages import ensemble

HISTORY = "iteration,epoch,train_loss,validation_dice\n10,1,{loss},\n20,2,1.0,{dice}\n"

EVIDENCE = [
    '{"chosen": [], "why": "validation cases", "cases": 10, "candidates": {"organ": {"cases": 10, '
    '"truth_components": 9, "truth_components_lost": 0, "dice_before": 0.8, "dice_after": 0.83,'
    ' "standard_error_of_gain": 0.05, "worth_it": false, "why": ""}}}',
    '{"chosen": ["organ"], "why": "validation cases", "cases": 30, "candidates": {"organ": {"cases": 30,'
    ' "truth_components": 30, "truth_components_lost": 0, "dice_before": 0.9, "dice_after": 0.91,'
    ' "standard_error_of_gain": 0.004, "worth_it": true, "why": ""}}}',
]

CONFIDENCE = [
    {"temperature": 1.0, "least_quality": None, "always_there": ["organ", "lesion"],
     "cases": [{"quality": quality, "dice": 0.5} for quality in (0.7, 0.8, 0.9)]},
    {"temperature": 2.25, "least_quality": None, "always_there": ["organ"],
     "cases": [{"quality": quality, "dice": 0.5} for quality in (0.6, 0.8, 0.9)]},
]


@pytest.fixture
def folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two trained folds of an experiment, as their trainings leave them."""
    enter_folds(tmp_path, monkeypatch)
    made = [WORK / f"folds/fold{fold}" for fold in range(2)]
    for fold, folder in enumerate(made):
        for name, text in (("bundle/configs/inference.yaml", "members: null\nlargest_component: []\n"),
                           ("bundle/docs/largest_component.json", EVIDENCE[fold]),
                           ("bundle/docs/confidence.json", json.dumps(CONFIDENCE[fold])),
                           ("bundle/configs/metadata.json", "{}\n"), ("bundle/models/model.pt", f"weights {fold}"),
                           ("history.csv", HISTORY.format(loss=2 + fold, dice=0.5 + 0.25 * fold))):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    return made


def test_one_bundle_holds_the_weights_of_each_fold(folds: list[Path]) -> None:
    ensemble.run("tiny")
    bundle = WORK / "bundle"
    config = yaml.safe_load((bundle / "configs/inference.yaml").read_text())
    # 10 and 30 cases: 0.875 to 0.890, and the root of 0.5 squared and 0.12 squared, over 40, is 0.0129.
    # The root of 1 times 2.25; the lowest of six qualities; the labels that neither fold ever missed.
    assert config == {"members": [0, 1], "largest_component": ["organ"], "temperature": 1.5, "least_quality": 0.6,
                      "always_there": ["organ"]}
    assert len(json.loads((bundle / "docs/confidence.json").read_text())["cases"]) == 6
    assert (bundle / "models/model.fold1.pt").read_text() == "weights 1"
    assert recorded_digests(bundle) == {f"model.fold{fold}.pt": sha256_of_file(folds[fold] / "bundle/models/model.pt")
                                        for fold in range(2)}
    assert (bundle / "docs/history.fold1.csv").read_text() == (folds[1] / "history.csv").read_text()


def test_the_curves_of_the_bundle_are_the_mean_of_those_of_the_folds(folds: list[Path]) -> None:
    ensemble.run("tiny")
    assert (WORK / "history.csv").read_text() == (
        "iteration,epoch,train_loss,validation_dice\n10,1,2.5,\n20,2,1.0,0.625\n")


def test_a_fold_that_is_not_trained_is_named(folds: list[Path]) -> None:
    (folds[1] / "bundle/models/model.pt").unlink()
    with pytest.raises(InputError, match="work/tiny/folds/fold1/bundle: no trained bundle; expected one for each of 2"):
        ensemble.run("tiny")
    assert not (WORK / "bundle").exists()
